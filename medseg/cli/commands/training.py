"""The verb ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medseg.cli import SOME_FAILED, parse
from medseg.cli.display import Display
from medseg.cli.options import (
    DEFAULT_WORKSPACE,
    ConfigurationOption,
    PrecisionOption,
    WorkersOption,
    WorkspaceOption,
)
from medseg.cli.output import print_json, print_summary, sizing_json, sizing_text
from medseg.cli.signals import StopOnSignal, process_start

if TYPE_CHECKING:
    from medseg.planning.sizing import Sizing
    from medseg.workspace import Workspace


class Network(StrEnum):
    auto = "auto"
    plan = "plan"


def train(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[fold FOLDS]", help="`fold 0-4` says the same as `--fold 0-4`.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    configuration: ConfigurationOption = None,
    fold: Annotated[str | None, typer.Option("--fold", help="Folds: 3, 0-4, 0,2 or all.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Length in epochs of 250 iterations. [on a GPU: 1000]")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Length in iterations.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time per fold for everything, preparing and held-out cases included: 45m, 2h, 1h30m, or auto: what"
            " suits the dataset, and the default on a CPU."
        ),
    ] = None,
    network: Annotated[
        Network,
        typer.Option(help="With a budget: auto is the network that fits it on this machine, plan the plan's own."),
    ] = Network.auto,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Only say what --budget will buy: network, steps, expected Dice, memory, end."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --estimate: one JSON document on stdout.")] = False,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; several (cuda:0,cuda:1) train several folds at once.")
    ] = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="Of all that is random. [default: 0]")] = None,
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
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="The same bits each time on a GPU too; slower."),
    ] = False,
    promptable: Annotated[
        bool, typer.Option("--promptable", help="Train a network that takes boxes, points and masks: medseg prompt.")
    ] = False,
    workers: WorkersOption = "0",
) -> None:
    """Train folds, then predict and measure each one's held-out cases. A run that stopped goes on where it was.

    Example: `medseg train -w workspace --fold 0 --budget 2h`

    What a budget will buy, before: `medseg train -w workspace --fold 0 --budget 30m --estimate`

    Several GPUs for one fold: `torchrun --nproc-per-node 2 -m medseg train --fold 0`; each process trains with a batch
    as planned.
    """
    from medseg import crossvalidation
    from medseg.errors import UsageError
    from medseg.training.outcome import outcome_lines, train_command
    from medseg.training.team import join_team, leave_team, started_by_torchrun
    from medseg.workspace import Workspace

    if words and (words[0] != "fold" or len(words) != 2 or fold is not None):
        raise UsageError(f"train {' '.join(words)}: expected medseg train fold 0-4, or medseg train --fold 0-4")
    chosen = words[1] if words else fold
    if chosen is None:
        raise UsageError("train: which folds? for example: medseg train --fold 0, or --fold all")
    if promptable and (pretrained is not None or balance_classes or deterministic):
        raise UsageError(
            "train --promptable: goes without --pretrained, --balance-classes and --deterministic; leave them out"
        )
    opened = Workspace.open(workspace)
    folds, devices = parse.folds(chosen, len(opened.splits)), device.split(",")
    if as_json and not estimate:
        raise UsageError("train --json: goes with --estimate; add it")
    if estimate and (epochs is not None or iterations is not None):
        raise UsageError("train --estimate: tells what --budget buys; leave out --epochs and --iterations")
    if estimate:
        length = parse.budget(budget) if budget else "auto"
        kept = network is Network.plan or pretrained is not None
        sizing = _estimate(opened, configuration, length, devices[0], precision, kept, promptable)
        print_json(sizing_json(sizing)) if as_json else typer.echo(sizing_text(sizing, len(folds)))
        return
    if promptable and (len(devices) > 1 or started_by_torchrun()):
        raise UsageError("train --promptable: trains one fold after the other in one process, on one --device")
    if len(devices) > 1:
        values = {
            "--workspace": workspace,
            "--configuration": configuration,
            "--epochs": epochs,
            "--iterations": iterations,
            "--budget": budget,
            "--network": network.value,
            "--seed": seed,
            "--precision": precision,
            "--pretrained": pretrained,
            "--freeze": freeze,
            "--workers": workers,
        }
        flags = {
            "--restart": restart,
            "--balance-classes": balance_classes,
            "--deterministic": deterministic,
        }
        command = ["train", *(flag for flag, wanted in flags.items() if wanted)]
        command += [str(word) for name, value in values.items() if value is not None for word in (name, value)]
        _side_by_side(opened, configuration, folds, devices, command, parse.workers(workers))
        return
    stop, team, stopped = StopOnSignal(), join_team(), False
    with Display(quiet=not team.leads) as display, stop:
        for number in folds:
            if promptable:
                from medseg.prompting.unet.training import promptable_outcome, train_promptable

                made = train_promptable(
                    opened,
                    configuration,
                    number,
                    epochs=epochs,
                    iterations=iterations,
                    budget_seconds=parse.budget(budget) if budget else None,
                    network=network.value,
                    began=process_start() if number == folds[0] else None,
                    device=device,
                    precision=precision,
                    seed=seed,
                    restart=restart,
                    workers=parse.workers(workers),
                    should_stop=stop,
                    progress=display,
                )
                if made is None:
                    typer.echo(f"stopped; resume with: medseg train -w {workspace} --fold {chosen} --promptable")
                    stopped = True
                    break
                outcome = promptable_outcome(made, number)
                typer.echo(
                    "\n".join(outcome_lines(outcome, f"medseg train -w {workspace} --fold {number} --promptable"))
                )
                use = f"; use it with: medseg prompt IMAGE -o MASK --checkpoint {made}" if outcome.has_learned else ""
                typer.echo(f"fold {number}: {made}{use}")
                continue
            result = crossvalidation.train(
                opened,
                configuration,
                number,
                epochs=epochs,
                iterations=iterations,
                budget_seconds=parse.budget(budget) if budget else None,
                network=network.value,
                began=process_start() if number == folds[0] else None,
                device=device,
                precision=precision,
                seed=seed,
                restart=restart,
                pretrained=pretrained,
                freeze=parse.freeze(freeze),
                balance_classes=balance_classes,
                deterministic=deterministic,
                workers=parse.workers(workers),
                team=team,
                should_stop=stop,
                progress=display,
            )
            if result is None:
                if team.leads:
                    typer.echo(f"stopped; resume with: medseg train -w {workspace} --fold {chosen}")
                stopped = True
                break
            if team.leads:
                typer.echo(f"fold {number}: {result.folder}")
                command = train_command(result.run, str(workspace), opened.plan.configuration().name)
                print_summary(result.evaluation, outcome_lines(result.outcome, command))
                if result.unmeasured:
                    typer.echo(
                        f"The budget had time for {len(result.evaluation.cases)} of {result.held_out} held-out cases;"
                        f" the others are predicted and measured by: {command}"
                    )
    leave_team()
    if stopped:
        raise typer.Exit(SOME_FAILED)  # so that a script does not go on with an unfinished model


def _estimate(
    workspace: Workspace,
    configuration: str | None,
    budget_s: float | Literal["auto"],
    device: str,
    precision: str,
    keeps_network: bool,
    promptable: bool,
) -> Sizing:
    """What a budget buys, without training."""
    from medseg.crossvalidation import size_for_budget
    from medseg.device import choose_device, choose_precision
    from medseg.errors import UsageError

    if promptable:
        raise UsageError("train --estimate: tells of plain training; leave out --promptable")
    where = choose_device(device)
    with Display() as display:
        return size_for_budget(
            workspace,
            workspace.plan.configuration(configuration),
            budget_s,
            where,
            choose_precision(precision, where),
            freedom="none" if keeps_network else "all",
            progress=display,
        )


def _side_by_side(
    workspace: Workspace,
    configuration: str | None,
    folds: Sequence[int],
    devices: Sequence[str],
    command: Sequence[str],
    workers: int | str,
) -> None:
    """A command for each fold, on whichever device is free; what all of them need is prepared before."""
    from medseg.cli.side_by_side import train_side_by_side
    from medseg.errors import CasesFailedError
    from medseg.workspace import preprocess

    stop = StopOnSignal()
    with Display() as display, stop:
        preprocess(workspace, workspace.plan.configuration(configuration), workers=workers, progress=display)
        codes = train_side_by_side(command, folds, devices, typer.echo, stop)
    if stop():
        typer.echo("stopped; the same command goes on")
        raise typer.Exit(SOME_FAILED)
    failed = {f"fold {fold}": f"exit code {code}" for fold, code in codes.items() if code}
    if failed:
        raise CasesFailedError("train", failed, len(folds))
