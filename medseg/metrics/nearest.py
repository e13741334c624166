"""Exact distances from places on a voxel grid to the nearest of other places.

A Euclidean distance transform, computed only where it is read. One pass gives every voxel the nearest target in its own
column, all columns at once. Each place then looks into the columns around it, outward, until they are farther away than
the best it has found. The few that have seen thousands of columns by then ask a k-d tree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter

import numpy as np
from scipy.spatial import KDTree

COLUMNS = 3000
"""Columns a place looks into, those within about 30 voxels; farther away a query of the tree takes less time."""

NOWHERE = 255
"""No target in the column, or none nearer than this many voxels."""


def nearest_mm(places: np.ndarray, targets: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Distance (N,) from each place to the nearest target; infinite where there is no target.

    Args:
        places: (N,) flat indices into the grid, all inside its margins.
        targets: (Z, Y, X) or (Y, X) boolean grid with free margins as ``margins`` gives them.
        spacing_mm: one an axis.
    """
    if not targets.any():
        return np.full(places.size, np.inf)
    # Columns run along Y: with thick slices, most neighbours lie in the plane, and columns in it save most.
    grid = targets.reshape(-1, *targets.shape[-2:])
    depth_mm, height_mm, width_mm = (1.0, *spacing_mm)[-3:]
    column_gaps = _column_gaps(grid).ravel()
    gaps_mm2 = (np.arange(NOWHERE + 1) * height_mm) ** 2
    gaps_mm2[NOWHERE] = np.inf
    squares_mm2 = np.full(places.size, np.inf)
    waiting, here, best = np.arange(places.size), places, squares_mm2
    columns = _columns(depth_mm, width_mm)
    for count, (dz, dx, away_mm2) in enumerate(columns.steps):
        if dz >= grid.shape[0] or 2 * dx + 3 > grid.shape[2]:
            continue  # farther than the box is wide, as ``margins`` made it
        if count % 4 == 0:
            unsure = best > away_mm2
            squares_mm2[waiting] = best
            waiting, here, best = waiting[unsure], here[unsure], best[unsure]
            if not waiting.size:
                break
        shifts = {sign_z * dz * grid[0].size + sign_x * dx for sign_z in (-1, 1) for sign_x in (-1, 1)}
        # Clipping is right as well as fast: the first and the last voxel lie in free columns.
        gap = np.minimum.reduce([column_gaps.take(here + shift, mode="clip") for shift in shifts])
        best = np.minimum(best, ((dz * depth_mm) ** 2 + gaps_mm2).take(gap) + (dx * width_mm) ** 2)
    squares_mm2[waiting] = best
    distances = np.sqrt(squares_mm2)
    far = np.flatnonzero(squares_mm2 > min(columns.reach_mm, NOWHERE * height_mm) ** 2)
    if far.size:
        distances[far] = _tree_distances(places[far], targets, spacing_mm)
    return distances


def margins(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> list[tuple[int, int]]:
    """Free voxels to leave before and after each axis of a box of this shape.

    Looking past the end of a row arrives in the next: the margins along X hold as many voxels as a place looks far.
    """
    depth_mm, _, width_mm = (1.0, *spacing_mm)[-3:]
    reach = int(_columns(depth_mm, width_mm).reach_mm / width_mm)
    return [(1, 1)] * (len(shape) - 1) + [(2, min(reach, shape[-1]) + 1)]


def _column_gaps(targets: np.ndarray) -> np.ndarray:
    """Voxels along Y to the nearest target in the same column, as uint8."""
    gaps = targets.view(np.uint8) - np.uint8(1)  # 0 at targets, NOWHERE elsewhere
    rows = [gaps[:, row] for row in range(gaps.shape[1])]
    for direction in (rows, rows[::-1]):
        for before, row in pairwise(direction):
            np.minimum(row, np.minimum(before, NOWHERE - 1) + 1, out=row)
    return gaps


@dataclass(frozen=True)
class _Columns:
    """Steps to the columns around one: voxels along Z and X (either sign), squared length; all within ``reach_mm``."""

    steps: list[tuple[int, int, float]]
    reach_mm: float


@lru_cache(maxsize=64)
def _columns(depth_mm: float, width_mm: float) -> _Columns:
    reach_mm = math.sqrt(COLUMNS / math.pi * depth_mm * width_mm)
    steps = [
        (dz, dx, (dz * depth_mm) ** 2 + (dx * width_mm) ** 2)
        for dz in range(int(reach_mm / depth_mm) + 1)
        for dx in range(int(reach_mm / width_mm) + 1)
    ]
    steps.sort(key=itemgetter(2))
    return _Columns([step for step in steps if step[2] <= reach_mm**2], reach_mm)


def _tree_distances(places: np.ndarray, targets: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    start, end = (np.array(np.unravel_index(flat, targets.shape)) for flat in (places, np.flatnonzero(targets)))
    scale = np.array(spacing_mm)
    tree = KDTree(end.T * scale, leafsize=32, balanced_tree=False, compact_nodes=False)
    _, found = tree.query(start.T * scale)
    gaps = (start - end[:, found]) * scale[:, None]
    return np.sqrt((gaps * gaps).sum(axis=0))
