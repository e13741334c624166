"""What fixes the course of a run, as the document ``run.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medseg.device import Precision
from medseg.training.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """What ``run.json`` holds: everything that fixes the course of a run.

    Attributes:
        budget_seconds: the time the number of iterations was derived from, if it was.
        training_seconds: what was left of it for training; the length is corrected where it would not be met.
        held_out_seconds: part of it that is kept for predicting and measuring held-out cases.
        pretrained: the model that the first weights came from, if any.
        deterministic: whether a GPU computes the same bits each time, where that is slower.
    """

    version: Literal[1]
    configuration: str
    fold: int
    seed: int
    precision: Precision
    recipe: Recipe
    budget_seconds: float | None = None
    training_seconds: float | None = None
    held_out_seconds: float | None = None
    pretrained: str | None = None
    deterministic: bool = False
