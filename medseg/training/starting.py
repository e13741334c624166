"""The run that was begun in a folder, and the length of a new one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from medseg import documents
from medseg.errors import DocumentError, UsageError
from medseg.planning.sizing import Sizing
from medseg.training.recipe import DEFAULT_EPOCHS, EPOCH_ITERATIONS, Recipe, recipe_for_iterations
from medseg.training.run import Run

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Length:
    """How long to train: at most one of these; :meth:`on` says what none of them means.

    Raises:
        UsageError: more than one is given.
    """

    epochs: int | None = None
    iterations: int | None = None
    budget_seconds: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.epochs, self.iterations, self.budget_seconds)) > 1:
            raise UsageError("--epochs, --iterations and --budget each say how long to train; give one of them")

    @property
    def steps(self) -> int | None:
        """Iterations, if they were asked for."""
        return self.iterations if self.epochs is None else self.epochs * EPOCH_ITERATIONS

    def on(self, device: torch.device) -> Length:
        """The length on a device. Where none was asked for it is nnU-Net's 1000 epochs, and on a CPU, which these
        would take weeks, a budget that suits the dataset.
        """
        if self != Length():
            return self
        return Length(budget_seconds="auto") if device.type == "cpu" else Length(epochs=DEFAULT_EPOCHS)


def run_under_way(
    folder: Path,
    length: Length,
    *,
    seed: int | None,
    balance_classes: bool | None,
    deterministic: bool | None = None,
    pretrained: str | None = None,
) -> Run | None:
    """The run that was begun in a folder, if any; what is None was not asked for.

    Raises:
        UsageError: it was begun with another length, seed, sampling or first weights.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        run = documents.load(Run, path)
    except DocumentError as error:
        raise DocumentError(f"{error}; begin anew with --restart") from error
    asked_and_begun = (
        ("iterations", length.steps, run.recipe.iterations),
        ("budget_seconds", length.budget_seconds, run.budget_seconds),
        ("seed", seed, run.seed),
        ("balance_classes", balance_classes, run.recipe.balance_classes),
        ("deterministic", deterministic, run.deterministic),
        ("pretrained", pretrained, run.pretrained),
    )
    for name, asked, begun in asked_and_begun:
        if asked is not None and asked != begun and not (asked == "auto" and begun):
            raise UsageError(
                f"{folder}: a run with {name} {begun} was begun here, now {name} is {asked};"
                " leave the option out to go on, or begin anew with --restart"
            )
    return run


def recipe_of(sizing: Sizing, training_s: float, processes: int = 1) -> Recipe:
    """The recipe of a run with the network that was chosen, filling what is left for training.

    Args:
        training_s: seconds that are left.
        processes: that train together, each with a batch of its own; each is taken to be as fast as one alone.
    """
    batch = sizing.configuration.batch_size
    return recipe_for_iterations(max(1, int(training_s / sizing.step_s)), batch * processes)
