"""Verbs between training and prediction: ``best`` and ``calibrate``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from medseg.cli import parse
from medseg.cli.display import Display
from medseg.cli.options import (
    DEFAULT_WORKSPACE,
    ConfigurationOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    WorkersOption,
    WorkspaceOption,
)
from medseg.cli.output import print_json


class ChoiceRule(StrEnum):
    noise = "noise"
    nnunet = "nnunet"


def best(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    rule: Annotated[
        ChoiceRule, typer.Option("--rule", help="noise: more only where it is better beyond noise; nnunet: by means.")
    ] = ChoiceRule.noise,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    workers: WorkersOption = "0",
    as_json: JsonOption = False,
) -> None:
    """After cross-validation, choose the model and the steps after prediction; `medseg predict -w` then follows.

    Example: `medseg best -w workspace`
    """
    from medseg import documents
    from medseg.crossvalidation import predict_held_out
    from medseg.selection import choose_best
    from medseg.workspace import Workspace

    opened = Workspace.open(workspace)
    with Display(quiet=as_json) as display:
        if len(opened.plan.configurations) > 1:  # pairs are averaged as probabilities
            predict_held_out(opened, device=device, precision=precision, progress=display)
        chosen = choose_best(opened, rule.value, workers=parse.workers(workers), progress=display)
    if as_json:
        print_json(documents.to_json(chosen))
        return
    for candidate in chosen.candidates:
        typer.echo(f"{' + '.join(candidate.configurations)}: Dice {candidate.dice:.4f}")
    for reason in chosen.because:
        typer.echo(f"- {reason}")
    typer.echo(f"best: {' + '.join(chosen.configurations)}; after it: {', '.join(map(str, chosen.steps)) or 'nothing'}")


def calibrate(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    configuration: ConfigurationOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    workers: WorkersOption = "0",
    as_json: JsonOption = False,
) -> None:
    """Learn from held-out cases how far a model can be believed; `medseg predict --trust` then says so of each mask.

    Example: `medseg calibrate -w workspace`
    """
    from medseg import documents
    from medseg.crossvalidation import predict_held_out
    from medseg.trust import calibrate as calibrate_model
    from medseg.workspace import Workspace

    opened = Workspace.open(workspace)
    name = opened.plan.configuration(configuration).name
    with Display(quiet=as_json) as display:
        predict_held_out(opened, (name,), device=device, precision=precision, progress=display)
        trust = calibrate_model(opened, name, workers=parse.workers(workers), progress=display)
    if as_json:
        print_json(documents.to_json(trust))
        return
    temperatures = ", ".join(f"{value:.2f} of fold {fold}" for fold, value in trust.temperatures.items())
    typer.echo(f"{name}: temperature {temperatures}")
    for band in trust.bands:
        low, dice, high = band.around(0.9)
        typer.echo(
            f"{band.label}: where probabilities promise Dice 0.9 expect {dice:.3f}, {low:.3f} to {high:.3f}"
            f" in {band.level:.0%} of cases (from {band.cases} held-out cases)"
        )
