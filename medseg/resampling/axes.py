"""One axis at a time: where the new voxels lie on the old axis, and the 1-D operators that take values there.

Every operator is what ``scipy.ndimage.zoom(grid_mode=True, mode="nearest")`` does along that axis.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medseg.errors import UsageError

SLAB_VOXELS = 2**19  # worked on at once: arrays that stay in the cache cost a third of those that do not
BAND_ROWS = 48  # of a cubic matrix, applied at once: few, to skip its zeros; many, to be a matrix product


def thick_axis(
    current_spacing_mm: Sequence[float], new_spacing_mm: Sequence[float], threshold: float = 3.0
) -> int | None:
    """The axis to resample on its own, by nearest neighbour, or None.

    A grid is anisotropic if its largest spacing is more than ``threshold`` times its smallest. The current grid is
    asked first, then the new one; the first that is anisotropic names its coarsest axis, or none if two axes are
    equally coarse. This is the rule of nnU-Net v2 (Isensee et al., Nature Methods 2021).

    Raises:
        UsageError: spacings that are not three positive numbers.
    """
    for spacing in (np.asarray(current_spacing_mm, float), np.asarray(new_spacing_mm, float)):
        if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
            raise UsageError(f"spacing: expected three positive numbers of mm, found {spacing.tolist()}")
        if spacing.max() / spacing.min() > threshold:
            coarsest = np.flatnonzero(spacing == spacing.max())
            return int(coarsest[0]) if len(coarsest) == 1 else None
    return None


def checked_shape(
    array: np.ndarray | Tensor, dimensions: int, shape: Sequence[int], thick_axis: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The old and the new (Z, Y, X).

    Raises:
        UsageError: names the argument that is not what it should be.
    """
    if not isinstance(array, np.ndarray | Tensor) or array.ndim != dimensions or 0 in array.shape:
        form = "(C, Z, Y, X)" if dimensions == 4 else "(Z, Y, X)"
        found = tuple(array.shape) if isinstance(array, np.ndarray | Tensor) else type(array).__name__
        raise UsageError(f"array: expected numpy or torch {form} with at least one voxel, found {found}")
    try:
        new = tuple(operator.index(size) for size in shape)
    except TypeError:
        new = ()
    if len(new) != 3 or min(new) < 1:
        raise UsageError(f"shape: expected three positive integers (Z, Y, X), found {shape}")
    if thick_axis not in (None, 0, 1, 2):
        raise UsageError(f"thick_axis: expected 0, 1, 2 or None, found {thick_axis!r}")
    return tuple(array.shape[-3:]), new


