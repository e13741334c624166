"""The verb ``pseudo-label``: propose, accept, rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.display import Display
from medseg.cli.options import DeviceOption, JsonOption
from medseg.cli.output import print_json


def pseudo_label(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="[SCANS]...", help="Files or folders of unlabelled scans.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Table (CSV) of boxes and points: case, label, coordinates.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Promptable network's folder, weights of MedSAM or SAM, or a name."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for proposals; with --accept for the dataset.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", help="Dataset labelled by hand that the proposals are to join.")
    ] = None,
    sure: Annotated[
        float, typer.Option("--sure", help="Part of the draws that must agree on a voxel; else it is ignored.")
    ] = 0.8,
    accept_above: Annotated[
        float | None, typer.Option("--accept-above", help="Objects of this confidence come accepted into the list.")
    ] = None,
    accept: Annotated[
        Path | None, typer.Option("--accept", metavar="LIST", help="Write what the list accepts as a dataset.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option("--splits", help="With --accept: folds of the cases labelled by hand, to be kept.")
    ] = None,
    rank: Annotated[
        Path | None, typer.Option("--rank", metavar="LIST", help="Print which scans to look at next.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="auto, unet, medsam, sam, medsam2, sam2 or sam3.")] = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """From boxes on unlabelled scans to a dataset: propose masks, decide in a list, accept.

    Example: `medseg pseudo-label scans/ --prompts boxes.csv --checkpoint MODEL --dataset labelled/ -o proposals/`,
    then write accept or reject into `proposals/proposals.csv`, then
    `medseg pseudo-label --accept proposals/proposals.csv -o dataset/`
    """
    from medseg.errors import UsageError

    proposing = (prompts, checkpoint, dataset, accept_above, *(inputs or ()))
    if (accept is not None) + (rank is not None) + any(value is not None for value in proposing) != 1:
        raise UsageError(
            "pseudo-label: give SCANS with --prompts, --checkpoint and -o, or --accept LIST with -o, or --rank LIST"
        )
    if splits is not None and accept is None:
        raise UsageError("pseudo-label --splits: goes with --accept LIST")
    if rank is not None:
        _print_ranking(rank, as_json)
    elif output is None:
        raise UsageError(f"pseudo-label: where to? for example: -o {'dataset/' if accept else 'proposals/'}")
    elif accept is not None:
        _accept(accept, output, splits, as_json)
    elif not inputs or prompts is None or checkpoint is None:
        missing = "SCANS" if not inputs else "--checkpoint" if prompts is not None else "--prompts"
        raise UsageError(f"pseudo-label: {missing} is missing; proposals need SCANS, --prompts and --checkpoint")
    else:
        _propose(inputs, prompts, checkpoint, output, dataset, sure, accept_above, engine, device, as_json)


def _propose(
    inputs: list[Path],
    prompts: Path,
    checkpoint: Path,
    output: Path,
    dataset: Path | None,
    sure: float,
    accept_above: float | None,
    engine: str,
    device: str,
    as_json: bool,
) -> None:
    from medseg.errors import CasesFailedError
    from medseg.pseudo_labels import propose, read_prompts

    with Display(quiet=as_json) as display:
        done = propose(
            inputs,
            read_prompts(prompts),
            checkpoint,
            output,
            labelled=dataset,
            sure=sure,
            accept_above=accept_above,
            engine=engine,
            device=device,
            progress=display,
        )
    if as_json:
        print_json(
            {
                "list": str(done.list_file),
                "confidence": {proposal.case: proposal.confidence for proposal in done.proposals},
                "failures": dict(done.failures),
            }
        )
    else:
        typer.echo(f"{len(done.proposals)} cases proposed; decide in {done.list_file}, mend masks in {output}/masks")
        typer.echo(f"then: medseg pseudo-label --accept {done.list_file} -o DATASET")
    if done.failures:
        raise CasesFailedError("pseudo-label", done.failures, len(done.failures) + len(done.proposals))


def _accept(list_file: Path, output: Path, splits: Path | None, as_json: bool) -> None:
    from medseg.errors import CasesFailedError
    from medseg.pseudo_labels import accept

    with Display(quiet=as_json) as display:
        done = accept(list_file, output, splits_file=splits, progress=display)
    if as_json:
        print_json(
            {
                "dataset": str(done.folder),
                "by_hand": done.by_hand,
                "proposed": done.proposed,
                "left_out": done.left_out,
                "failures": dict(done.failures),
            }
        )
    else:
        typer.echo(
            f"{output}: {len(done.by_hand)} cases labelled by hand, {len(done.proposed)} proposed and accepted,"
            f" {len(done.left_out)} left out"
        )
        folds = f" --splits {output}/splits.json" if done.has_splits else ""
        typer.echo(f"next: medseg plan {output}{folds}")
        if not done.has_splits:
            typer.echo("note: fewer than two patients are labelled by hand, so folds will validate on proposals")
    if done.failures:
        raise CasesFailedError("pseudo-label --accept", done.failures, len(done.failures) + len(done.proposed))


def _print_ranking(list_file: Path, as_json: bool) -> None:
    from medseg.pseudo_labels import rank

    ranked = rank(list_file)
    if as_json:
        print_json([vars(each) for each in ranked])
        return
    width = max(4, *(len(each.case) for each in ranked))
    typer.echo(f"{'case':<{width}}  confidence  undecided  least sure of")
    for each in ranked:
        typer.echo(f"{each.case:<{width}}  {each.confidence:>10.4f}  {each.undecided:>9}  {each.label}")
