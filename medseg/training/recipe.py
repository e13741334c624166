"""How a run is trained: optimiser, batch, schedule and length, chosen from what the user can spend.

nnU-Net's recipe (SGD with momentum 0.99, 250,000 iterations) never leaves "all background" in a few hundred
iterations. Short runs therefore take AdamW with a warm-up; docs/lab-notes.md has the measurements behind each number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medseg.training.pace import Schedule

EPOCH_ITERATIONS = 250
DEFAULT_EPOCHS = 1000
# Below this many iterations momentum 0.99 has not averaged enough gradients to be better than AdamW.
LONG_RUN_ITERATIONS = 25_000
# A budget is split so that it holds at least this many steps before batches grow beyond two samples.
STEPS_WANTED = 2_000
SMALLEST_BATCH = 2
# How often a short run should show every part of the data: 18 times gave hippocampus a Dice of 0.885 of 0.892.
VIEWS_WANTED = 20
# Part of a budget that goes into iterations. The rest is for points of the learning curve, checkpoints, and a machine
# that is slower over minutes than in the seconds of the measurement (by 10 to 20 % in docs/lab-notes.md).
BUDGET_SHARE = 0.87
# Points of the learning curve (validation, a line of progress.csv) in a short run.
SHORT_RUN_EPOCHS = 20

OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class Recipe:
    """Everything the course of a run depends on besides data and plan; kept in ``run.json``.

    Attributes:
        batch_size: samples a step.
        iterations: steps in all.
        epoch_iterations: steps between points of the learning curve.
        warmup_iterations: steps over which the learning rate rises from zero.
        gradient_clip: largest norm of the gradient.
        mirror: show mirrored scans, and average over mirrored copies when predicting.
        balance_classes: patches on foreground show every class equally often, not every case.
        frozen_iterations: steps for which the encoder of a pretrained network stays as it is.
        because: why these were chosen, for the log.
    """

    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    batch_size: int
    iterations: int
    epoch_iterations: int
    warmup_iterations: int
    gradient_clip: float
    mirror: bool
    because: str
    balance_classes: bool = False
    frozen_iterations: int | Literal["all"] = 0

    def is_frozen_at(self, iteration: int) -> bool:
        """Whether the encoder stays as it is in a step."""
        return self.frozen_iterations == "all" or iteration < self.frozen_iterations

    def learning_rate_at(self, iteration: int, schedule: Schedule | None = None) -> float:
        """Learning rate of a step (the first is 0): linear warm-up, then polynomial decay with power 0.9.

        Args:
            schedule: the course of the run, where its length was corrected; by default as planned.
        """
        warmup = min(1.0, (iteration + 1) / self.warmup_iterations) if self.warmup_iterations else 1.0
        passed = (schedule or Schedule(self.iterations)).progress_at(iteration)
        return self.learning_rate * warmup * (1 - passed) ** 0.9


def recipe_for_iterations(iterations: int, batch_size: int) -> Recipe:
    """The recipe of a run of that many steps."""
    if iterations >= LONG_RUN_ITERATIONS:
        return Recipe(
            optimizer="sgd",
            learning_rate=1e-2,
            weight_decay=3e-5,
            batch_size=batch_size,
            iterations=iterations,
            epoch_iterations=EPOCH_ITERATIONS,
            warmup_iterations=0,
            gradient_clip=12.0,
            mirror=True,
            because=f"{iterations} iterations are enough for nnU-Net's SGD (momentum 0.99) with batch {batch_size}",
        )
    return Recipe(
        optimizer="adamw",
        learning_rate=3e-3,
        weight_decay=1e-2,
        batch_size=batch_size,
        iterations=iterations,
        epoch_iterations=max(1, min(EPOCH_ITERATIONS, math.ceil(iterations / SHORT_RUN_EPOCHS))),
        warmup_iterations=min(50, iterations // 10),
        gradient_clip=12.0,
        mirror=False,
        because=(
            f"{iterations} iterations are too few for SGD with momentum 0.99 and for learning every mirrored view:"
            f" AdamW with batch {batch_size}, no mirroring"
        ),
    )


def recipe_for_budget(seconds: float, seconds_per_sample: float, plan_batch: int) -> Recipe:
    """The recipe of a run that should last so long, from the measured time of one sample in a training step."""
    affordable = int(seconds / (seconds_per_sample * STEPS_WANTED))
    batch_size = min(plan_batch, max(SMALLEST_BATCH, affordable))
    iterations = max(1, int(seconds / (seconds_per_sample * batch_size)))
    return recipe_for_iterations(iterations, batch_size)


@dataclass(frozen=True)
class Suggestion:
    """A budget that suits a dataset, with the reason."""

    seconds: float
    because: str


def suggest_budget(patches: float, seconds_per_sample: float, plan_batch: int) -> Suggestion:
    """Time to learn a dataset by a short run: every part of it seen often enough, but no longer than nnU-Net's run.

    Args:
        patches: how many patches' worth of voxels the training cases hold.
        seconds_per_sample: measured time of one sample in a training step.
    """
    least, most = STEPS_WANTED * SMALLEST_BATCH, DEFAULT_EPOCHS * EPOCH_ITERATIONS * plan_batch
    wanted = math.ceil(patches * VIEWS_WANTED)
    samples = min(max(wanted, least), most)
    seconds = 60.0 * math.ceil(samples * seconds_per_sample / BUDGET_SHARE / 60)
    why = f"the training cases hold {patches:.0f} patches, {VIEWS_WANTED} views of each are {wanted} samples"
    if wanted < least:
        why += f", and {STEPS_WANTED} steps of {SMALLEST_BATCH} are the least that learns"
    if wanted > most:
        why += f", but nnU-Net's whole run has {most}"
    return Suggestion(seconds, f"{why}: {samples} samples of {seconds_per_sample:.3f} s")
