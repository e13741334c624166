"""What is wanted beside a mask, and how it is filled: probabilities, and maps of what is uncertain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medseg.planning.plan import Plan
from medseg.prediction.opinions import Opinion
from medseg.preprocessing import Trace


@dataclass(frozen=True, eq=False)
class Extras:
    """What is wanted beside the mask: arrays on the grid of the scan, filled while it is predicted.

    Attributes:
        probabilities: (K, Z, Y, X) float32, or None.
        entropy: (Z, Y, X) uint8, or None: how undecided the probabilities are, 0 to 100 % of what is possible.
        disagreement: (Z, Y, X) uint8, or None: share of folds, in %, that would give another label than the mask.
        hear: told of each group of planes the logits (K, n, Y, X) of every fold, and the mask (n, Y, X) as indices
            inside.
        filled: called whenever some planes have been filled.
    """

    probabilities: np.ndarray | None = None
    entropy: np.ndarray | None = None
    disagreement: np.ndarray | None = None
    hear: Callable[[Sequence[torch.Tensor], torch.Tensor], None] | None = None
    filled: Callable[[], None] = lambda: None


def fill_surroundings(extras: Extras, plan: Plan) -> None:
    """What lies outside the cropped box: background is certain; of regions none is present."""
    if extras.probabilities is not None:
        for plane in extras.probabilities.swapaxes(0, 1):
            plane[...] = 0
            if not plan.labels.has_regions:
                plane[0] = 1
            extras.filled()
    for array in (extras.entropy, extras.disagreement):
        if array is not None:
            array[...] = 0


def fill(
    extras: Extras, trace: Trace, planes: slice, opinion: Opinion, indices: torch.Tensor, has_regions: bool
) -> None:
    """Fill some planes of the cropped box.

    Args:
        trace: where the box lies in the scan.
        planes: of the box, those that the opinion is about.
        indices: (n, Y, X) labels inside that the mask gets there.
        has_regions: whether outputs are regions, each present or not, rather than classes.
    """
    if extras.probabilities is not None:
        trace.inside(extras.probabilities)[:, planes] = opinion.probabilities.cpu().numpy()
    if extras.entropy is not None:
        share = _entropy(opinion.probabilities, has_regions)
        trace.inside(extras.entropy)[planes] = (100 * share).round().to(torch.uint8).cpu().numpy()
    if extras.disagreement is not None:
        share = (opinion.votes != indices).float().mean(0)
        trace.inside(extras.disagreement)[planes] = (100 * share).round().to(torch.uint8).cpu().numpy()


def _entropy(probabilities: torch.Tensor, has_regions: bool) -> torch.Tensor:
    """Shannon's entropy (n, Y, X) of probabilities (K, n, Y, X) as part of the largest; of regions the mean."""
    if has_regions:
        each = torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
        return each.mean(0) / math.log(2)
    return torch.special.entr(probabilities).sum(0) / math.log(len(probabilities))
