"""The verb ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import parse
from medseg.cli.display import Display
from medseg.cli.options import (
    DEFAULT_WORKSPACE,
    ConfigurationOption,
    DeviceOption,
    PrecisionOption,
    WorkersOption,
    WorkspaceOption,
)
from medseg.cli.output import print_summary
from medseg.cli.signals import StopOnSignal


def train(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[fold FOLDS]", help="`fold 0-4` says the same as `--fold 0-4`.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    configuration: ConfigurationOption = None,
    fold: Annotated[str | None, typer.Option("--fold", help="Folds: 3, 0-4, 0,2 or all.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length in epochs of 250 iterations.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Length in iterations.")] = None,
    budget: Annotated[str | None, typer.Option(help="Length in time a fold: 45m, 2h, 1h30m, or auto.")] = None,
    device: DeviceOption = "auto",
    seed: Annotated[int | None, typer.Option(help="Of all that is random. [default: 0]")] = None,
    precision: PrecisionOption = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of going on.")] = False,
    pretrained: Annotated[
        Path | None, typer.Option(help="Model to take first weights from, medseg's or nnU-Net's.")
    ] = None,
    freeze: Annotated[
        str, typer.Option(help="Iterations for which the pretrained encoder stays as it is, or all.")
    ] = "0",
    balance_classes: Annotated[
        bool, typer.Option("--balance-classes", help="Show rare classes as often as common ones.")
    ] = False,
    promptable: Annotated[
        bool, typer.Option("--promptable", help="Train a network that takes boxes, points and masks: medseg prompt.")
    ] = False,
    workers: WorkersOption = "0",
) -> None:
    """Train folds, then predict and measure each one's held-out cases. A run that stopped goes on where it was.

    Example: `medseg train -w workspace --fold 0 --budget 2h`
    """
    from medseg import crossvalidation
    from medseg.errors import UsageError
    from medseg.workspace import Workspace

    if words and (words[0] != "fold" or len(words) != 2 or fold is not None):
        raise UsageError(f"train {' '.join(words)}: expected medseg train fold 0-4, or medseg train --fold 0-4")
    chosen = words[1] if words else fold
    if chosen is None:
        raise UsageError("train: which folds? for example: medseg train --fold 0, or --fold all")
    if promptable and (pretrained is not None or balance_classes):
        raise UsageError("train --promptable: goes without --pretrained and --balance-classes; leave them out")
    opened = Workspace.open(workspace)
    stop = StopOnSignal()
    with Display() as display, stop:
        for number in parse.folds(chosen, len(opened.splits)):
            if promptable:
                from medseg.prompting.training import train_promptable

                folder = train_promptable(
                    opened,
                    configuration,
                    number,
                    epochs=epochs,
                    iterations=iterations,
                    budget_seconds=parse.budget(budget) if budget else None,
                    device=device,
                    precision=precision,
                    seed=seed,
                    restart=restart,
                    workers=parse.workers(workers),
                    should_stop=stop,
                    progress=display,
                )
                if folder is None:
                    typer.echo(f"stopped; resume with: medseg train -w {workspace} --fold {chosen} --promptable")
                    return
                typer.echo(f"fold {number}: {folder}; use it with: medseg prompt IMAGE -o MASK --checkpoint {folder}")
                continue
            outcome = crossvalidation.train(
                opened,
                configuration,
                number,
                epochs=epochs,
                iterations=iterations,
                budget_seconds=parse.budget(budget) if budget else None,
                device=device,
                precision=precision,
                seed=seed,
                restart=restart,
                pretrained=pretrained,
                freeze=parse.freeze(freeze),
                balance_classes=balance_classes,
                workers=parse.workers(workers),
                should_stop=stop,
                progress=display,
            )
            if outcome is None:
                typer.echo(f"stopped; resume with: medseg train -w {workspace} --fold {chosen}")
                return
            typer.echo(f"fold {number}: {outcome.folder}")
            print_summary(outcome.evaluation)
