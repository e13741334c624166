"""Prompts of one object on a grid of two or three axes, as indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GridBox = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class GridPrompts:
    """The prompts of one object on a grid of two or three axes.

    Attributes:
        inside, outside: points as indices, one number an axis, not always whole.
        boxes: first and, exclusive, last voxel along each axis.
        mask: bool on the whole grid, or None.
    """

    inside: tuple[tuple[float, ...], ...] = ()
    outside: tuple[tuple[float, ...], ...] = ()
    boxes: tuple[GridBox, ...] = ()
    mask: np.ndarray | None = None


def tight_box(mask: np.ndarray) -> GridBox:
    """The smallest box around a mask that is not empty: first and, exclusive, last voxel along each axis."""
    hits = [np.flatnonzero(mask.any(tuple(o for o in range(mask.ndim) if o != axis))) for axis in range(mask.ndim)]
    return tuple(int(h[0]) for h in hits), tuple(int(h[-1]) + 1 for h in hits)


def line_points(ends: Sequence[Sequence[float]], distance: float) -> tuple[tuple[float, ...], ...]:
    """Points along a line through two or more others, at most ``distance`` voxels apart."""
    points = [tuple(float(value) for value in ends[0])]
    for one, two in zip(np.asarray(ends, float), np.asarray(ends, float)[1:], strict=False):
        count = max(1, int(np.ceil(np.linalg.norm(two - one) / distance)))
        points += [tuple((one + (two - one) * (i / count)).tolist()) for i in range(1, count + 1)]
    return tuple(points)
