"""The run that was begun in a folder, and the length of a new one."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from medseg import documents
from medseg.errors import DocumentError, UsageError
from medseg.networks.memory import freed_memory_kept
from medseg.patches import patches_in
from medseg.planning.plan import Configuration, Plan
from medseg.training.recipe import (
    BUDGET_SHARE,
    DEFAULT_EPOCHS,
    EPOCH_ITERATIONS,
    SMALLEST_BATCH,
    recipe_for_budget,
    recipe_for_iterations,
    suggest_budget,
)
from medseg.training.run import Run
from medseg.training.sampling import PatchSource
from medseg.training.team import ALONE, Team
from medseg.training.trainer import Trainer, seconds_per_sample

RUN_FILE = "run.json"

log = logging.getLogger(__name__)


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


def within_budget(
    run: Run,
    budget_seconds: float | Literal["auto"],
    began: float,
    plan: Plan,
    configuration: Configuration,
    cases: Sequence[PatchSource],
    device: torch.device,
    team: Team = ALONE,
    trainer: type[Trainer] = Trainer,
) -> Run:
    """The run that fills a budget which began to count at a moment, after measuring the machine's speed.

    Each process of a team is taken to be as fast as this one is alone.
    """
    probe = replace(run, recipe=recipe_for_iterations(1_000, min(SMALLEST_BATCH, configuration.batch_size)))
    with freed_memory_kept():
        measured = seconds_per_sample(trainer(plan, configuration, cases, (), probe, device))
    spent = time.monotonic() - began
    if budget_seconds == "auto":
        patches = sum(patches_in(case.shape, configuration.patch_size) for case in cases)
        suggestion = suggest_budget(patches, measured / team.size, configuration.batch_size * team.size)
        log.info("--budget auto: %.0f minutes; %s", suggestion.seconds / 60, suggestion.because)
        budget_seconds, spent = suggestion.seconds, 0.0
    left = max(budget_seconds - spent, 1.0)
    recipe = recipe_for_budget(left * BUDGET_SHARE, measured, configuration.batch_size)
    if team.size > 1:
        recipe = recipe_for_iterations(recipe.iterations, recipe.batch_size * team.size)
    log.info("one sample takes %.3f s: %d iterations of %d fit", measured, recipe.iterations, recipe.batch_size)
    return replace(run, recipe=recipe, budget_seconds=budget_seconds, training_seconds=left)
