"""A band of Dice from a promised one, and the document that holds what a model's promises are worth.

What a promised Dice lacks to 1, times a factor, is what the true one lacks. The band is made of quantiles of that
factor over held-out cases, with the correction for a finite number by which split conformal prediction holds its level
(Vovk et al. 2005; Lei et al. 2018).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medseg import documents
from medseg.errors import UsageError
from medseg.trust.drift import TrainingScans

TRUST_FILE = "trust.json"
LEVEL = 0.9
"""Share of cases whose Dice shall lie in the band."""
FEWEST_CASES = 10
"""Held-out cases with a label below which nothing is promised about it."""
MEAN = "mean of labels"
_LEAST_LACK = 1e-3


@dataclass(frozen=True)
class Band:
    """Of one label: what the true Dice lacks to 1, as a multiple of what the promised one lacks.

    Attributes:
        cases: held-out cases with the label.
        level: share of cases that lie in the band.
        least, middle, most: quantiles of the multiple.
        usual: 95 % of held-out cases have an expected Dice above this.
    """

    label: str
    cases: int
    level: float
    least: float
    middle: float
    most: float
    usual: float

    def around(self, promised: float) -> tuple[float, float, float]:
        """Lower end, middle and upper end of the Dice to expect."""
        lack = max(1 - promised, _LEAST_LACK)
        low, dice, high = (min(1.0, max(0.0, 1 - factor * lack)) for factor in (self.most, self.middle, self.least))
        return low, dice, high


@dataclass(frozen=True)
class TrustDocument:
    """``trust.json`` in a model folder.

    Attributes:
        folds: whose held-out cases it rests on.
        temperatures: of each fold, that its logits are divided by.
        bands: of each label with enough cases, and of the mean over labels.
        presence: share of held-out cases that hold each label.
        scans: what the training scans are like.
    """

    version: Literal[1]
    configuration: str
    folds: tuple[int, ...]
    temperatures: dict[str, float]
    bands: tuple[Band, ...]
    presence: dict[str, float]
    scans: TrainingScans

    def temperature_of(self, fold: str) -> float:
        """What the logits of a fold are divided by; of one that was not calibrated the median of the others."""
        return self.temperatures.get(fold, float(np.median(list(self.temperatures.values()))))


def load_trust(model: str | os.PathLike[str]) -> TrustDocument:
    """The calibration in a model folder.

    Raises:
        UsageError: there is none; says how to make it.
        DocumentError: it does not parse.
    """
    path = Path(model) / TRUST_FILE
    if not path.is_file():
        raise UsageError(
            f"{path}: the model is not calibrated; first run: medseg calibrate -w WORKSPACE -c {path.parent.name}"
        )
    return documents.load(TrustDocument, path)


def trust_for(models: Sequence[str | os.PathLike[str]]) -> TrustDocument:
    """The calibration of one model. Several averaged are not what was calibrated: no Dice is expected of them, but what
    their scans were like is known.

    Raises:
        UsageError, DocumentError: as :func:`load_trust`.
    """
    each = [load_trust(model) for model in models]
    return each[0] if len(each) == 1 else replace(each[0], bands=())


def bands_of(names: Sequence[str], promised: np.ndarray, true: np.ndarray) -> tuple[Band, ...]:
    """Bands of each label and of the mean over labels.

    Args:
        promised, true: Dice (cases, labels), NaN where undefined.
    """
    known = ~(np.isnan(promised) | np.isnan(true))
    columns = [(name, promised[known[:, i], i], true[known[:, i], i]) for i, name in enumerate(names)]
    some = known.any(axis=1)
    means = [np.where(known, each, 0).sum(axis=1)[some] / known.sum(axis=1)[some] for each in (promised, true)]
    columns.append((MEAN, means[0], means[1]))
    return tuple(_band(name, first, second) for name, first, second in columns if len(first) >= FEWEST_CASES)


def _band(name: str, promised: np.ndarray, true: np.ndarray) -> Band:
    factors = np.sort((1 - true) / np.maximum(1 - promised, _LEAST_LACK))
    count = len(factors)
    below = math.floor((count + 1) * (1 - LEVEL) / 2)
    level = LEVEL if below >= 1 else (count - 1) / (count + 1)  # all that so few cases can promise
    below = max(below, 1)
    band = Band(name, count, level, float(factors[below - 1]), float(np.median(factors)), float(factors[-below]), 0.0)
    expected = [band.around(value)[1] for value in promised.tolist()]
    usual = float(np.quantile(expected, 0.05, method="lower"))
    return Band(name, count, level, band.least, band.middle, band.most, usual)
