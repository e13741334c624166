"""Logits of a whole scan from overlapping windows, slab by slab along the first axis.

Windows are visited in order of that axis. As soon as no later window touches a plane it is finished and handed on, so
the memory needed depends on the patch, the outputs and the size of a plane, not on the number of planes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

from medseg import patches

# Logits (B, K, ...) float32 of windows (B, C, ...) on the same device.
WindowLogits = Callable[[torch.Tensor], torch.Tensor]
Slices = tuple[slice, ...]


def stitch(
    image: torch.Tensor,
    patch_size: Sequence[int],
    step: float,
    outputs: int,
    window_logits: WindowLogits,
    *,
    together: int,
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Weighted mean of the windows' logits, as consecutive slabs (K, n, ...) float32 of the image's planes.

    Args:
        image: (C, Z, Y, X) or (C, Y, X), on the CPU; zeros are put around it where it is smaller than the patch.
        step: distance of neighbouring windows as part of the patch, in (0, 1].
        outputs: K, the channels of ``window_logits``.
        together: windows computed at once.
        device: where windows are computed and summed.
    """
    patch = tuple(patch_size)
    before = tuple(low for low, _ in patches.padding(image.shape[1:], patch))
    padded = tuple(max(size, window) for size, window in zip(image.shape[1:], patch, strict=True))
    starts = [patches.tile_starts(size, window, step) for size, window in zip(padded, patch, strict=True)]
    weights = torch.from_numpy(patches.gaussian_weights(patch).copy()).to(device)
    total = torch.zeros((outputs, patch[0], *padded[1:]), device=device)
    weight = torch.zeros((patch[0], *padded[1:]), device=device)
    inside = tuple(slice(low, low + size) for low, size in zip(before[1:], image.shape[2:], strict=True))
    for first, following in zip(starts[0], (*starts[0][1:], starts[0][-1] + patch[0]), strict=True):
        slab = _padded_slab(image, first - before[0], patch[0], before[1:], padded[1:])
        windows = [
            tuple(slice(start, start + size) for start, size in zip(corner, patch[1:], strict=True))
            for corner in itertools.product(*starts[1:])
        ]
        for group in (windows[i : i + together] for i in range(0, len(windows), together)):
            batch = torch.stack([slab[(..., *window)] for window in group]).to(device)
            for window, logits in zip(group, window_logits(batch), strict=True):
                total[(..., *window)] += logits * weights
                weight[(..., *window)] += weights
        finished = following - first
        low = max(0, before[0] - first)
        high = min(finished, before[0] + image.shape[1] - first)
        if low < high:
            planes = (slice(low, high), *inside)
            yield total[(slice(None), *planes)] / weight[planes]
        for sums, axis in ((total, 1), (weight, 0)):
            kept = patch[0] - finished
            sums.narrow(axis, 0, kept).copy_(sums.narrow(axis, finished, kept).clone())
            sums.narrow(axis, kept, finished).zero_()


def _padded_slab(
    image: torch.Tensor, first: int, planes: int, before: Sequence[int], size: Sequence[int]
) -> torch.Tensor:
    """Planes ``first`` to ``first + planes`` of an image (C, Z, ...), zeros where there are none and around each."""
    low, high = max(first, 0), min(first + planes, image.shape[1])
    slab = image[:, low:high]
    amounts = [(low - first, first + planes - high)]
    for start, own, wanted in zip(before, image.shape[2:], size, strict=True):
        amounts.append((start, wanted - own - start))
    flat = [amount for pair in reversed(amounts) for amount in pair]
    return F.pad(slab, flat) if any(flat) else slab
