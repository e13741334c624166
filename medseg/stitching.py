"""Logits of a whole scan from overlapping windows, slab by slab along the first axis.

Windows are visited in order of that axis. As soon as no later window touches a plane it is finished and handed on, so
the memory needed depends on the patch, the outputs and the size of a plane, not on the number of planes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch

from medseg import patches
from medseg.networks.memory import give_back_freed_memory

# Logits (B, K, ...) float32 of windows (B, C, ...) on the same device.
WindowLogits = Callable[[torch.Tensor], torch.Tensor]
Window = tuple[slice, ...]
T = TypeVar("T")


class Planes(Protocol):
    """A scan that is made a few planes at a time."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, Z, Y, X)."""
        ...

    def planes(self, start: int, stop: int) -> torch.Tensor:
        """Planes from ``start`` to ``stop`` (C, n, Y, X) float32, on the CPU. Each is asked for once, in order."""
        ...


def stitch(
    scan: Planes,
    patch_size: Sequence[int],
    step: float,
    outputs: int,
    window_logits: WindowLogits,
    *,
    together: int,
    device: torch.device,
    sums_device: torch.device | None = None,
) -> Iterator[torch.Tensor]:
    """Weighted mean of the windows' logits, as consecutive slabs (K, n, Y, X) float32 of the scan's planes.

    A slab may be overwritten as soon as the next one is asked for. Zeros are put around a scan that is smaller than the
    patch. If the device runs out of memory, fewer windows are computed at once.

    Args:
        patch_size: (Z, Y, X), or (Y, X) for windows in each plane.
        step: distance of neighbouring windows as part of the patch, in (0, 1].
        outputs: K, the channels of ``window_logits``.
        together: windows computed at once.
        device: where windows are computed.
        sums_device: where they are summed; by default the same.
    """
    if len(patch_size) == 2:
        return _stitch_planes(scan, tuple(patch_size), step, outputs, window_logits, together, device)
    return _stitch_slabs(scan, tuple(patch_size), step, outputs, window_logits, together, device, sums_device or device)


def window_starts(shape: Sequence[int], patch_size: Sequence[int], step: float) -> list[tuple[int, ...]]:
    """Where windows start along each axis of a scan of ``shape``, once zeros were put around it."""
    sizes = zip(shape, patch_size, strict=True)
    return [patches.tile_starts(max(size, patch), patch, step) for size, patch in sizes]


def _stitch_slabs(
    scan: Planes,
    patch: tuple[int, ...],
    step: float,
    outputs: int,
    window_logits: WindowLogits,
    together: int,
    device: torch.device,
    sums_device: torch.device,
) -> Iterator[torch.Tensor]:
    size = scan.shape[1:]
    before = tuple(low for low, _ in patches.padding(size, patch))
    plane = tuple(max(own, window) for own, window in zip(size[1:], patch[1:], strict=True))
    inside = tuple(slice(low, low + own) for low, own in zip(before[1:], size[1:], strict=True))
    starts = window_starts(size, patch, step)
    windows = [_slices(corner, patch[1:]) for corner in itertools.product(*starts[1:])]
    weights = torch.from_numpy(patches.gaussian_weights(patch).copy()).to(sums_device)
    image = torch.zeros((scan.shape[0], patch[0], *plane), device=device)
    total = torch.zeros((outputs, patch[0], *plane), device=sums_device)
    weight = torch.zeros((patch[0], *plane), device=sums_device)
    known = 0  # planes of the image that the window before had too
    for first, following in zip(starts[0], (*starts[0][1:], starts[0][-1] + patch[0]), strict=True):
        low, high = (min(max(at - before[0], 0), size[0]) for at in (first + known, first + patch[0]))
        if low < high:
            at = low + before[0] - first
            image[(slice(None), slice(at, at + high - low), *inside)] = scan.planes(low, high).to(device)
            give_back_freed_memory()
        for group in _groups(windows, together):
            for window in group:
                weight[(..., *window)] += weights
            _add(window_logits, [image[(..., *w)] for w in group], [total[(..., *w)] for w in group], weights)
        give_back_freed_memory()  # what it took to read planes, or to compute windows, must not add up
        finished = following - first
        low, high = max(0, before[0] - first), min(finished, before[0] + size[0] - first)
        if low < high:
            done = total[(slice(None), slice(low, high), *inside)]
            yield done.div_(weight[(slice(low, high), *inside)])
        known = patch[0] - finished
        for array, axis in ((image, 1), (total, 1), (weight, 0)):
            _move_up(array, axis, finished)


def _stitch_planes(
    scan: Planes,
    patch: tuple[int, ...],
    step: float,
    outputs: int,
    window_logits: WindowLogits,
    together: int,
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Windows of two dimensions: several planes at once, each on its own."""
    channels, count, *size = scan.shape
    before = tuple(low for low, _ in patches.padding(size, patch))
    plane = tuple(max(own, window) for own, window in zip(size, patch, strict=True))
    inside = _slices(before, size)
    windows = [_slices(corner, patch) for corner in itertools.product(*window_starts(size, patch, step))]
    weights = torch.from_numpy(patches.gaussian_weights(patch).copy()).to(device)
    weight = torch.zeros(plane, device=device)
    for window in windows:
        weight[window] += weights
    at_once = min(count, max(1, together // len(windows)))
    for first in range(0, count, at_once):
        planes = min(at_once, count - first)
        image = torch.zeros((channels, planes, *plane), device=device)
        image[(..., *inside)] = scan.planes(first, first + planes).to(device)
        total = torch.zeros((outputs, planes, *plane), device=device)
        for group in _groups(list(itertools.product(range(planes), windows)), together):
            here = [(slice(None), index, *window) for index, window in group]
            _add(window_logits, [image[place] for place in here], [total[place] for place in here], weights)
        yield total[(..., *inside)].div_(weight[inside])


def _add(
    window_logits: WindowLogits, windows: list[torch.Tensor], totals: list[torch.Tensor], weights: torch.Tensor
) -> None:
    """Weighted logits of windows into their places; a function, so that none are held while the next are computed."""
    for total, logits in zip(totals, _logits(window_logits, torch.stack(windows)), strict=True):
        total.addcmul_(logits.to(weights.device), weights)


def _logits(window_logits: WindowLogits, batch: torch.Tensor) -> torch.Tensor:
    """Of the windows in a batch; halves of it, one after the other, where the whole does not fit into memory."""
    try:
        return window_logits(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    half = len(batch) // 2  # outside of the handler, which would keep what has failed in memory
    return torch.cat([_logits(window_logits, batch[:half]), _logits(window_logits, batch[half:])])


def _slices(corner: Sequence[int], size: Sequence[int]) -> Window:
    return tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _move_up(array: torch.Tensor, axis: int, count: int) -> None:
    """Planes from ``count`` on move to the front, zeros follow; plane by plane, without a copy of the array."""
    planes = array.unbind(axis)
    for here, there in zip(planes, planes[count:], strict=False):
        here.copy_(there)
    for plane in planes[len(planes) - count :]:
        plane.zero_()
