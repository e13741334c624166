"""What labels lose on a coarser grid: the best Dice that a network working there could reach.

A class's mask is averaged over the cells of the coarser grid, interpolated back and cut at one half: what a network
does that predicts on the coarse grid without a fault. Thin and small structures lose most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# How many times coarser than the finest axis the grids are that are looked at.
FACTORS = (1.5, 2.0, 3.0, 4.0)
# A class that reaches further than this along an axis is judged by what is around its middle voxel: enough to tell.
MOST_VOXELS_AN_AXIS = 160
_MARGIN = 8


def coarser_spacing(spacing_mm: Sequence[float], factor: float) -> tuple[float, ...]:
    """Spacing at which no axis is finer than ``factor`` times the finest; axes that are coarser already stay."""
    least = factor * min(spacing_mm)
    return tuple(max(step, least) for step in spacing_mm)


def coarse_dice(
    labels: np.ndarray, classes: Sequence[Sequence[int]], spacing_mm: Sequence[float]
) -> tuple[tuple[float, ...] | None, ...]:
    """For each class its Dice after a round trip over the grid of each of ``FACTORS``, or None if it is not there.

    Args:
        labels: class indices (Z, Y, X).
        classes: the indices that each class covers.
        spacing_mm: of the axes (Z, Y, X); an axis of one voxel counts for nothing.
    """
    from scipy.ndimage import find_objects

    found: list[tuple[float, ...] | None] = []
    axes = [axis for axis, size in enumerate(labels.shape) if size > 1]
    steps = [spacing_mm[axis] for axis in axes]
    boxes = find_objects(labels)
    for indices in classes:
        present = [boxes[index - 1] for index in indices if 0 < index <= len(boxes) and boxes[index - 1] is not None]
        if not present or not axes:
            found.append(None)
            continue
        mask = _middle(np.isin(labels[_surroundings(present, labels.shape)], indices))
        found.append(tuple(_round_trip_dice(mask, axes, steps, factor) for factor in FACTORS))
    return tuple(found)


def _surroundings(boxes: Sequence[tuple[slice, ...]], shape: Sequence[int]) -> tuple[slice, ...]:
    """The box around boxes with a margin."""
    return tuple(
        slice(
            max(0, min(box[axis].start for box in boxes) - _MARGIN),
            min(size, max(box[axis].stop for box in boxes) + _MARGIN),
        )
        for axis, size in enumerate(shape)
    )


def _middle(mask: np.ndarray) -> np.ndarray:
    """At most ``MOST_VOXELS_AN_AXIS`` of a mask along each axis, around the middle one of its voxels in stored order:
    the middle of its box may be empty."""
    part = mask
    for axis, size in enumerate(mask.shape):
        if size > MOST_VOXELS_AN_AXIS:
            start = _middle_voxel(mask)[axis] - MOST_VOXELS_AN_AXIS // 2
            start = min(max(start, 0), size - MOST_VOXELS_AN_AXIS)
            part = part[(slice(None),) * axis + (slice(start, start + MOST_VOXELS_AN_AXIS),)]
    return part


def _middle_voxel(mask: np.ndarray) -> tuple[int, ...]:
    at: tuple[int, ...] = ()
    while mask.ndim:
        reached = np.cumsum(np.count_nonzero(mask.reshape(len(mask), -1), axis=1))
        at += (int(np.searchsorted(reached, reached[-1] / 2)),)
        mask = mask[at[-1]]
    return at


def _round_trip_dice(mask: np.ndarray, axes: Sequence[int], spacing_mm: Sequence[float], factor: float) -> float:
    back = mask.astype(np.float32)
    for axis, step, coarse in zip(axes, spacing_mm, coarser_spacing(spacing_mm, factor), strict=True):
        matrix = _round_trip(mask.shape[axis], max(1, round(mask.shape[axis] * step / coarse)))
        back = np.moveaxis(np.tensordot(matrix, back, (1, axis)), 0, axis)
    kept = back > 0.5
    whole = int(mask.sum()) + int(kept.sum())
    return 2 * int((mask & kept).sum()) / whole if whole else 1.0


def _round_trip(size: int, coarse: int) -> np.ndarray:
    """(size, size) float32: means over ``coarse`` equal cells, then linear interpolation between their centres."""
    width = size / coarse
    edges = np.arange(coarse + 1) * width
    low, high = np.arange(size), np.arange(1, size + 1)
    overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    means = np.clip(overlap, 0, None) / width
    at = np.clip((np.arange(size) + 0.5) / width - 0.5, 0, coarse - 1)
    lower = np.minimum(at.astype(int), max(coarse - 2, 0))
    between = np.zeros((size, coarse))
    between[np.arange(size), lower] = 1 - (at - lower)
    between[np.arange(size), np.minimum(lower + 1, coarse - 1)] += at - lower
    return (between @ means).astype(np.float32)
