"""Scans as values: an array that never travels without the grid it lies on.

Arrays are (Z, Y, X), images with a channel axis first. A grid maps an array index (z, y, x) to RAS+ millimetres
(x to the patient's right, y to anterior, z to superior). Operations return new values; nothing here resamples.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, UsageError
from medseg.orientation import AxisChange, change_to, orientation_of

# Two grids count as equal when no voxel centre of one lies further than this part of a voxel from its partner.
# Headers store single precision; rotating through quaternions moves the far corner of a big scan by about 1e-3 voxels.
EQUAL_WITHIN_VOXELS = 0.02
# Columns of an affine at less than 90 degrees: a scanner's oblique grid is orthogonal, a sheared one is an error.
ORTHOGONAL_WITHIN = 0.02


@dataclass(frozen=True)
class Box:
    """A box of voxels: ``start`` (z, y, x) included, ``stop`` excluded."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into a (Z, Y, X) array."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid: ``shape`` (Z, Y, X) and ``affine`` (4, 4) from index (z, y, x, 1) to RAS+ mm.

    Raises:
        GeometryError: the affine is no 4x4 matrix of finite numbers, is singular or sheared, or a size is not positive.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64) + 0.0  # -0.0 becomes 0.0: equal grids have equal bytes
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GeometryError(f"a grid needs three positive sizes (Z, Y, X), found {tuple(self.shape)}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError(f"an affine is a finite 4x4 matrix with last row 0 0 0 1, found {affine.tolist()}")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() <= 0:
            raise GeometryError(f"voxel spacing must be positive, found {spacing.tolist()} mm")
        cosines = affine[:3, :3] / spacing
        off_diagonal = np.abs(cosines.T @ cosines - np.eye(3)).max()
        if off_diagonal > ORTHOGONAL_WITHIN:
            raise GeometryError(
                f"grid axes are not orthogonal (cosine {off_diagonal:.3f}): a sheared grid; resample it first"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))

    @classmethod
    def from_spacing(
        cls, shape: Sequence[int], spacing_mm: Sequence[float], origin_mm: Sequence[float] = (0.0, 0.0, 0.0)
    ) -> Geometry:
        """An axis-aligned RAS grid: spacing (z, y, x) in mm, origin (x, y, z) in mm."""
        affine = np.zeros((4, 4))
        for axis, spacing in enumerate(spacing_mm):
            affine[2 - axis, axis] = spacing
        affine[:3, 3] = origin_mm
        affine[3, 3] = 1.0
        z, y, x = shape
        return cls((z, y, x), affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (z, y, x)."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return z, y, x

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def orientation(self) -> str:
        """Nearest anatomical directions of the axes in file order (x, y, z), such as ``"RAS"`` or ``"LPS"``."""
        return orientation_of(self.affine)

    def change_to(self, orientation: str) -> AxisChange:
        """The exchange and reversal of axes that brings this grid nearest to an orientation such as ``"RAS"``.

        Raises:
            UsageError: the orientation does not name each of R/L, A/P and S/I once.
        """
        return change_to(self.affine, orientation)

    def changed(self, change: AxisChange) -> Geometry:
        """The grid of an array whose axes were exchanged and reversed."""
        affine = self.affine.copy()
        affine[:, :3] = self.affine[:, list(change.order)]
        z, y, x = (self.shape[axis] for axis in change.order)
        for axis, (flip, size) in enumerate(zip(change.flips, (z, y, x), strict=True)):
            if flip:
                affine[:3, 3] += affine[:3, axis] * (size - 1)
                affine[:3, axis] *= -1
        return Geometry((z, y, x), affine)

    def cropped(self, box: Box) -> Geometry:
        """The grid of a box of this grid; the box may reach beyond it (padding)."""
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ np.array(box.start, dtype=np.float64) + self.affine[:3, 3]
        return Geometry(box.shape, affine)

    def resized(self, shape: Sequence[int]) -> Geometry:
        """The grid of the same field of view divided into other voxels (outer edges stay where they are)."""
        z, y, x = shape
        scale = np.array(self.shape, dtype=np.float64) / np.array((z, y, x), dtype=np.float64)
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * scale
        affine[:3, 3] = self.affine[:3, :3] @ ((scale - 1) / 2) + self.affine[:3, 3]
        return Geometry((z, y, x), affine)

    def to_mm(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """RAS+ mm (..., 3) of array indices (..., 3) in order z, y, x."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Array indices (..., 3) in order z, y, x of RAS+ mm (..., 3)."""
        return (np.asarray(mm, dtype=np.float64) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def distance_voxels(self, other: Geometry) -> float:
        """Largest distance between partner voxel centres of two grids, in voxels; infinite if shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        corners = np.array(list(itertools.product(*((0, size - 1) for size in self.shape))), dtype=np.float64)
        apart = np.linalg.norm(self.to_mm(corners) - other.to_mm(corners), axis=-1).max()
        # A grid one voxel thick says nothing along that axis at its corners, so the directions are compared as well.
        turned = np.linalg.norm(self.affine[:3, :3] - other.affine[:3, :3], axis=0).max()
        return float(max(apart, turned) / min(*self.spacing_mm, *other.spacing_mm))

    def require_equal(self, other: Geometry, this: str, that: str) -> None:
        """Raise unless both grids are equal within ``EQUAL_WITHIN_VOXELS``.

        Raises:
            GeometryError: names both grids and how far they lie apart.
        """
        apart = self.distance_voxels(other)
        if apart > EQUAL_WITHIN_VOXELS:
            how = "shapes differ" if np.isinf(apart) else f"voxel centres lie up to {apart:.3g} voxels apart"
            raise GeometryError(f"{this} and {that} lie on different grids ({how}): {self} against {other}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Geometry) and self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        spacing = "x".join(f"{value:.4g}" for value in self.spacing_mm)
        origin = ", ".join(f"{value:.4g}" for value in self.affine[:3, 3])
        return f"{shape} voxels (z, y, x) of {spacing} mm, {self.orientation}, origin ({origin}) mm"


@dataclass(frozen=True, eq=False)
class Volume:
    """An image: ``array`` (C, Z, Y, X) and the grid it lies on.

    Raises:
        GeometryError: the array's shape is not that of the grid.
    """

    array: np.ndarray = field(repr=False)
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape:
            raise GeometryError(f"an image on {self.geometry} has shape (C, Z, Y, X), found {self.array.shape}")

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.array.shape[0]

    def changed(self, change: AxisChange) -> Volume:
        """The same image with its axes exchanged and reversed."""
        return Volume(change.apply(self.array), self.geometry.changed(change))

    def cropped(self, box: Box) -> Volume:
        """The part of the image inside a box that lies within it."""
        return Volume(self.array[(slice(None), *box.slices)], self.geometry.cropped(box))

    def with_array(self, array: np.ndarray) -> Volume:
        """Another image (C, Z, Y, X) on the same grid."""
        return replace(self, array=array)


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """A mask: integer ``array`` (Z, Y, X), its grid, and what the values mean (name to value, or values of a region).

    Raises:
        GeometryError: the array's shape is not that of the grid.
        UsageError: the array does not hold integers.
    """

    array: np.ndarray = field(repr=False)
    geometry: Geometry
    labels: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise GeometryError(f"a mask on {self.geometry} has shape (Z, Y, X), found {self.array.shape}")
        if not np.issubdtype(self.array.dtype, np.integer):
            raise UsageError(f"a mask holds integers, found {self.array.dtype}")

    def changed(self, change: AxisChange) -> LabelVolume:
        """The same mask with its axes exchanged and reversed."""
        return LabelVolume(change.apply(self.array), self.geometry.changed(change), self.labels)

    def cropped(self, box: Box) -> LabelVolume:
        """The part of the mask inside a box that lies within it."""
        return LabelVolume(self.array[box.slices], self.geometry.cropped(box), self.labels)

    def with_array(self, array: np.ndarray) -> LabelVolume:
        """Another mask (Z, Y, X) on the same grid with the same meaning of values."""
        return replace(self, array=array)

    def volume_ml(self, name: str) -> float:
        """Volume of one named label or region in millilitres.

        Raises:
            UsageError: the mask names no such label; says which it names.
        """
        if name not in self.labels:
            raise UsageError(f"no label {name!r} in this mask; its labels are {', '.join(self.labels) or 'not named'}")
        return float(np.isin(self.array, self.labels[name]).sum()) * self.geometry.voxel_volume_ml

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask; the ending of ``path`` chooses the format.

        Raises:
            UsageError, StorageError: as :func:`medseg.io.write`.
        """
        from medseg import io

        io.write(self, path)


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the true voxels of a (Z, Y, X) mask, or None where there are none."""
    start, stop = [], []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not hits.size:
            return None
        start.append(int(hits[0]))
        stop.append(int(hits[-1]) + 1)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
