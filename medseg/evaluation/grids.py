"""A mask on another grid, for those who ask for it: each voxel takes the value at its centre, nothing is blended."""

from __future__ import annotations

import numpy as np

from medseg.volume import Geometry, LabelVolume


def onto_grid(mask: LabelVolume, grid: Geometry, outside: int = 0) -> LabelVolume:
    """The mask as seen from another grid, whatever its axes, spacing and extent: the nearest voxel's value.

    Args:
        mask: stays as it is.
        grid: where the result lies.
        outside: value of voxels whose centre lies beyond the mask's voxels.
    """
    from scipy.ndimage import affine_transform

    to_mask = np.linalg.inv(mask.geometry.affine) @ grid.affine
    array = affine_transform(
        mask.array,
        to_mask[:3, :3],
        to_mask[:3, 3],  # type: ignore[arg-type]
        output_shape=grid.shape,
        order=0,
        mode="grid-constant",
        cval=outside,
        prefilter=False,
    )
    return LabelVolume(np.asarray(array), grid, mask.labels)
