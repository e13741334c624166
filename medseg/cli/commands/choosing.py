"""The verb ``best``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from medseg.cli import parse
from medseg.cli.display import Display
from medseg.cli.options import (
    DEFAULT_WORKSPACE,
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
