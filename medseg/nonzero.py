"""The part of a scan that is not zero: what preparing keeps of it, and what some normalisation looks at."""

from __future__ import annotations

from typing import cast

import numpy as np

from medseg.volume import Box, bounding_box


def nonzero_mask(array: np.ndarray) -> np.ndarray:
    """Where any channel of a (C, Z, Y, X) image is not zero, with holes filled, as (Z, Y, X) bool.

    Holes are zeros that no path of face neighbours leads out of (``scipy.ndimage.binary_fill_holes``, as in nnU-Net).
    """
    mask = _any_nonzero(array)
    box = bounding_box(mask)
    if box is not None and not mask[box.slices].all():
        mask[box.slices] |= _holes(mask[box.slices])
    return mask


def nonzero_box(array: np.ndarray) -> Box:
    """The box around :func:`nonzero_mask`, without the work of filling holes; the whole image if all of it is zero.

    Looks at one plane at a time, so that it needs no memory to speak of.
    """
    z, y, x = array.shape[1:]
    planes, rows, columns = (np.zeros(size, dtype=bool) for size in (z, y, x))
    for index in range(z):
        mask = _any_nonzero(array[:, index])
        in_rows = mask.any(axis=1)
        planes[index] = in_rows.any()
        rows |= in_rows
        columns |= mask.any(axis=0)
    if not planes.any():
        return Box((0, 0, 0), (z, y, x))
    taken = [np.flatnonzero(along) for along in (planes, rows, columns)]
    (z0, z1), (y0, y1), (x0, x1) = ((int(where[0]), int(where[-1]) + 1) for where in taken)
    return Box((z0, y0, x0), (z1, y1, x1))


def _any_nonzero(array: np.ndarray) -> np.ndarray:
    mask = array[0] != 0
    for channel in array[1:]:
        mask |= channel != 0
    return mask


def _holes(mask: np.ndarray) -> np.ndarray:
    """Zeros of a mask that do not reach its border. Components of the background are found in a third of the time that
    repeated dilation from the border takes."""
    from scipy import ndimage

    components, count = cast(tuple[np.ndarray, int], ndimage.label(~mask))
    is_hole = np.ones(count + 1, dtype=bool)
    is_hole[0] = False
    for axis in range(mask.ndim):
        for side in (0, -1):
            is_hole[np.unique(components.take(side, axis=axis))] = False
    return is_hole[components]
