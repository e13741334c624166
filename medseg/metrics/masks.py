"""What is compared: two checked label arrays on one grid, and the box in which each label lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike

from medseg.errors import UsageError

Box = tuple[slice, ...]


def label_pair(prediction: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays as contiguous integers, (Y, X) or (Z, Y, X).

    Raises:
        UsageError: shapes that differ, another number of axes, no voxels, or values that are not integers.
    """
    pair = _as_integers(prediction, "prediction"), _as_integers(reference, "reference")
    shapes = pair[0].shape, pair[1].shape
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"metrics: prediction {shapes[0]} and reference {shapes[1]} differ in shape, expected one grid; "
            "bring the prediction onto the reference's grid first"
        )
    if len(shapes[0]) not in (2, 3) or 0 in shapes[0]:
        raise UsageError(
            f"metrics: expected arrays (Y, X) or (Z, Y, X) with voxels in them, found shape {shapes[0]}; "
            "take one channel or case at a time"
        )
    return pair


def mask_pair(prediction: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays as masks (nonzero is inside), cropped to the box around the two; raises as ``label_pair``."""
    masks = [array != 0 for array in label_pair(prediction, reference)]
    boxes = [box for mask in masks for box in label_boxes(mask.view(np.uint8)).values()]
    box = union(boxes) or (slice(0, 0),) * masks[0].ndim
    return masks[0][box], masks[1][box]


def checked_spacing(spacing_mm: Sequence[float], ndim: int) -> tuple[float, ...]:
    """The spacing as floats, one an axis.

    Raises:
        UsageError: another number of axes, or a value that is not a positive length.
    """
    spacing = tuple(float(value) for value in np.ravel(np.asarray(spacing_mm)))
    if len(spacing) != ndim or not all(isfinite(value) and value > 0 for value in spacing):
        raise UsageError(
            f"metrics: expected {ndim} positive spacings in mm, one for each array axis, found {spacing}; "
            "give them in the order of the axes"
        )
    return spacing


def checked_length_mm(value: float, name: str) -> float:
    """A positive length in mm.

    Raises:
        UsageError: it is not.
    """
    if not (isfinite(value) and value > 0):
        raise UsageError(f"metrics: {name} must be a positive length in mm, found {value}; give for example 1.0")
    return float(value)


def label_boxes(array: np.ndarray) -> dict[int, Box]:
    """Every nonzero value of an integer array with the smallest box that holds all its voxels.

    One pass at the speed of memory: only where a run of equal values starts or ends along the last axis can a label
    reach its extent, and such places are few.
    """
    flat = array.ravel()
    breaks = np.empty(flat.size + 1, bool)
    np.not_equal(flat[1:], flat[:-1], out=breaks[1:-1])
    breaks[-1] = flat[-1] != 0
    # A run that goes on from the end of one row to the start of the next is broken there.
    breaks[:-1].reshape(array.shape)[..., 0] |= array[..., 0] != 0
    places = np.flatnonzero(breaks)
    places = np.concatenate([places[places < flat.size], places[places > 0] - 1])
    values = flat[places]
    places, values = places[values != 0], values[values != 0]
    if not values.size:
        return {}
    order = np.argsort(values, kind="stable")
    values = values[order]
    firsts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    bounds = [
        (np.minimum.reduceat(index, firsts), np.maximum.reduceat(index, firsts) + 1)
        for index in np.unravel_index(places[order], array.shape)
    ]
    return {
        int(value): tuple(slice(int(low[i]), int(high[i])) for low, high in bounds)
        for i, value in enumerate(values[firsts])
    }


def union(boxes: Iterable[Box]) -> Box | None:
    """The smallest box around all of them; none around none."""
    boxes = list(boxes)
    if not boxes:
        return None
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*boxes, strict=True)
    )


def _as_integers(values: ArrayLike, name: str) -> np.ndarray:
    array = np.ascontiguousarray(values)
    if array.dtype == bool:
        return array.view(np.uint8)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            integers = array.astype(np.int32)
        if np.array_equal(integers, array):
            return integers
    raise UsageError(
        f"metrics: {name} must hold integer label values, found {array.dtype} values that are not; "
        "threshold or arg-max it first"
    )
