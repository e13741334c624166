"""Label maps on another grid: labels themselves, and the labels that resized logits give.

Both are decided cell by cell (a cell is the box between eight neighbouring old voxels). Where all corners agree, every
point inside has their label and nothing is computed; only new voxels in other cells, at boundaries, take arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from medseg.errors import UsageError
from medseg.resampling.axes import (
    Linear,
    Operator,
    cheapest_order,
    checked_shape,
    linear_operators,
    slabs,
    take,
)

AT_ONCE = 2**15  # voxels in one array: the cache holds them, and torch leaves as many to the thread that calls it

Array = TypeVar("Array", np.ndarray, Tensor)
Vote = Callable[[Iterable[Tensor], float], Tensor]
Pair = tuple[Tensor, Tensor]
Decide = Callable[[Tensor, list[Tensor], list[Pair]], Tensor]
Part = TypeVar("Part")
Done = TypeVar("Done")


@torch.no_grad()
def resize_argmax(logits: Tensor, shape: Sequence[int], thick_axis: int | None = None) -> Tensor:
    """``resize(logits, shape, 1, thick_axis).argmax(0)``, voxel for voxel, without resizing the logits.

    ``logits`` (C, Z, Y, X) are finite, of any floating type, layout and device; half precision becomes float32. The
    result (Z, Y, X) is uint8 for up to 256 channels, else int16 or int32; of equal logits the lowest channel wins.

    Beside the result this needs about six bytes an old voxel and 100 MB, whatever the number of channels.

    Raises UsageError for arguments of another form.
    """
    dtype = _checked_logits(logits, shape, thick_axis)
    return argmax_between(logits, *_way(logits, shape, thick_axis, dtype))


@torch.no_grad()
def resize_regions(
    logits: Tensor, shape: Sequence[int], values: Sequence[int], thick_axis: int | None = None
) -> Tensor:
    """The label map of overlapping regions: 0, then ``values[i]`` wherever region i is likely, one after the other.

    That is, of ``resize(logits, shape, 1, thick_axis)``, the value of the last region above 0 (a sigmoid above 0.5).
    ``logits`` (R, Z, Y, X) and the memory are as for ``resize_argmax``. The result (Z, Y, X) is uint8 where that holds
    the values and R, else int16 or int32.

    Raises UsageError for arguments of another form.
    """
    dtype = _checked_logits(logits, shape, thick_axis)
    if len(values) != len(logits):
        raise UsageError(f"values: expected {len(logits)}, one for each region, found {len(values)}")
    return regions_between(logits, values, *_way(logits, shape, thick_axis, dtype))


@torch.no_grad()
def resize_labels(labels: Array, shape: Sequence[int], thick_axis: int | None = None) -> Array:
    """Integer ``labels`` (Z, Y, X), numpy or torch, on ``shape`` voxels of the same extent; the same kind and type.

    A voxel gets the label whose mask, resized with order 1 in float64, reaches 0.5 there; the highest if several do, 0
    if none. With ``thick_axis`` the masks are resized within each slice across that axis, and the slices are then taken
    by nearest neighbour. This is how nnU-Net v2 resamples label maps.

    Beside the result this needs about six bytes an old voxel and 100 MB.

    Raises UsageError for arguments of another form.
    """
    old, new = checked_shape(labels, 3, shape, thick_axis)
    codes = _integer_tensor(labels)
    result = majority_between(codes, linear_operators(old, new, thick_axis, codes.device, torch.float64))
    if isinstance(labels, np.ndarray):
        return cast(Array, result.numpy().astype(labels.dtype, copy=False))
    return cast(Array, result.to(labels.dtype))


@torch.no_grad()
def argmax_between(logits: Tensor, operators: Sequence[Operator], order: Sequence[int]) -> Tensor:
    """``resize_argmax`` to where three operators of order 1 lead, blended in the ``order`` of axes."""
    dtype = _working_type(logits)
    code = _smallest_type(0, len(logits) - 1)
    # Each interpolated logit is the same increasing function of its corners, so a winner at all corners wins between
    # them. Only a lower channel may draw level by rounding: three blends of two products err by less than 3 eps of the
    # largest logit, in either channel. Logits of half precision differ by more, if at all.
    largest = max(abs(float(extreme)) for extreme in torch.aminmax(logits)) if logits.dtype == dtype else 0.0
    lead = 16 * torch.finfo(dtype).eps * largest
    return _resize_votes(logits, operators, order, dtype, code, partial(_argmax, code=code), lead)


@torch.no_grad()
def regions_between(
    logits: Tensor, values: Sequence[int], operators: Sequence[Operator], order: Sequence[int]
) -> Tensor:
    """``resize_regions`` to where three operators of order 1 lead, blended in the ``order`` of axes."""
    dtype = _working_type(logits)
    code = _smallest_type(min(0, *values), max(len(values), *values))
    # If one region is the last positive one at all corners, it is so between them, unless products fall to 0.
    lead = 16 * torch.finfo(dtype).tiny
    result = _resize_votes(logits, operators, order, dtype, code, partial(_last_positive, code=code), lead)
    table = torch.tensor([0, *values], dtype=code, device=logits.device)
    for plane in result:
        plane.copy_(table[plane.int()])
    return result


@torch.no_grad()
def majority_between(codes: Tensor, operators: Sequence[Operator]) -> Tensor:
    """``resize_labels`` of an integer tensor (Z, Y, X) to where three float64 operators of order 1 lead."""
    doubtful = torch.zeros_like(codes, dtype=torch.bool)
    return _resize_cells(codes, doubtful, codes[None], operators, (0, 1, 2), _majority)


def _way(
    logits: Tensor, shape: Sequence[int], thick_axis: int | None, dtype: torch.dtype
) -> tuple[list[Operator], list[int]]:
    """The operators to a shape, and the order in which to apply them."""
    old, new = tuple(logits.shape[1:]), tuple(shape)
    return linear_operators(old, new, thick_axis, logits.device, dtype), cheapest_order(old, new)


def _resize_votes(
    logits: Tensor,
    operators: Sequence[Operator],
    order: Sequence[int],
    dtype: torch.dtype,
    code: torch.dtype,
    vote: Vote,
    lead: float,
) -> Tensor:
    """``vote(resized logits, 0)``; ``vote`` turns channels (...) into codes (...).

    Corners that vote alike, with ``lead`` required and without, must leave no other vote to the points between them.
    """
    old = tuple(logits.shape[1:])
    logits = logits.detach()

    def judge(block: tuple[slice, slice]) -> tuple[Tensor, Tensor]:
        codes, careful = (vote((channel.to(dtype) for channel in logits[:, *block]), at) for at in (0.0, lead))
        return codes, careful != codes

    def decide(channels: Tensor, corners: list[Tensor], weights: list[Pair]) -> Tensor:
        return vote((_blend(channel, corners, weights, dtype) for channel in channels), 0.0)

    codes = torch.empty(old, dtype=code, device=logits.device)
    doubtful = torch.empty(old, dtype=torch.bool, device=logits.device)
    blocks = list(_blocks(old))
    for block, (winners, doubts) in zip(blocks, _in_threads(judge, blocks, logits.device), strict=True):
        codes[block], doubtful[block] = winners, doubts
    return _resize_cells(codes, doubtful, logits, operators, order, decide)


def _resize_cells(
    codes: Tensor,
    doubtful: Tensor,
    sources: Tensor,
    operators: Sequence[Operator],
    order: Sequence[int],
    decide: Decide,
) -> Tensor:
    """``codes`` (Z, Y, X) on the new grid where the corners of a cell agree and none is ``doubtful``, else ``decide``.

    ``decide`` is given ``sources`` (K, Z, Y, X) as they lie in memory (K, n) and the ``_corners`` of some voxels.
    """
    mixed = _mixed_cells(codes, doubtful, operators)
    result = codes.new_empty([len(operator.lower) for operator in operators])
    along_z, *in_plane = operators
    memory = _each_memory(sources)

    def work(voxels: Tensor) -> Tensor:
        return decide(memory, *_corners(voxels, operators, order, sources.stride()[1:]))

    for start, stop in slabs(codes.shape, result.shape):
        planes, along_slab = along_z.part(start, stop)
        uniform, unsettled = codes[planes], mixed[planes]
        for axis in order:
            lower = (along_slab, *in_plane)[axis].lower
            uniform, unsettled = take(uniform, axis, lower), take(unsettled, axis, lower)
        result[start:stop] = uniform
        voxels = unsettled.nonzero()
        voxels[:, 0] += start
        parts = voxels.split(AT_ONCE)
        for part, decided in zip(parts, _in_threads(work, parts, codes.device), strict=True):
            result[part.unbind(1)] = decided
    return result


def _blocks(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Planes and rows of a grid, about AT_ONCE voxels together."""
    planes = max(1, AT_ONCE // (shape[1] * shape[2]))
    rows = max(1, AT_ONCE // shape[2])
    for z in range(0, shape[0], planes):
        for y in range(0, shape[1], rows):
            yield slice(z, z + planes), slice(y, y + rows)


def _in_threads(work: Callable[[Part], Done], parts: Sequence[Part], device: torch.device) -> Sequence[Done]:
    """``work`` on every part, on a CPU by as many threads as torch would use: one part a thread, without waiting.

    Many short operations go to pieces if each is shared out: every time, all threads wait for the last.
    """
    if device.type != "cpu" or len(parts) == 1 or torch.get_num_threads() == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(work, parts))


def _each_memory(sources: Tensor) -> Tensor:
    """The memory in which each of ``sources`` (K, Z, Y, X) lies, whatever its layout, as (K, n) without a copy."""
    last = sum((length - 1) * stride for length, stride in zip(sources.shape[1:], sources.stride()[1:], strict=True))
    return sources.as_strided((len(sources), last + 1), (sources.stride(0), 1), sources.storage_offset())


def _mixed_cells(codes: Tensor, doubtful: Tensor, operators: Sequence[Operator]) -> Tensor:
    """(Z, Y, X) bool: whether the corners of the cell that begins at a voxel differ, or one of them is doubtful."""
    mixed = doubtful.clone()
    for axis, operator in enumerate(operators):
        if isinstance(operator, Linear):
            length = codes.shape[axis] - 1
            differ = codes.narrow(axis, 0, length) != codes.narrow(axis, 1, length)
            mixed.narrow(axis, 0, length).logical_or_(differ.logical_or_(mixed.narrow(axis, 1, length)))
    return mixed


def _corners(
    voxels: Tensor, operators: Sequence[Operator], order: Sequence[int], strides: Sequence[int]
) -> tuple[list[Tensor], list[Pair]]:
    """Where in memory each corner of ``voxels`` (N, 3) lies, 2**k times (N,), and the two weights of k blended axes.

    The first axis in ``order`` divides the corners into halves, the next divides these, and so on.
    """
    corners, weights = [torch.zeros_like(voxels[:, 0])], []
    for axis in order:
        operator, at = operators[axis], voxels[:, axis]
        ends = [operator.lower.index_select(0, at) * strides[axis]]
        if isinstance(operator, Linear):
            ends.append(operator.upper.index_select(0, at) * strides[axis])
            weights.append((operator.lower_weight.index_select(0, at), operator.upper_weight.index_select(0, at)))
        corners = [corner + end for corner in corners for end in ends]
    return corners, weights


def _blend(memory: Tensor, corners: list[Tensor], weights: list[Pair], dtype: torch.dtype) -> Tensor:
    """(N,) what ``Linear.apply`` gives one axis after the other, to the last bit."""
    values = [memory.index_select(0, corner).to(dtype) for corner in corners]
    for lower_weight, upper_weight in weights:
        half = len(values) // 2
        pairs = zip(values[:half], values[half:], strict=True)
        values = [lower.mul_(lower_weight).add_(upper.mul_(upper_weight)) for lower, upper in pairs]
    return values[0]


def _argmax(channels: Iterable[Tensor], lead: float, code: torch.dtype) -> Tensor:
    """The first of the largest channels; to be larger is to lead all channels before by more than ``lead``."""
    channels = iter(channels)
    best = next(channels).clone()
    winner = torch.zeros_like(best, dtype=code)
    for number, channel in enumerate(channels, 1):
        ahead = channel > (best + lead if lead else best)
        torch.maximum(winner, ahead.to(code).mul_(number), out=winner)
        torch.maximum(best, channel, out=best)
    return winner


def _last_positive(channels: Iterable[Tensor], lead: float, code: torch.dtype) -> Tensor:
    """1 + the last channel above ``lead``, or 0."""
    channels = iter(channels)
    last = (next(channels) > lead).to(code)
    for number, channel in enumerate(channels, 2):
        torch.maximum(last, (channel > lead).to(code).mul_(number), out=last)
    return last


def _majority(sources: Tensor, corners: list[Tensor], weights: list[Pair]) -> Tensor:
    """The highest label whose corners weigh at least 0.5 together, or 0; sums as scipy's, to the last bit."""
    labels = [sources[0].index_select(0, corner) for corner in corners]
    shares = [torch.ones(len(corners[0]), dtype=torch.float64, device=sources.device)]
    for pair in weights:
        shares = [share * weight for share in shares for weight in pair]
    highest = torch.full_like(labels[0], torch.iinfo(sources.dtype).min)
    found = torch.zeros_like(highest, dtype=torch.bool)
    for label in labels:
        total = torch.zeros_like(shares[0])
        for other, share in zip(labels, shares, strict=True):
            total += share * (other == label)
        enough = total >= 0.5
        highest = torch.maximum(highest, label.masked_fill(~enough, torch.iinfo(sources.dtype).min))
        found |= enough
    return highest.masked_fill_(~found, 0)


def _smallest_type(lowest: int, highest: int) -> torch.dtype:
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= lowest and highest <= torch.iinfo(dtype).max:
            return dtype
    raise UsageError(f"values: expected integers of at most 32 bits, found {lowest} to {highest}")


def _checked_logits(logits: Tensor, shape: Sequence[int], thick_axis: int | None) -> torch.dtype:
    """The type to work with, if the arguments are what they should be."""
    if not isinstance(logits, Tensor) or not logits.dtype.is_floating_point:
        found = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"logits: expected a floating torch tensor (C, Z, Y, X), found {found}")
    checked_shape(logits, 4, shape, thick_axis)
    return _working_type(logits)


def _working_type(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _integer_tensor(labels: np.ndarray | Tensor) -> Tensor:
    if isinstance(labels, Tensor):
        if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
            raise UsageError(f"labels: expected integers, found {labels.dtype}")
        return labels if labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32) else labels.long()
    if labels.dtype.kind not in "iu":
        raise UsageError(f"labels: expected integers, found {labels.dtype}")
    kept = labels.dtype.newbyteorder("=") if labels.dtype.name in ("uint8", "int8", "int16", "int32") else np.int64
    return torch.from_numpy(np.require(labels, kept, ["C_CONTIGUOUS", "WRITEABLE"]))
