"""The verb ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli import SOME_FAILED, parse
from medseg.cli.display import Display
from medseg.cli.options import (
    DEFAULT_WORKSPACE,
    ConfigurationOption,
    DeviceOption,
    EngineOption,
    FixSpacingOption,
    JsonOption,
    ModalityOption,
    PrecisionOption,
    ResampleOption,
    SeriesOption,
    SuvOption,
    WorkspaceOption,
)
from medseg.cli.output import print_json
from medseg.cli.signals import StopOnSignal

if TYPE_CHECKING:
    from medseg.dicom.mask_writing import MaskFormat
    from medseg.prediction import Choice, Estimate, Predictions
    from medseg.trust import CaseTrust

MOST_SHOWN = 10


class Format(StrEnum):
    same = "same"
    nifti = "nifti"
    seg = "seg"
    rtstruct = "rtstruct"


def predict(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Scans, or folders of them.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A file for one case, else a folder.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    model: Annotated[
        list[Path] | None,
        typer.Option("-m", "--model", help="Model folder or zip, instead of -w; given again, another to average with."),
    ] = None,
    configuration: ConfigurationOption = None,
    fold: Annotated[str | None, typer.Option("--fold", help="Folds to average. [default: all trained]")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    engine: EngineOption = "auto",
    no_mirror: Annotated[bool, typer.Option("--no-mirror", help="Do not average mirrored copies: faster.")] = False,
    step: Annotated[float, typer.Option(help="Distance of windows as part of the patch.")] = 0.5,
    max_ram: Annotated[str | None, typer.Option("--max-ram", help="Memory not to exceed, such as 8GB.")] = None,
    max_vram: Annotated[str | None, typer.Option("--max-vram", help="GPU memory not to exceed, such as 6GB.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the memory and time that each scan will take; predict nothing.")
    ] = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write CASE.npz.")] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write how undecided the prediction is, in percent, as images.")
    ] = False,
    series: SeriesOption = None,
    modality: ModalityOption = "",
    fix_spacing: FixSpacingOption = False,
    suv: SuvOption = False,
    resample: ResampleOption = False,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Also say how far each mask can be trusted, in trust.csv and trust.json; after `medseg calibrate`.",
        ),
    ] = False,
    output_format: Annotated[
        Format, typer.Option("--format", help="File format of masks; seg, rtstruct: DICOM objects.")
    ] = Format.same,
    as_json: JsonOption = False,
) -> None:
    """Segment scans: each mask lies on the grid of its scan and is named after its case.

    Example: `medseg predict scans/ -o masks/ -m workspace/models/3d_fullres`

    Of a folder with DICOM studies every series that can be a scan is a case, named by its UID; a model of CT passes
    over other modalities: `medseg predict STUDIES/ -o masks/ --modality CT --series "portal venous"`
    """
    from medseg.dicom import SeriesChoice
    from medseg.errors import CasesFailedError, UsageError
    from medseg.prediction import (
        Choice,
        PredictionSettings,
        Wishes,
        choice_of,
        estimate_cases,
        jobs_for,
        load_predictor,
        predict_files,
    )
    from medseg.trust import trust_for
    from medseg.workspace import Workspace

    if model and configuration is not None:
        raise UsageError("predict: -m names a model and -c one of a workspace; give one of them")
    choice = Choice(tuple(model)) if model else choice_of(Workspace.open(workspace), configuration)
    folds = None if fold in (None, "all") else parse.folds(fold or "", 1000)
    wishes = Wishes(probabilities, uncertainty, trust_for(choice.models) if trust else None)
    settings = PredictionSettings(
        mirror=not no_mirror,
        step=step,
        max_ram_bytes=parse.size_bytes(max_ram, "--max-ram") if max_ram else None,
        max_vram_bytes=parse.size_bytes(max_vram, "--max-vram") if max_vram else None,
        engine=engine,
    )
    wanted = SeriesChoice(tuple(series or ()), modality, fix_spacing, suv, resample)
    if estimate:
        with Display(quiet=as_json) as display:
            predictor = load_predictor(choice.models, folds, device, precision, settings)
            estimates = estimate_cases(
                predictor, jobs_for(inputs, "", predictor, wanted=wanted)[0], wishes, progress=display
            )
        if as_json:
            print_json(_estimates_document(estimates))
        else:
            typer.echo(_estimates_text(estimates))
        return
    if output is None:
        raise UsageError("predict: where do the masks go? for example: -o masks/")
    stop = StopOnSignal()
    with Display(quiet=as_json) as display, stop:
        result = predict_files(
            inputs,
            output,
            models=choice.models,
            folds=folds,
            device=device,
            precision=precision,
            settings=settings,
            steps=choice.steps,
            wishes=wishes,
            ending=".nii.gz" if output_format is Format.nifti else None,
            wanted=wanted,
            format=_dicom_format(output_format),
            should_stop=stop,
            progress=display,
        )
    if as_json:
        print_json(_result_document(result, choice, trust))
    if result.failures:
        raise CasesFailedError("predict", result.failures, len(result.failures) + len(result.masks))
    if stop():
        typer.echo(f"stopped with {len(result.masks)} masks; the same command goes on with what is missing", err=True)
        raise typer.Exit(SOME_FAILED)
    if as_json:
        return
    kept = f" ({len(result.kept)} of them made before)" if result.kept else ""
    typer.echo(f"{len(result.masks)} masks in {output}{kept}")
    if choice.followed is not None:
        typer.echo(f"predicted with {choice}, as {choice.followed} says")
    if trust:
        typer.echo(_trust_text(_by_trust(result)))


def _by_trust(result: Predictions) -> list[CaseTrust]:
    return sorted(result.trust.values(), key=lambda verdict: verdict.order)


def _result_document(result: Predictions, choice: Choice, trust: bool) -> dict[str, Any]:
    """What became of each case, for programs."""
    from medseg import documents

    document = {
        "models": [str(path) for path in choice.models],
        "steps": [str(step) for step in choice.steps],
        "cases": {case: str(path) for case, path in result.masks.items()},
        "failures": dict(result.failures),
    }
    if trust:
        ordered = _by_trust(result)
        document["trust"] = [documents.to_json(verdict) for verdict in ordered]
        document["look_at"] = [verdict.case for verdict in ordered if verdict.reasons]
    return document


def _trust_text(verdicts: Sequence[CaseTrust]) -> str:
    """The cases that a person should look at, each with its reasons."""
    worrying = [verdict for verdict in verdicts if verdict.reasons]
    lines = [f"{verdict.case}: {'; '.join(verdict.reasons)}" for verdict in worrying[:MOST_SHOWN]]
    if len(worrying) > MOST_SHOWN:
        lines.append(f"and {len(worrying) - MOST_SHOWN} more in trust.csv")
    return "\n".join([f"look at {len(worrying)} of {len(verdicts)} masks", *lines])


def _dicom_format(output_format: Format) -> MaskFormat | None:
    match output_format:
        case Format.seg:
            return "seg"
        case Format.rtstruct:
            return "rtstruct"
        case _:
            return None


def _estimates_text(estimates: Sequence[Estimate]) -> str:
    """Memory and time of each case as a table for the terminal."""
    width = max(4, *(len(each.case) for each in estimates))
    lines = [f"{'case':<{width}}  {'RAM':>9}  {'VRAM':>9}  {'time':>9}"]
    for each in estimates:
        ram, vram = (f"{count / 1e9:.2f} GB" for count in (each.need.ram_bytes, each.need.vram_bytes))
        lines.append(f"{each.case:<{width}}  {ram:>9}  {vram:>9}  {each.seconds:>7.1f} s")
    return "\n".join(lines)


def _estimates_document(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """The same for programs."""
    return {
        each.case: {
            "ram_bytes": each.need.ram_bytes,
            "vram_bytes": each.need.vram_bytes,
            "seconds": round(each.seconds, 2),
        }
        for each in estimates
    }
