"""Slices that a tilted gantry shifted against each other, moved back onto an upright grid."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from medseg.dicom.geometry import Arrangement, upright_extent


def sheared_out(array: np.ndarray, arrangement: Arrangement) -> np.ndarray:
    """Sheared slices (C, Z, Y, X) on the grid that :func:`medseg.dicom.geometry.grid` gives, in the same type.

    Each slice moves within its plane by a part of a pixel (cubic spline, kept within the slice's own values) and by
    whole pixels. What no slice covers has the lowest value of the volume.
    """
    (first_row, first_column), (rows, columns) = upright_extent(arrangement, *array.shape[2:])
    out = np.full((*array.shape[:2], rows, columns), array.min(), array.dtype)
    for index in range(array.shape[1]):
        down = arrangement.drift[0] * index - first_row
        right = arrangement.drift[1] * index - first_column
        row, column = math.floor(down + 1e-9), math.floor(right + 1e-9)
        moved = _moved(array[:, index], down - row, right - column)
        height, width = min(moved.shape[1], rows - row), min(moved.shape[2], columns - column)
        out[:, index, row : row + height, column : column + width] = moved[:, :height, :width]
    return out


def _moved(pictures: np.ndarray, down: float, right: float) -> np.ndarray:
    """Pictures (C, Y, X) moved by less than a pixel; one more row and column where that is needed to hold them."""
    if max(down, right) < 1e-6:
        return pictures
    more = [(0, 0), (0, int(down >= 1e-6)), (0, int(right >= 1e-6))]
    padded = np.pad(pictures, more, mode="edge").astype(np.float32)
    moved = np.stack([ndimage.shift(picture, (down, right), order=3, mode="nearest") for picture in padded])
    moved = np.clip(moved, pictures.min(), pictures.max())
    return (moved if pictures.dtype.kind == "f" else np.rint(moved)).astype(pictures.dtype)
