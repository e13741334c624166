"""From positions and orientations of slices (LPS mm) to a grid (RAS mm). The only place where LPS becomes RAS.

A slice's rows run along y of an array (Z, Y, X), its columns along x; z follows the cross product of both directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.errors import GeometryError
from medseg.volume import ORTHOGONAL_WITHIN, Geometry

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

# A slice may lie off its place on the even grid by this part of the distance between slices: headers are rounded.
EVEN_WITHIN = 0.05
# Slices may lie off the line through their corners by this part of a pixel before they count as moved.
STRAIGHT_WITHIN_PIXELS = 0.1
# Two positions along the normal closer than this are one.
SAME_WITHIN_MM = 1e-3
# Directions are rounded to about six digits; further from unit length or from a right angle they are no directions.
DIRECTION_WITHIN = 1e-2
# A single slice whose file says nothing of its thickness.
UNKNOWN_THICKNESS_MM = 1.0
_LISTED = 6


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Slices in order along their normal.

    Attributes:
        order: indices of the given slices, sorted.
        offsets_mm: (N,) where each sorted slice lies along the normal, from the first on.
        origin, step, down, right: LPS mm: centre of the first pixel, from slice to slice, from row to row, from
            column to column.
        drift: pixels (rows, columns) by which each slice is shifted against the one before, where that is a shear.
        problem: why the slices make no even grid; empty if they do.
        is_uneven: whether the problem is the spacing alone, so that resampling mends it.
    """

    order: tuple[int, ...]
    offsets_mm: np.ndarray
    origin: np.ndarray
    step: np.ndarray
    down: np.ndarray
    right: np.ndarray
    drift: tuple[float, float] = (0.0, 0.0)
    problem: str = ""
    is_uneven: bool = False

    @property
    def is_sheared(self) -> bool:
        """Whether the slices are shifted against each other, as by a tilted gantry."""
        return self.drift != (0.0, 0.0)

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal of the slices and the way from slice to slice."""
        normal = np.cross(self.right, self.down)
        cosine = abs(normal @ self.step) / (np.linalg.norm(normal) * np.linalg.norm(self.step))
        return math.degrees(math.acos(min(1.0, float(cosine))))


def directions(orientation: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along a row and along a column.

    Raises:
        GeometryError: they are no two directions at a right angle.
    """
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if (
        max(abs(length - 1) for length in lengths) > DIRECTION_WITHIN
        or abs(along_row @ along_column) > DIRECTION_WITHIN
    ):
        raise GeometryError(
            "the image orientation is no pair of directions at a right angle:"
            f" {', '.join(f'{value:g}' for value in orientation)}"
        )
    return along_row / lengths[0], along_column / lengths[1]


def arrange(
    positions: Sequence[Sequence[float]],
    orientation: Sequence[float],
    spacing_mm: tuple[float, float],
    thickness_mm: float | None,
) -> Arrangement:
    """Sort slices and find out whether they make an even grid.

    Args:
        positions: LPS mm of each slice's first pixel, all of one orientation.
        spacing_mm: distance between rows, and between columns.
        thickness_mm: what a single slice stands for.

    Raises:
        GeometryError: the orientation makes no sense.
    """
    along_row, along_column = directions(orientation)
    normal = np.cross(along_row, along_column)
    points = np.array(positions, dtype=np.float64)
    heights = points @ normal
    order = np.argsort(heights, kind="stable")
    points, offsets = points[order], heights[order] - heights[order[0]]
    down, right = along_column * spacing_mm[0], along_row * spacing_mm[1]
    count = len(points)
    if count == 1:
        step = normal * (thickness_mm or UNKNOWN_THICKNESS_MM)
        return Arrangement(tuple(order.tolist()), offsets, points[0], step, down, right)
    gaps = np.diff(offsets)
    step = (points[-1] - points[0]) / (count - 1)
    plain = Arrangement(tuple(order.tolist()), offsets, points[0], step, down, right)
    if gaps.min() < SAME_WITHIN_MM:
        return _with_problem(plain, _duplicates(offsets, gaps))
    expected = points[0] + np.arange(count)[:, None] * step
    if np.abs(offsets - np.arange(count) * offsets[-1] / (count - 1)).max() > EVEN_WITHIN * float(np.median(gaps)):
        straight = points[0] + (offsets / offsets[-1])[:, None] * (points[-1] - points[0])
        if _pixels_apart(points, straight, along_row, along_column, spacing_mm) <= STRAIGHT_WITHIN_PIXELS:
            drift = _drift(points[-1] - points[0], along_row, along_column, spacing_mm)
            small = max(map(abs, drift)) <= STRAIGHT_WITHIN_PIXELS
            return _with_problem(plain, _uneven(offsets, gaps), is_uneven=small)
        return _with_problem(plain, _uneven(offsets, gaps))
    if (apart := _pixels_apart(points, expected, along_row, along_column, spacing_mm)) > STRAIGHT_WITHIN_PIXELS:
        problem = f"slices are shifted against each other by up to {apart:.3g} pixels, not along a line"
        return _with_problem(plain, problem)
    shear = math.hypot(step @ along_row, step @ along_column) / float(np.linalg.norm(step))
    if shear < ORTHOGONAL_WITHIN * 0.9:
        return plain
    return Arrangement(
        plain.order, offsets, plain.origin, step, down, right, drift=_drift(step, along_row, along_column, spacing_mm)
    )


