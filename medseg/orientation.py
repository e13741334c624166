"""Which way the axes of a grid point in the patient, and how an array is turned another way without resampling."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.errors import UsageError

CANONICAL = "RAS"
# Beyond this angle from every anatomical orientation (62.8 at most) the nearest one is a matter of chance.
OBLIQUE_DEGREES = 40.0

AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
"""The two ends of each world axis x, y, z, the one with growing RAS+ millimetres last."""


@dataclass(frozen=True)
class AxisChange:
    """Axes of an array exchanged and reversed: new axis i is old axis ``order[i]``, reversed where ``flips[i]``."""

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The changed view of a (..., Z, Y, X) array."""
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        reverse = [slice(None)] * lead + [slice(None, None, -1 if flip else None) for flip in self.flips]
        return moved[tuple(reverse)]

    def inverse(self) -> AxisChange:
        """The change that undoes this one."""
        order = [0, 0, 0]
        flips = [False, False, False]
        for new, old in enumerate(self.order):
            order[old], flips[old] = new, self.flips[new]
        return AxisChange((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))


AS_STORED = AxisChange((0, 1, 2), (False, False, False))


def orientation_of(affine: npt.NDArray[np.float64]) -> str:
    """Nearest anatomical directions of the axes in file order (x, y, z), such as ``"RAS"`` or ``"LPS"``.

    Args:
        affine: (4, 4) from index (z, y, x, 1) to RAS+ mm.
    """
    directions = _anatomical_directions(affine)
    return "".join(AXIS_CODES[directions[axis][0]][int(directions[axis][1] > 0)] for axis in (2, 1, 0))


def change_to(affine: npt.NDArray[np.float64], orientation: str) -> AxisChange:
    """The exchange and reversal of axes that brings a grid nearest to an orientation such as ``"RAS"``.

    Args:
        affine: (4, 4) from index (z, y, x, 1) to RAS+ mm.

    Raises:
        UsageError: the orientation does not name each of R/L, A/P and S/I once.
    """
    wanted = {}
    for position, letter in enumerate(orientation):
        for world, codes in enumerate(AXIS_CODES):
            if letter in codes:
                wanted[world] = (2 - position, letter == codes[1])
    if len(orientation) != 3 or len(wanted) != 3:
        raise UsageError(f"an orientation names R/L, A/P and S/I once each, such as RAS; found {orientation!r}")
    order, flips = [0, 0, 0], [False, False, False]
    for axis, (world, sign) in enumerate(_anatomical_directions(affine)):
        new, positive = wanted[world]
        order[new] = axis
        flips[new] = (sign > 0) != positive
    return AxisChange((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))


def _anatomical_directions(affine: npt.NDArray[np.float64]) -> tuple[tuple[int, int], ...]:
    """For each array axis the world axis (0 R, 1 A, 2 S) it follows, each used once, and its sign.

    The nearest of those that do not turn the patient into a mirror image. Where even the nearest is more than
    ``OBLIQUE_DEGREES`` away (the short axis of a heart, say), the header names no orientation clearly; then the
    stored axes count as x, y, z, so that scans acquired alike are shown alike.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    handedness = np.sign(np.linalg.det(cosines))

    def nearest(orders: Iterable[tuple[int, ...]]) -> tuple[float, tuple[tuple[int, int], ...]]:
        candidates = []
        for order, signs in itertools.product(orders, itertools.product((1, -1), repeat=3)):
            matrix = np.zeros((3, 3))
            matrix[order, range(3)] = signs
            if np.linalg.det(matrix) * handedness > 0:
                candidates.append((float((matrix * cosines).sum()), tuple(zip(order, signs, strict=True))))
        return max(candidates, key=lambda candidate: candidate[0])

    trace, directions = nearest(itertools.permutations((2, 1, 0)))
    if trace < 1 + 2 * np.cos(np.deg2rad(OBLIQUE_DEGREES)):
        _, directions = nearest([(2, 1, 0)])
    return directions
