"""What a file says about its image before any voxel is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.volume import Geometry


@dataclass(frozen=True)
class Header:
    """Shape, grid and type of an image file.

    Attributes:
        channels: number of channels C.
        geometry: the grid, shape (Z, Y, X).
        dtype: the type that :func:`medseg.io.read` returns.
    """

    channels: int
    geometry: Geometry
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sizes along (C, Z, Y, X)."""
        return (self.channels, *self.geometry.shape)


def native(array: np.ndarray) -> np.ndarray:
    """The array in a type that every later step computes with: native byte order, no bool, float32 or float64."""
    return array.astype(native_dtype(array.dtype), copy=False)


def native_dtype(dtype: np.dtype) -> np.dtype:
    """The type :func:`native` converts to.

    Raises:
        ValueError: voxels that are no numbers, or complex ones.
    """
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind not in "iuf":
        raise ValueError(f"voxels are {dtype}, expected integers or real numbers; split colour or complex parts first")
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return dtype.newbyteorder("=")


def storable(array: np.ndarray) -> np.ndarray:
    """The array in the type that is written: native, but integers of 64 bits, which few programs read, narrowed."""
    array = native(array)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        return narrowed(array, (np.uint8, np.uint16, np.int16, np.int32, np.int64))
    return array


def narrowed(array: np.ndarray, kinds: tuple[type[np.integer], ...]) -> np.ndarray:
    """An integer array in the first of some types that holds all its values.

    Raises:
        ValueError: none does.
    """
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    for kind in kinds:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind, copy=False)
    raise ValueError(f"values from {low} to {high} do not fit into {', '.join(kind.__name__ for kind in kinds)}")
