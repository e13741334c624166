"""Label maps on another grid: labels themselves, and the labels that resized logits give.

Float32 logits on a CPU are blended and compared in one compiled pass (``onepass``), where the package was built with
it. All else is decided cell by cell (a cell is the box between eight neighbouring old voxels). Where all corners agree,
every point inside has their label and nothing is computed; only new voxels in other cells, at boundaries, take
arithmetic. Both ways give the same labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from medseg.errors import UsageError
from medseg.resampling import onepass
from medseg.resampling.axes import (
    Linear,
    Operator,
    cheapest_order,
    checked_shape,
    linear_operators,
    slabs,
    take,
)
from medseg.resampling.images import blended
from medseg.resampling.votes import Pair, argmax, last_positive, majority, smallest_type

# Where more of the new voxels than this lie in cells whose corners differ, all are computed: three axes one after the
# other cost less than eight corners of each voxel.
DENSE_SHARE = 0.2
AT_ONCE = 2**17  # voxels in one array: the cache holds some of them, and sharing them out to threads still pays
BLOCK_PLANES = 8

Array = TypeVar("Array", np.ndarray, Tensor)
Vote = Callable[[Iterable[Tensor], float], Tensor]
Decide = Callable[[Tensor, list[Tensor], list[Pair]], Tensor]
Everywhere = Callable[[Tensor, Sequence[Operator]], Tensor]


@torch.no_grad()
def resize_argmax(logits: Tensor, shape: Sequence[int], thick_axis: int | None = None) -> Tensor:
    """``resize(logits, shape, 1, thick_axis).argmax(0)``, voxel for voxel, without resizing the logits.

    ``logits`` (C, Z, Y, X) are finite, of any floating type, layout and device; half precision becomes float32. The
    result (Z, Y, X) is uint8 for up to 256 channels, else int16 or int32; of equal logits the lowest channel wins.

    Beside the result this needs at most about six bytes an old voxel and 100 MB, whatever the number of channels.

    Raises:
        UsageError: arguments of another form.
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

    Raises:
        UsageError: arguments of another form.
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

    Raises:
        UsageError: arguments of another form.
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
    code = smallest_type(0, len(logits) - 1)
    if onepass.possible(logits):
        return onepass.labels_between(logits, operators, order, code, regions=False)
    # Each interpolated logit is the same increasing function of its corners, so a winner at all corners wins between
    # them. Only a lower channel may draw level by rounding: three blends of two products err by less than 3 eps of the
    # largest logit, in either channel. Logits of half precision differ by more, if at all.
    extremes = (torch.aminmax(channel) for channel in logits) if logits.dtype == dtype else ()
    largest = max((abs(float(value)) for pair in extremes for value in pair), default=0.0)
    lead = 16 * torch.finfo(dtype).eps * largest
    return _resize_votes(logits, operators, order, dtype, code, partial(argmax, code=code), lead)


@torch.no_grad()
def regions_between(
    logits: Tensor, values: Sequence[int], operators: Sequence[Operator], order: Sequence[int]
) -> Tensor:
    """``resize_regions`` to where three operators of order 1 lead, blended in the ``order`` of axes."""
    dtype = _working_type(logits)
    code = smallest_type(min(0, *values), max(len(values), *values))
    if onepass.possible(logits):
        result = onepass.labels_between(logits, operators, order, code, regions=True)
    else:
        # If one region is the last positive one at all corners, it is so between them, unless products fall to 0.
        lead = 16 * torch.finfo(dtype).tiny
        result = _resize_votes(logits, operators, order, dtype, code, partial(last_positive, code=code), lead)
    table = torch.tensor([0, *values], dtype=code, device=logits.device)
    for plane in result:
        plane.copy_(table[plane.int()])
    return result


@torch.no_grad()
def majority_between(codes: Tensor, operators: Sequence[Operator]) -> Tensor:
    """``resize_labels`` of an integer tensor (Z, Y, X) to where three float64 operators of order 1 lead."""
    doubtful = torch.zeros_like(codes, dtype=torch.bool)
    return _resize_cells(codes, doubtful, codes[None], operators, (0, 1, 2), majority)


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

    def decide(channels: Tensor, corners: list[Tensor], weights: list[Pair]) -> Tensor:
        return vote((_blend(channel, corners, weights, dtype) for channel in channels), 0.0)

    def everywhere(part: Tensor, operators: Sequence[Operator]) -> Tensor:
        return vote((blended(channel.to(dtype), operators, order) for channel in part), 0.0)

    codes = torch.empty(old, dtype=code, device=logits.device)
    doubtful = torch.empty(old, dtype=torch.bool, device=logits.device)
    for block in _blocks(old):
        codes[block], careful = (vote((channel.to(dtype) for channel in logits[:, *block]), at) for at in (0.0, lead))
        doubtful[block] = careful != codes[block]
    return _resize_cells(codes, doubtful, logits, operators, order, decide, everywhere)


def _resize_cells(
    codes: Tensor,
    doubtful: Tensor,
    sources: Tensor,
    operators: Sequence[Operator],
    order: Sequence[int],
    decide: Decide,
    everywhere: Everywhere | None = None,
) -> Tensor:
    """``codes`` (Z, Y, X) on the new grid where the corners of a cell agree and none is ``doubtful``, else ``decide``.

    ``decide`` is given ``sources`` (K, Z, Y, X) as they lie in memory (K, n) and the ``_corners`` of some voxels;
    ``everywhere``, where there are many of them, a box of the sources and the operators to all new voxels between.
    """
    mixed = _mixed_cells(codes, doubtful, operators)
    result = codes.new_empty([len(operator.lower) for operator in operators])
    along_z, *in_plane = operators
    memory = _each_memory(sources)

    for start, stop in slabs(codes.shape, result.shape):
        planes, along_slab = along_z.part(start, stop)
        uniform, unsettled = codes[planes], mixed[planes]
        for axis in order:
            lower = (along_slab, *in_plane)[axis].lower
            uniform, unsettled = take(uniform, axis, lower), take(unsettled, axis, lower)
        if everywhere is not None and int(unsettled.sum()) > DENSE_SHARE * unsettled.numel():
            for block in _blocks(result.shape, start, stop):
                (z, along_block), (y, along_rows) = (
                    operator.part(at.start, at.stop) for operator, at in zip(operators[:2], block, strict=True)
                )
                result[block] = everywhere(sources[:, z, y], (along_block, along_rows, operators[2]))
            continue
        result[start:stop] = uniform
        voxels = unsettled.nonzero()
        voxels[:, 0] += start
        for part in voxels.split(AT_ONCE):
            result[part.unbind(1)] = decide(memory, *_corners(part, operators, order, sources.stride()[1:]))
    return result


def _blocks(shape: Sequence[int], start: int = 0, stop: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Planes (from ``start`` to ``stop``) and rows of a grid, about AT_ONCE voxels together."""
    last = shape[0] if stop is None else stop
    planes = min(last - start, max(BLOCK_PLANES, AT_ONCE // (shape[1] * shape[2])))
    rows = max(1, AT_ONCE // (planes * shape[2]))
    for z in range(start, last, planes):
        for y in range(0, shape[1], rows):
            yield slice(z, min(z + planes, last)), slice(y, min(y + rows, shape[1]))


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