def grid(arrangement: Arrangement, rows: int, columns: int) -> Geometry:
    """The grid of evenly spaced slices; where they are sheared, the upright one that holds all of them.

    Raises:
        GeometryError: the slices make no even grid; says why.
    """
    if arrangement.problem:
        raise GeometryError(arrangement.problem)
    if not arrangement.is_sheared:
        return to_ras(arrangement.origin, arrangement.step, arrangement.down, arrangement.right,
                      (len(arrangement.order), rows, columns))  # fmt: skip
    normal = np.cross(arrangement.right, arrangement.down)
    normal /= np.linalg.norm(normal)
    first, size = upright_extent(arrangement, rows, columns)
    origin = arrangement.origin + first[0] * arrangement.down + first[1] * arrangement.right
    step = normal * (arrangement.step @ normal)
    return to_ras(origin, step, arrangement.down, arrangement.right, (len(arrangement.order), *size))


def upright_extent(arrangement: Arrangement, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of the upright grid of sheared slices: its first row and column, counted from the first slice's, and its size."""
    total = [value * (len(arrangement.order) - 1) for value in arrangement.drift]
    first = [math.floor(min(0.0, value)) for value in total]
    last = [math.ceil(max(0.0, value)) for value in total]
    return (first[0], first[1]), (rows + last[0] - first[0], columns + last[1] - first[1])


def evened(arrangement: Arrangement, rows: int, columns: int) -> tuple[Geometry, np.ndarray]:
    """An even grid over unevenly spaced slices, and where its slices lie as fractional indices of the given ones (N,).

    The new distance divides the whole height evenly and is the nearest such to the median of the old ones.

    Raises:
        GeometryError: more is wrong than the spacing.
    """
    if not arrangement.is_uneven:
        raise GeometryError(arrangement.problem or "slices are evenly spaced already")
    offsets = arrangement.offsets_mm
    count = max(2, round(float(offsets[-1] / np.median(np.diff(offsets)))) + 1)
    whole = arrangement.step * (len(offsets) - 1)
    geometry = to_ras(
        arrangement.origin, whole / (count - 1), arrangement.down, arrangement.right, (count, rows, columns)
    )
    where = np.interp(np.linspace(0, offsets[-1], count), offsets, np.arange(len(offsets)))
    return geometry, where


def to_ras(
    origin: np.ndarray, step: np.ndarray, down: np.ndarray, right: np.ndarray, shape: tuple[int, int, int]
) -> Geometry:
    """The grid of an array (Z, Y, X) from vectors in LPS mm."""
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.column_stack([step, down, right])
    affine[:3, 3] = LPS_TO_RAS @ origin
    return Geometry(shape, affine)


def to_lps(points_ras_mm: np.ndarray) -> np.ndarray:
    """RAS mm (..., 3) as LPS mm, and the reverse."""
    return points_ras_mm * np.array([-1.0, -1.0, 1.0])


def _with_problem(plain: Arrangement, problem: str, is_uneven: bool = False) -> Arrangement:
    return Arrangement(
        plain.order, plain.offsets_mm, plain.origin, plain.step, plain.down, plain.right,
        problem=problem, is_uneven=is_uneven,
    )  # fmt: skip


def _drift(
    way: np.ndarray, along_row: np.ndarray, along_column: np.ndarray, spacing_mm: tuple[float, float]
) -> tuple[float, float]:
    return float(way @ along_column) / spacing_mm[0], float(way @ along_row) / spacing_mm[1]


def _pixels_apart(
    points: np.ndarray,
    expected: np.ndarray,
    along_row: np.ndarray,
    along_column: np.ndarray,
    spacing_mm: tuple[float, float],
) -> float:
    apart = points - expected
    return float(
        max(np.abs(apart @ along_column).max() / spacing_mm[0], np.abs(apart @ along_row).max() / spacing_mm[1])
    )


def _duplicates(offsets: np.ndarray, gaps: np.ndarray) -> str:
    places = np.unique(offsets[1:][gaps < SAME_WITHIN_MM])
    return (
        f"several slices lie at one position ({_listed(places)} mm from the first) and nothing in their headers tells"
        " them apart"
    )


def _uneven(offsets: np.ndarray, gaps: np.ndarray) -> str:
    usual = float(np.median(gaps))
    counts = gaps / usual
    if np.abs(counts - np.rint(counts)).max() <= EVEN_WITHIN * 2 and counts.min() > 0.5:
        missing = [
            offset + usual * part
            for offset, count in zip(offsets, np.rint(counts).astype(int), strict=False)
            for part in range(1, count)
        ]
        counted = "1 slice is" if len(missing) == 1 else f"{len(missing)} slices are"
        return f"{counted} missing: none at {_listed(missing)} mm from the first, {usual:.4g} mm apart"
    odd = np.flatnonzero(np.abs(gaps - usual) > EVEN_WITHIN * usual)
    listed = ", ".join(f"{gaps[index]:.4g} mm after {offsets[index]:.5g} mm" for index in odd[:_LISTED])
    return f"slices are unevenly spaced: {usual:.4g} mm apart, but {listed}{' ...' if len(odd) > _LISTED else ''}"


def _listed(values: Sequence[float] | np.ndarray) -> str:
    text = ", ".join(f"{value:.5g}" for value in values[:_LISTED])
    return text + (" ..." if len(values) > _LISTED else "")
