"""From the image's grid to a prepared one and back: points, boxes and masks of a region, exact along each axis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from medseg.preprocessing import Trace
from medseg.prompting.grid import GridBox
from medseg.resampling.axes import nearest_index, positions
from medseg.volume import Box


def points_on_prepared(points: Sequence[Sequence[float]], trace: Trace) -> list[tuple[float, ...]]:
    """Indices on the prepared grid of indices on the image's; a point that was cropped away moves to the edge."""
    found = trace.geometry.to_index(trace.source.to_mm(points))
    return [tuple(point) for point in np.clip(found, 0, np.array(trace.shape) - 1).tolist()]


def box_on_prepared(box: Box, trace: Trace) -> GridBox:
    """The voxels of the prepared grid whose centres lie in a box of the image's; one along each axis at least."""
    edges = [[(box.start, box.stop)[bit][axis] - 0.5 for axis, bit in enumerate(bits)] for bits in _CORNERS]
    found = trace.geometry.to_index(trace.source.to_mm(edges))
    start, stop = [], []
    for low, high, size in zip(found.min(0), found.max(0), trace.shape, strict=True):
        first, last = (int(np.ceil(edge - _ROUNDING)) for edge in (low, high))
        if last <= first:  # thinner than a voxel: the one that holds its middle
            first = int(np.floor((low + high) / 2 + 0.5))
            last = first + 1
        start.append(min(max(first, 0), size - 1))
        stop.append(min(max(last, start[-1] + 1), size))
    return tuple(start), tuple(stop)


def mask_on_prepared(mask: np.ndarray, trace: Trace) -> np.ndarray:
    """A mask (Z, Y, X) bool of the image's grid on the prepared one, nearest neighbour."""
    inside = trace.inside(mask)
    taken = [
        np.clip(nearest_index(old, new), 0, old - 1) for old, new in zip(trace.crop.shape, trace.shape, strict=True)
    ]
    return inside[np.ix_(*taken)]


def on_image(lead: np.ndarray, region: Box, trace: Trace) -> np.ndarray:
    """Where a function on a region of the prepared grid is positive, on the image's grid as (Z, Y, X) bool.

    Linear between voxel centres, nearest neighbour along a thick axis; nothing outside of the region.
    """
    part, where = lead, []
    for axis in range(3):
        at = positions(trace.shape[axis], trace.crop.shape[axis])
        first, last = region.start[axis], region.stop[axis]
        covered = np.flatnonzero((at > first - 0.5 - _ROUNDING) & (at < last - 0.5 + _ROUNDING))
        if not covered.size:
            covered = np.array([int(np.abs(at - first).argmin())])
        local = np.clip(at[covered] - first, 0, last - first - 1)
        if axis == trace.thick_axis:
            local = np.clip(np.floor(local + 0.5), 0, last - first - 1)
        part = _along(part, axis, local)
        where.append(slice(int(covered[0]), int(covered[-1]) + 1))
    mask = np.zeros(trace.source_shape, bool)
    trace.inside(mask)[tuple(where)] = part > 0
    return mask


def _along(array: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    """Values at positions along an axis, linear between neighbours."""
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, array.shape[axis] - 1)
    share = (at - below).astype(array.dtype).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.take(array, below, axis) * (1 - share) + np.take(array, above, axis) * share


_CORNERS = tuple(itertools.product((0, 1), repeat=3))
_ROUNDING = 1e-4
