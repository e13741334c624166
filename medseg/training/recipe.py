"""How a run is trained: optimiser, batch, schedule and length, chosen from what the user can spend.

nnU-Net's recipe (SGD with momentum 0.99, 250,000 iterations) never leaves "all background" in a few hundred
iterations. Short runs therefore take Muon and average their weights; docs/lab-notes.md has the measurements behind
each number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medseg.training.pace import Schedule

EPOCH_ITERATIONS = 250
DEFAULT_EPOCHS = 1000
# Below this many iterations momentum 0.99 has not averaged enough gradients to be better than Muon.
LONG_RUN_ITERATIONS = 25_000
# Short runs: rate of Muon, the part of a run over which it falls to zero, and the sharpness of the average over the
# weights of past steps (exponent 7 covers about the last eighth).
MUON_RATE = 1e-2
DECAY_SHARE = 0.5
AVERAGE_POWER = 7.0
# Points of the learning curve (validation, a line of progress.csv) in a short run.
SHORT_RUN_EPOCHS = 10

OptimizerName = Literal["sgd", "adamw", "muon"]


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
        decay_share: part of the run at whose end the learning rate falls linearly to zero; None is nnU-Net's polynomial
            over the whole run.
        average_power: weights of step i count in proportion to i to this power in the average that is kept and
            measured (Karras et al., arXiv 2312.02696); 0 keeps those of the last step.
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
    decay_share: float | None = None
    average_power: float = 0.0

    def is_frozen_at(self, iteration: int) -> bool:
        """Whether the encoder stays as it is in a step."""
        return self.frozen_iterations == "all" or iteration < self.frozen_iterations

    def learning_rate_at(self, iteration: int, schedule: Schedule | None = None) -> float:
        """Learning rate of a step (the first is 0): linear warm-up, then the recipe's decay.

        Args:
            schedule: the course of the run, where its length was corrected; by default as planned.
        """
        warmup = min(1.0, (iteration + 1) / self.warmup_iterations) if self.warmup_iterations else 1.0
        passed = (schedule or Schedule(self.iterations)).progress_at(iteration)
        left = (1 - passed) ** 0.9 if self.decay_share is None else min(1.0, (1 - passed) / self.decay_share)
        return self.learning_rate * warmup * left

    def average_weight(self, iteration: int) -> float:
        """How far the average moves towards the weights after a step (the first is 0)."""
        return 1 - (1 - 1 / (iteration + 1)) ** (1 + self.average_power) if iteration else 1.0


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
        optimizer="muon",
        learning_rate=MUON_RATE,
        weight_decay=1e-2,
        batch_size=batch_size,
        iterations=iterations,
        epoch_iterations=max(1, min(EPOCH_ITERATIONS, math.ceil(iterations / SHORT_RUN_EPOCHS))),
        warmup_iterations=min(50, iterations // 10),
        gradient_clip=12.0,
        mirror=False,
        because=(
            f"{iterations} iterations are too few for SGD with momentum 0.99 and for learning every mirrored view:"
            f" Muon with batch {batch_size}, weights averaged, no mirroring"
        ),
        decay_share=DECAY_SHARE,
        average_power=AVERAGE_POWER,
    )
