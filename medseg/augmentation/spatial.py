"""Crop, turn, scale and mirror a batch, on its own device. Images are blended, labels never."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from medseg.augmentation.parameters import AugmentationParameters, sampling_matrices


def resample(
    batch: Tensor, parameters: AugmentationParameters, patch_size: Sequence[int], mode: str, fill: int = 0
) -> Tensor:
    """The central (B, C, *patch_size) of a (B, C, *source) batch, turned and scaled; ``fill`` outside the source.

    ``mode`` is ``bilinear`` (trilinear in 3D) for images or ``nearest`` for labels. Samples that are neither turned
    nor scaled are cropped, which changes no voxel.
    """
    result = _central(batch, patch_size).clone(memory_format=torch.contiguous_format)
    warped = parameters.warped.nonzero().flatten()
    if not len(warped):
        return result
    matrices = sampling_matrices(parameters)[warped]
    if parameters.in_plane:
        # Slices of one sample share their grid: they are channels of one flat image.
        height_width = tuple(patch_size)[-2:]
        index = warped.to(batch.device, non_blocking=True)
        slices = _central(batch, (*patch_size[:-2], *batch.shape[-2:])).index_select(0, index).flatten(1, -3)
        grid = _grid(matrices[:, -2:, -2:], height_width, slices.shape[-2:], result)
        moved = _sample(slices, grid, mode, fill)
        result.index_copy_(0, index, moved.reshape(-1, *result.shape[1:]).to(result.dtype))
        return result
    for sample, matrix in zip(warped.tolist(), matrices, strict=True):
        grid = _grid(matrix[None], patch_size, batch.shape[-3:], result)[0, :, None]
        # Slices as a batch of views on one volume: grid_sample shares out a batch, not a volume, over threads.
        moved = _sample(batch[sample, None], grid, mode, fill)
        result[sample] = moved.squeeze(2).movedim(0, 1)
    return result


def mirror(batch: Tensor, axes: Tensor) -> Tensor:
    """A (B, C, *patch) batch with each sample reversed along its own axes, (B, D) bool on the CPU."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for sample, flips in enumerate(axes.tolist()):
        alike[tuple(axis + 2 for axis, flip in enumerate(flips) if flip)].append(sample)
    if len(alike) == 1:
        return batch.flip(next(iter(alike)))
    result = torch.empty_like(batch)
    for flips, samples in alike.items():
        index = torch.tensor(samples).to(batch.device, non_blocking=True)
        result.index_copy_(0, index, batch.index_select(0, index).flip(flips))
    return result


def swap_labels(labels: Tensor, parameters: AugmentationParameters) -> Tensor:
    """(B, *patch) labels with left and right exchanged in the samples that were mirrored along their axis."""
    for axis, pairs in parameters.mirror_swaps:
        mirrored = parameters.mirror[:, axis]
        if not mirrored.any():
            continue
        here = mirrored.to(labels.device, non_blocking=True).view(-1, *[1] * (labels.ndim - 1))
        swapped = labels
        for left, right in pairs:
            swapped = swapped.masked_fill((labels == left) & here, right)
            swapped = swapped.masked_fill((labels == right) & here, left)
        labels = swapped
    return labels


def _central(batch: Tensor, size: Sequence[int]) -> Tensor:
    """The central (..., *size) of a (..., *source) batch, as a view."""
    for axis, length in zip(range(-len(size), 0), size, strict=True):
        batch = batch.narrow(axis, (batch.shape[axis] - length) // 2, length)
    return batch


def _grid(matrices: Tensor, size: Sequence[int], source: Sequence[int], like: Tensor) -> Tensor:
    """(N, *size, D) positions for ``grid_sample``: N (D, D) matrices about the centre of the central ``size``.

    Sums of one vector an axis: far cheaper than ``affine_grid``, which multiplies every position by the matrix.
    """
    dimensions = len(size)
    extent = torch.tensor(tuple(source), dtype=torch.float64)
    start = torch.tensor([(long - short) // 2 for long, short in zip(source, size, strict=True)])
    centre = (2 * start + torch.tensor(tuple(size))) / extent - 1
    # grid_sample counts axes from the last, in units of half the source; ours are in voxels from the first.
    dtype = like.dtype if like.is_floating_point() else torch.float32
    steps = (2 * matrices / extent[:, None]).flip(1).to(dtype).to(like.device, non_blocking=True)
    centre = centre.flip(0).to(dtype).to(like.device, non_blocking=True)
    positions = centre.view(1, -1, *[1] * dimensions)
    for axis, length in enumerate(size):
        offsets = torch.arange(length, dtype=dtype, device=like.device) - (length - 1) / 2
        offsets = offsets.view(-1, *[1] * (dimensions - 1 - axis))
        positions = positions + steps[:, :, axis].view(len(matrices), -1, *[1] * dimensions) * offsets
    return positions.movedim(1, -1)


def _sample(source: Tensor, grid: Tensor, mode: str, fill: int) -> Tensor:
    source = source.to(grid.dtype)
    source = source - fill if fill else source
    source = source.expand(len(grid), *[-1] * (source.ndim - 1))
    moved = grid_sample(source, grid, mode=mode, padding_mode="zeros", align_corners=False)
    return moved + fill if fill else moved
