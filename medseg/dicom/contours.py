"""Closed contours as masks: the even-odd rule in each plane, and planes that lie between slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Contours within this part of a voxel of each other along the planes' normal lie in one plane.
_SAME_PLANE = 0.02
# A contour that leaves its plane by more than this part of a voxel is in none.
_FLAT_WITHIN = 0.1


def fill(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels (Y, X) whose centres lie inside an odd number of closed polygons.

    Overlapping contours of one plane thus cut holes, and a keyhole contour is hollow, as DICOM PS3.3 C.8.8.6 has it.
    A centre exactly on an edge belongs to the polygon below or right of it, so that neighbours share no pixel.

    Args:
        polygons: each (N, 2) in pixels (row, column), where whole numbers are centres.
    """
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    for polygon in polygons:
        start, end = polygon, np.roll(polygon, -1, axis=0)
        for (row_a, column_a), (row_b, column_b) in zip(start.tolist(), end.tolist(), strict=True):
            low, high = min(row_a, row_b), max(row_a, row_b)
            rows = np.arange(max(0, int(np.ceil(low))), min(shape[0], int(np.ceil(high))))
            if len(rows) == 0:
                continue
            columns = column_a + (rows - row_a) * (column_b - column_a) / (row_b - row_a)
            first = np.clip(np.ceil(columns), 0, shape[1]).astype(int)
            crossings[rows, first] += 1
    return np.cumsum(crossings, axis=1)[:, : shape[1]] % 2 == 1


def flat_axis(points: np.ndarray) -> int | None:
    """The axis across which contour points (N, 3), in voxels, lie in one plane; None where there is none."""
    ranges = np.ptp(points, axis=0)
    axis = int(np.argmin(ranges))
    return axis if ranges[axis] <= _FLAT_WITHIN else None


def rasterize(contours: Sequence[np.ndarray], axis: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, int]:
    """The mask (Z, Y, X) of contours (N, 3) in voxels (z, y, x) that are flat across one axis.

    Every contour stands for a slab as thick as the usual distance between the planes of contours: a slice takes the
    nearest plane of which it lies within half that distance (and at least half a slice).

    Returns:
        The mask, and the number of planes that lie between slices.
    """
    others = [other for other in range(3) if other != axis]
    planes: list[tuple[float, list[np.ndarray]]] = []
    for contour in sorted(contours, key=lambda points: float(points[:, axis].mean())):
        height = float(contour[:, axis].mean())
        if planes and height - planes[-1][0] <= _SAME_PLANE:
            planes[-1][1].append(contour[:, others])
        else:
            planes.append((height, [contour[:, others]]))
    heights = np.array([height for height, _ in planes])
    mask = np.zeros(shape, dtype=bool)
    view = np.moveaxis(mask, axis, 0)
    # Two planes alone say nothing of how far apart planes usually are.
    half = max(1.0, float(np.median(np.diff(heights))) if len(heights) > 2 else 1.0) / 2
    between = int(np.count_nonzero(np.abs(heights - np.rint(heights)) > _FLAT_WITHIN))
    filled: dict[int, np.ndarray] = {}
    first, last = int(np.ceil(heights[0] - half - 1)), int(np.floor(heights[-1] + half + 1))
    for index in range(max(0, first), min(view.shape[0], last + 1)):
        distances = np.abs(heights - index)
        nearest = int(np.flatnonzero(distances <= distances.min() + _SAME_PLANE)[-1])
        away = index - heights[nearest]
        # Half open, so that a plane midway between two slices fills one of them.
        if not -half - _SAME_PLANE <= away < half - _SAME_PLANE:
            continue
        if nearest not in filled:
            filled = {nearest: fill(planes[nearest][1], (view.shape[1], view.shape[2]))}
        view[index] = filled[nearest]
    return mask, between
