"""clDice, for tubes (Shit et al. 2021, arXiv 2003.07311): does each centreline run inside the other mask?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from medseg.metrics.lesions import components
from medseg.metrics.masks import mask_pair


def cldice(prediction: ArrayLike, reference: ArrayLike) -> float:
    """Harmonic mean of the shares of each skeleton that lie inside the other mask.

    Args:
        prediction: (Z, Y, X) or (Y, X); nonzero is inside.
        reference: the same shape.

    Returns:
        NaN when both masks are empty, 0 when one is or neither skeleton meets the other mask.

    Raises:
        UsageError: shapes that differ, or values that are not integers.
    """
    masks = mask_pair(prediction, reference)
    filled = [bool(mask.any()) for mask in masks]
    if not all(filled):
        return 0.0 if any(filled) else float("nan")
    skeletons = [_skeleton(mask) for mask in masks]
    precision, sensitivity = (
        np.count_nonzero(skeleton & mask) / np.count_nonzero(skeleton)
        for skeleton, mask in zip(skeletons, reversed(masks), strict=True)
    )
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def _skeleton(mask: np.ndarray) -> np.ndarray:
    from skimage.morphology import skeletonize

    skeleton = np.asarray(skeletonize(mask))
    # Thinning erases some even-sided blocks altogether; such a component stands by its most central voxel.
    pieces = components(mask)
    for piece in np.setdiff1d(pieces, np.append(pieces[skeleton], 0)):
        voxels = np.argwhere(pieces == piece)
        offsets = voxels - voxels.mean(axis=0)
        skeleton[tuple(voxels[(offsets * offsets).sum(axis=1).argmin()])] = True
    return skeleton
