"""Metrics of voxel counts: Dice, IoU, precision, recall. Undefined ratios (0 / 0) are NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medseg.metrics.masks import label_pair, mask_pair
from medseg.metrics.regions import Region, label_regions


@dataclass(frozen=True)
class Overlap:
    """Voxels of one label: in both masks (tp), only predicted (fp), only in the reference (fn), in neither (tn)."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def dice(self) -> float:
        """2 tp / (2 tp + fp + fn) (Dice 1945); NaN when both masks are empty."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """tp / (tp + fp + fn), the Jaccard index; NaN when both masks are empty."""
        return ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """tp / (tp + fp); NaN when nothing is predicted."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """tp / (tp + fn); NaN when the reference is empty."""
        return ratio(self.tp, self.tp + self.fn)


def overlap(prediction: ArrayLike, reference: ArrayLike) -> Overlap:
    """Voxel counts of two masks (Y, X) or (Z, Y, X); nonzero is inside.

    Raises:
        UsageError: shapes that differ, or values that are not integers.
    """
    return count_overlap(*mask_pair(prediction, reference), total=np.size(prediction))


def mean_iou(
    prediction: ArrayLike,
    reference: ArrayLike,
    labels: Sequence[int] | Mapping[str, int | Sequence[int]] | None = None,
) -> float:
    """Mean IoU over labels; labels absent from both arrays do not count, and NaN if that leaves none.

    Args:
        prediction: label values (Y, X) or (Z, Y, X).
        reference: the same.
        labels: as in ``compare``. Name 0 among them to count the background.

    Raises:
        UsageError: as ``compare``.
    """
    arrays = label_pair(prediction, reference)
    counts = [region_overlap(region, *arrays) for region in label_regions(*arrays, labels)]
    defined = [each.iou for each in counts if each.tp + each.fp + each.fn]
    return float(np.mean(defined)) if defined else float("nan")


def count_overlap(prediction: np.ndarray, reference: np.ndarray, total: int) -> Overlap:
    """Counts of two boolean masks cropped from a grid of ``total`` voxels that holds nothing of either elsewhere."""
    tp = int(np.count_nonzero(prediction & reference))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    return Overlap(tp, fp, fn, total - tp - fp - fn)


def region_overlap(region: Region, prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Counts of one region in two label arrays."""
    return count_overlap(region.mask(prediction), region.mask(reference), prediction.size)


def ratio(part: int, whole: int) -> float:
    """Part of whole; NaN where there is no whole."""
    return part / whole if whole else float("nan")
