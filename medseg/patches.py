"""Where patches lie: positions for training, tiles and their weights for prediction.

Everything here is arithmetic on sizes; axes are (Z, Y, X), or (Y, X) in two dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

# Width of the Gaussian weight of a tile as part of its size, and its height: nnU-Net's values.
GAUSSIAN_SIGMA = 1 / 8


def tile_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """Starts of tiles along one axis: neighbours lie at most ``step`` patches apart, evenly spread, ends covered."""
    if size <= patch:
        return (0,)
    count = math.ceil((size - patch) / (patch * step)) + 1
    return tuple(round((size - patch) * i / (count - 1)) for i in range(count))


def patches_in(shape: Sequence[int], patch_size: Sequence[int]) -> float:
    """How many patches' worth of voxels a scan (Z, Y, X) holds, at least one along each axis; slices for (Y, X)."""
    size = patch_size if len(patch_size) == len(shape) else (1, *patch_size)
    return math.prod(max(1.0, length / patch) for length, patch in zip(shape, size, strict=True))


@lru_cache(maxsize=8)
def gaussian_weights(patch_size: tuple[int, ...]) -> np.ndarray:
    """Weight of each voxel of a tile, float32, 1 at its centre and falling towards the borders, never zero."""
    weights = np.zeros(patch_size)
    weights[tuple(size // 2 for size in patch_size)] = 1.0
    weights = gaussian_filter(weights, [size * GAUSSIAN_SIGMA for size in patch_size], mode="constant")
    weights = (weights / weights.max()).astype(np.float32)
    # The peer keeps weights in half precision, where the far corners vanish and get the smallest weight that is left.
    weights[weights < _SMALLEST_WEIGHT] = weights[weights >= _SMALLEST_WEIGHT].min()
    weights.setflags(write=False)
    return weights


_SMALLEST_WEIGHT = 6e-9  # the smallest half-precision number (6e-8) at the peer's height of 10


def padding(shape: Sequence[int], patch_size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Voxels to add before and after each axis so that a patch fits; the odd one goes after."""
    missing = [max(0, patch - size) for size, patch in zip(shape, patch_size, strict=True)]
    return tuple((total // 2, total - total // 2) for total in missing)


def random_start(
    shape: Sequence[int],
    patch_size: Sequence[int],
    around: np.ndarray | Sequence[int] | None,
    generator: np.random.Generator,
) -> tuple[int, ...]:
    """Start of a training patch, uniform among those that stay inside; centred where the scan is smaller.

    Args:
        around: a voxel to be at the centre, as far as the borders allow.
    """
    starts = []
    for axis, (size, patch) in enumerate(zip(shape, patch_size, strict=True)):
        if size <= patch:
            starts.append(-((patch - size) // 2))
        elif around is None:
            starts.append(int(generator.integers(0, size - patch + 1)))
        else:
            starts.append(min(max(int(around[axis]) - patch // 2, 0), size - patch))
    return tuple(starts)


def copy_patch(source: Any, start: Sequence[int], target: Any) -> None:
    """Copy the patch of ``target``'s size at ``start`` into it, both of them arrays or both tensors.

    The last axes are spatial, leading ones are copied. ``start`` may reach beyond the source; voxels outside are left
    as they are in ``target``.
    """
    lead = target.ndim - len(start)
    take: list[slice] = [slice(None)] * lead
    put: list[slice] = [slice(None)] * lead
    for begin, size, patch in zip(start, source.shape[lead:], target.shape[lead:], strict=True):
        low, high = max(begin, 0), min(begin + patch, size)
        if low >= high:
            return
        take.append(slice(low, high))
        put.append(slice(low - begin, high - begin))
    target[tuple(put)] = source[tuple(take)]
