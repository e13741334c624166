"""The verb ``finetune-sam``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import SOME_FAILED
from medseg.cli.display import Display
from medseg.cli.options import DeviceOption, JsonOption
from medseg.cli.output import print_json
from medseg.cli.signals import StopOnSignal


def finetune_sam(
    dataset: Annotated[Path, typer.Argument(help="A workspace, whose folds are kept, or a dataset.")],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", help="Weights of MedSAM or SAM to begin with: a path or a name.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the tuned weights.")],
    fold: Annotated[
        int, typer.Option("--fold", min=0, help="Its training cases teach, its held-out ones measure.")
    ] = 0,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Length.")] = 10_000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Slices a step.")] = 2,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Constant, of AdamW.")] = 1e-4,
    learn: Annotated[
        str,
        typer.Option(
            "--learn",
            help="all, or of the image encoder low-rank updates only (lora), or nothing (decoder): less memory.",
        ),
    ] = "all",
    engine: Annotated[str, typer.Option("--engine", help="How slices are shown: medsam or sam.")] = "medsam",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Fine-tune MedSAM or SAM on a dataset's labels, from a loose box a slice. A run that stopped goes on.

    Example: `medseg finetune-sam workspace --checkpoint medsam_vit_b.pth -o medsam_tuned`
    """
    from medseg.dataset import Dataset
    from medseg.errors import UsageError
    from medseg.prompting.sam.trainer import LEARN
    from medseg.prompting.sam.training import finetune_sam as finetune
    from medseg.splits import make_splits
    from medseg.workspace import Workspace

    if engine not in ("medsam", "sam"):
        raise UsageError(f"--engine {engine}: expected medsam or sam")
    if learn not in LEARN:
        raise UsageError(f"--learn {learn}: expected one of {', '.join(LEARN)}")
    if not learning_rate > 0:
        raise UsageError(f"--learning-rate {learning_rate}: expected a number above 0")
    if (dataset / "plan.json").is_file():
        workspace = Workspace.open(dataset)
        opened, split = workspace.dataset, workspace.split(fold)
    else:
        opened = Dataset.open(dataset)
        groups = {case.name: case.group for case in opened.cases if case.group is not None}
        folds = make_splits([case.name for case in opened.cases], groups)
        if fold >= len(folds):
            raise UsageError(f"--fold {fold}: there are folds 0-{len(folds) - 1}")
        split = folds[fold]
    stop = StopOnSignal()
    with Display(quiet=as_json) as display, stop:
        history = finetune(
            opened,
            split,
            checkpoint,
            output,
            iterations=iterations,
            batch_size=batch,
            learning_rate=learning_rate,
            learn=learn,
            style="medsam" if engine == "medsam" else "sam",
            device=device,
            should_stop=stop,
            progress=display,
        )
    if history is None:
        typer.echo("stopped; the same command goes on")
        raise typer.Exit(SOME_FAILED)
    before, after = history[0].mean_dice, history[-1].mean_dice
    if as_json:
        print_json({"folder": str(output), "dice_before": before, "dice_after": after})
        return
    typer.echo(f"Dice on held-out slices, from exact boxes: {before:.4f} before, {after:.4f} after {iterations} steps")
    typer.echo(f"use it with: medseg prompt IMAGE -o MASK --checkpoint {output} --engine {engine}")
