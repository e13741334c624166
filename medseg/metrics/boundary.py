"""Boundary IoU (Cheng et al. 2021, arXiv 2103.16562): the IoU of the two masks' rims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from medseg.errors import UsageError
from medseg.metrics.counts import count_overlap
from medseg.metrics.masks import checked_length_mm, checked_spacing, mask_pair


def boundary_iou(prediction: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float], width_mm: float) -> float:
    """IoU of the parts of two masks that lie within a width of their boundary.

    Args:
        prediction: (Z, Y, X) or (Y, X); nonzero is inside. Outside the array is outside the mask.
        reference: the same shape.
        spacing_mm: one an axis.
        width_mm: voxels whose centre is at most this far from the centre of a voxel outside belong to the rim.

    Returns:
        NaN when both masks are empty, 0 when one is.

    Raises:
        UsageError: shapes that differ, values that are not integers, a spacing that does not fit, or a width below the
            smallest spacing, which leaves no rim.
    """
    masks = mask_pair(prediction, reference)
    spacing = checked_spacing(spacing_mm, masks[0].ndim)
    width = checked_length_mm(width_mm, "width_mm")
    if width < min(spacing):
        raise UsageError(
            f"metrics: a rim of {width} mm is thinner than a voxel of {min(spacing)} mm; give at least that width"
        )
    return count_overlap(*(_rim(mask, spacing, width) for mask in masks), total=masks[0].size).iou


def _rim(mask: np.ndarray, spacing_mm: tuple[float, ...], width_mm: float) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    depth_mm = np.asarray(distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm))
    return mask & (depth_mm[(slice(1, -1),) * mask.ndim] <= width_mm)