def cheapest_order(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """The axes in the order of least work: those that shrink most come first, and of equals the last."""
    return sorted(range(len(old)), key=lambda axis: (new[axis] / old[axis], -axis))


def slabs(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of slabs of new planes: about SLAB_VOXELS of the grid, old or new, that has more of them."""
    thickness = max(1, old[0] / new[0]) * max(old[1], new[1]) * max(old[2], new[2])
    step = max(1, int(SLAB_VOXELS / thickness))
    for start in range(0, new[0], step):
        yield start, min(start + step, new[0])


def take(array: Tensor, axis: int, index: Tensor) -> Tensor:
    """``array.index_select(axis, index)``, several times faster along the last axis."""
    if axis == array.ndim - 1:
        return array.gather(axis, index.expand(*array.shape[:-1], -1))
    return array.index_select(axis, index)


@dataclass(frozen=True)
class Nearest:
    """Every new position is the old voxel ``lower`` (m,) int64."""

    lower: Tensor
    identity: bool

    @staticmethod
    def between(old: int, new: int, device: torch.device) -> Nearest:
        """From ``old`` voxels of an axis to ``new`` ones of the same extent."""
        return Nearest(torch.from_numpy(nearest_index(old, new)).to(device), old == new)

    def part(self, start: int, stop: int) -> tuple[slice, Nearest]:
        """The old voxels that the new positions ``start:stop`` need, and these positions among them."""
        lower = self.lower[start:stop]
        first, last = int(lower[0]), int(lower[-1])
        return slice(first, last + 1), Nearest(lower - first, self.identity)

    @property
    def upper(self) -> Tensor:
        """The last old voxel that each position needs: the only one."""
        return self.lower

    def apply(self, array: Tensor, axis: int) -> Tensor:
        """``array`` at the new positions along an axis."""
        return array if self.identity else take(array, axis, self.lower)


@dataclass(frozen=True)
class Linear:
    """Every new position is a weighted pair of neighbours: (m,) int64 indices and (m,) weights that add up to 1."""

    lower: Tensor
    upper: Tensor
    lower_weight: Tensor
    upper_weight: Tensor

    @staticmethod
    def between(old: int, new: int, device: torch.device, dtype: torch.dtype) -> Linear:
        """From ``old`` voxels of an axis to ``new`` ones of the same extent."""
        where = positions(old, new)
        lower = np.floor(where)
        tables = lower, lower + 1, 1 - (where - lower), where - lower
        indices = (torch.from_numpy(index.clip(0, old - 1).astype(np.int64)).to(device) for index in tables[:2])
        weights = (torch.from_numpy(weight).to(device, dtype) for weight in tables[2:])
        return Linear(*indices, *weights)

    def part(self, start: int, stop: int) -> tuple[slice, Linear]:
        """The old voxels that the new positions ``start:stop`` need, and these positions among them."""
        lower, upper = self.lower[start:stop], self.upper[start:stop]
        first, last = int(lower[0]), int(upper[-1])
        weights = self.lower_weight[start:stop], self.upper_weight[start:stop]
        return slice(first, last + 1), Linear(lower - first, upper - first, *weights)

    def apply(self, array: Tensor, axis: int) -> Tensor:
        """Two products and a sum, each rounded on its own, so that any subset of positions gets the same bits."""
        shape = [-1 if a == axis else 1 for a in range(array.ndim)]
        upper = take(array, axis, self.upper).mul_(self.upper_weight.view(shape))
        return take(array, axis, self.lower).mul_(self.lower_weight.view(shape)).add_(upper)


Operator = Nearest | Linear


def linear_operators(
    old: Sequence[int], new: Sequence[int], thick_axis: int | None, device: torch.device, dtype: torch.dtype
) -> list[Operator]:
    """The three operators of order 1: nearest along the thick axis, and along those that stay as they are."""
    return [
        Nearest.between(n, m, device) if axis == thick_axis or n == m else Linear.between(n, m, device, dtype)
        for axis, (n, m) in enumerate(zip(old, new, strict=True))
    ]


@dataclass(frozen=True)
class Cubic:
    """A banded (size, n) matrix, as blocks of rows and of the columns that are not zero there."""

    size: int
    blocks: list[tuple[slice, slice, Tensor]]

    @staticmethod
    def between(old: int, new: int, device: torch.device, dtype: torch.dtype) -> Cubic:
        """From ``old`` voxels of an axis to ``new`` ones of the same extent."""
        matrix = cubic_matrix(old, new)
        blocks = []
        for start in range(0, new, BAND_ROWS):
            rows = slice(start, min(start + BAND_ROWS, new))
            columns = np.flatnonzero((np.abs(matrix[rows]) > torch.finfo(dtype).eps / 16).any(axis=0))
            band = slice(int(columns[0]), int(columns[-1]) + 1)
            blocks.append((rows, band, torch.tensor(matrix[rows, band], dtype=dtype, device=device)))
        return Cubic(new, blocks)

    def part(self, start: int, stop: int) -> tuple[slice, Cubic]:
        """The old voxels that the new positions ``start:stop`` need, and these positions among them."""
        touched = [block for block in self.blocks if block[0].start < stop and start < block[0].stop]
        first, last = touched[0][1].start, touched[-1][1].stop
        blocks = []
        for rows, band, matrix in touched:
            low, high = max(rows.start, start), min(rows.stop, stop)
            own = slice(band.start - first, band.stop - first)
            blocks.append((slice(low - start, high - start), own, matrix[low - rows.start : high - rows.start]))
        return slice(first, last), Cubic(stop - start, blocks)

    def apply(self, array: Tensor, axis: int, out: Tensor | None = None) -> Tensor:
        """``array`` (Z, Y, X), contiguous, multiplied along ``axis``, in ``out`` where that is given."""
        if out is None:
            out = array.new_empty([self.size if a == axis else length for a, length in enumerate(array.shape)])
        for rows, band, block in self.blocks:
            if axis == 2:
                torch.mm(array.flatten(0, 1)[:, band], block.T, out=out.flatten(0, 1)[:, rows])
            elif axis == 1:
                out[:, rows] = block @ array[:, band]
            else:
                torch.mm(block, array[band].flatten(1), out=out[rows].flatten(1))
        return out


def positions(old: int, new: int) -> np.ndarray:
    """(new,) centres of the new voxels, counted in old voxels; the first may lie before 0, the last after old - 1."""
    return (np.arange(new) + 0.5) * (old / new) - 0.5


def nearest_index(old: int, new: int) -> np.ndarray:
    """(new,) int64: the old voxel nearest to each new one; half-way between two, the upper."""
    return np.floor(positions(old, new) + 0.5).astype(np.int64)


@lru_cache(maxsize=32)
def cubic_matrix(old: int, new: int) -> np.ndarray:
    """(new, old) float64: cubic B-spline interpolation, with its prefilter and scipy's treatment of the ends."""
    unit_impulses = np.eye(old)
    matrix = np.asarray(ndimage.zoom(unit_impulses, (new / old, 1), order=3, mode="nearest", grid_mode=True), float)
    matrix.setflags(write=False)
    return matrix
