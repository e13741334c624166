"""Detection of lesions: each connected component is one, and is found when one of the other mask overlaps it enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medseg.errors import UsageError
from medseg.metrics.counts import ratio
from medseg.metrics.masks import mask_pair


@dataclass(frozen=True)
class LesionDetection:
    """Lesions found in both masks (tp), only predicted (fp), and missed (fn). Undefined ratios (0 / 0) are NaN."""

    tp: int
    fp: int
    fn: int

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn); NaN when neither mask has a lesion."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that are real; NaN when none is predicted."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the real lesions that were found; NaN when there is none."""
        return ratio(self.tp, self.tp + self.fn)


def lesion_detection(prediction: ArrayLike, reference: ArrayLike, min_iou: float = 0.5) -> LesionDetection:
    """Count lesions found, invented and missed.

    Voxels that touch at a face, edge or corner belong to one lesion. Components pair one to one where their IoU is
    at least ``min_iou``; where several pairings are possible, one with the most pairs counts.

    Args:
        prediction: (Z, Y, X) or (Y, X); nonzero is inside.
        reference: the same shape.
        min_iou: above 0 and at most 1; 0.5 as in panoptic quality (Kirillov et al. 2019, arXiv 1801.00868), close to
            0 to let any contact count.

    Raises:
        UsageError: shapes that differ, values that are not integers, or a ``min_iou`` outside (0, 1].
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not 0 < min_iou <= 1:
        raise UsageError(f"metrics: min_iou must lie in (0, 1], found {min_iou}; give for example 0.5")
    masks = mask_pair(prediction, reference)
    predicted, real = (components(mask) for mask in masks)
    sizes = np.bincount(predicted.ravel(), minlength=1), np.bincount(real.ravel(), minlength=1)
    counts = sizes[0].size - 1, sizes[1].size - 1
    both = masks[0] & masks[1]
    pairs, shared = np.unique(np.stack([predicted[both], real[both]]), axis=1, return_counts=True)
    iou = shared / (sizes[0][pairs[0]] + sizes[1][pairs[1]] - shared)
    pairs = pairs[:, iou >= min_iou] - 1
    graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs)), shape=counts).tocsr()
    tp = int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0)) if pairs.size else 0
    return LesionDetection(tp, counts[0] - tp, counts[1] - tp)


def components(mask: np.ndarray) -> np.ndarray:
    """Each voxel's component, 1, 2, ..., and 0 outside; voxels that touch at a face, edge or corner belong together."""
    from skimage.measure import label

    return np.asarray(label(mask, connectivity=mask.ndim))
