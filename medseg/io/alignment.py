"""Images brought onto the grid of another, where that was asked for."""

from __future__ import annotations

import logging

import numpy as np
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.volume import Geometry, Volume

log = logging.getLogger(__name__)


def onto(volume: Volume, grid: Geometry, what: str) -> Volume:
    """An image (C, Z, Y, X) at the voxel centres of another grid, linearly between its own, as float32.

    Outside of its voxels lies its lowest value. Nothing is smoothed before, so a much coarser grid keeps noise.

    Args:
        what: names the image in messages.

    Raises:
        GeometryError: the two do not overlap.
    """
    to_own = np.linalg.inv(volume.geometry.affine) @ grid.affine
    y, x = np.meshgrid(np.arange(grid.shape[1]), np.arange(grid.shape[2]), indexing="ij")
    out = np.empty((volume.channels, *grid.shape), np.float32)
    low = volume.array.min(axis=(1, 2, 3))
    limits = np.array(volume.geometry.shape)[:, None, None] - 0.5
    outside = 0
    for z in range(grid.shape[0]):
        where = np.tensordot(to_own[:3, :3], np.stack([np.full_like(y, z), y, x]), 1) + to_own[:3, 3, None, None]
        beyond = ((where < -0.5) | (where > limits)).any(axis=0)
        outside += int(np.count_nonzero(beyond))
        for channel, lowest, result in zip(volume.array, low, out, strict=True):
            ndimage.map_coordinates(channel, where, result[z], order=1, mode="nearest")
            result[z][beyond] = lowest
    total = int(np.prod(grid.shape))
    if outside == total:
        raise GeometryError(
            f"{what}: no part of it lies within the first channel, whose grid is {grid}; give channels of one place"
        )
    log.info("%s: resampled onto the first channel, of which it covers %.0f %%", what, 100 * (1 - outside / total))
    return Volume(out, grid)
