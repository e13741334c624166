"""Outlines of a mask in one plane: polygons along the edges of pixels, holes joined by keyholes.

A polygon through the midpoints between pixels loses half a pixel of area a contour and rounds every corner, which takes
a small lesion away. These follow the pixels' own edges: the enclosed area is the pixels' area, and whoever fills them
by pixel centres gets the very same mask back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

Polygon = npt.NDArray[np.float64]  # (N, 2) rows and columns; pixel centres lie on whole numbers


def outlines(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """Closed polygons (N, 2) of (row, column) around the true pixels (rows, columns), the last point not repeated.

    Pixels that touch at a corner only belong to different polygons. A hole is part of the polygon around it, joined by
    a channel of no width (DICOM PS3.3 C.8.8.6.3), so that filling by the even-odd rule, by winding number, or as a
    union of polygons all give the same.
    """
    padded = np.pad(mask, 1).astype(np.float64)
    # Each vertex is the middle of a pixel's edge, since the values are 0 and 1; false is on the same side all along.
    midpoints = [ring[:-1] - 1 for ring in find_contours(padded, 0.5, fully_connected="low")]
    rings = [_along_edges(ring) for ring in midpoints]
    # Which ring passes left of a pixel, for every pixel and one column more; 0 where none does.
    beside = np.zeros((mask.shape[0], mask.shape[1] + 1), dtype=np.int64)
    for number, ring in enumerate(midpoints, start=1):
        upright = ring[ring[:, 0] % 1 == 0]
        beside[upright[:, 0].astype(np.int64), (upright[:, 1] + 0.5).astype(np.int64)] = number
    return _keyholes(rings, beside)


def _along_edges(midpoints: Polygon) -> Polygon:
    """The corners of a ring of pixel edges, given the middle of each edge in order."""
    following = np.roll(midpoints, -1, axis=0)
    # The middle of an edge between two rows has a half-integer row. Where the ring turns, one edge gives the corner's
    # row and the other its column.
    level = midpoints[:, 0] % 1 != 0
    turns = level != np.roll(level, -1)
    corners = np.where(
        level[:, None],
        np.stack([midpoints[:, 0], following[:, 1]], axis=1),
        np.stack([following[:, 0], midpoints[:, 1]], axis=1),
    )
    return corners[turns]


def _signed_area(ring: Polygon) -> float:
    """Pixels enclosed: positive around true pixels, negative around a hole."""
    row, column = ring[:, 0], ring[:, 1]
    return _SIGN * float((row * np.roll(column, -1) - np.roll(row, -1) * column).sum()) / 2


# find_contours turns counter-clockwise around low values, in (row, column) axes.
_SIGN = -1.0


def _keyholes(rings: list[Polygon], beside: npt.NDArray[np.int64]) -> list[Polygon]:
    """Insert each hole into the ring that its channel to the left meets first; the outer polygons remain.

    The channel runs along a line between rows, so it passes no pixel's centre. Left of a hole's leftmost edge lies the
    piece that the hole is in; the next edge in that row is the piece's outer one, or that of a hole further left. From
    right to left, therefore, a hole is complete when its turn comes.
    """
    inner = [number for number, ring in enumerate(rings) if _signed_area(ring) < 0]
    inner.sort(key=lambda number: rings[number][:, 1].min(), reverse=True)
    guests: dict[int, list[tuple[int, float, Polygon]]] = {}
    for number in inner:
        ring = rings[number]
        start = int(np.lexsort((ring[:, 0], ring[:, 1]))[0])  # the upper end of its leftmost edge
        row, column = ring[start]
        line = beside[int(row + 0.5)]
        gate = int(np.flatnonzero(line[: int(column + 0.5)])[-1])
        host = int(line[gate]) - 1
        edge, along = _edge_at(rings[host], row, gate - 0.5)
        complete = _with_guests(ring, guests.pop(number, []))
        turn = int(np.flatnonzero((complete == ring[start]).all(axis=1))[0])
        door = np.array([[row, gate - 0.5]])
        channel = np.concatenate([door, np.roll(complete, -turn, axis=0), ring[start : start + 1], door])
        guests.setdefault(host, []).append((edge, along, channel))
    holes = set(inner)
    return [_with_guests(ring, guests.get(number, [])) for number, ring in enumerate(rings) if number not in holes]


def _edge_at(ring: Polygon, row: float, column: float) -> tuple[int, float]:
    """Which edge of a ring runs down from (row, column), and how far along it that point lies."""
    following = np.roll(ring, -1, axis=0)
    low, high = np.minimum(ring[:, 0], following[:, 0]), np.maximum(ring[:, 0], following[:, 0])
    edge = int(np.flatnonzero((ring[:, 1] == column) & (following[:, 1] == column) & (low <= row) & (row < high))[0])
    return edge, float(abs(row - ring[edge, 0]))


def _with_guests(ring: Polygon, guests: list[tuple[int, float, Polygon]]) -> Polygon:
    """A ring with other rings inserted after its vertices: (vertex, distance along the edge from it, polygon)."""
    pieces, done = [], 0
    for edge, _, polygon in sorted(guests, key=lambda guest: guest[:2]):
        pieces += [ring[done : edge + 1], polygon]
        done = edge + 1
    return np.concatenate([*pieces, ring[done:]])
