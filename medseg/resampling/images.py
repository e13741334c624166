"""Images and logits on another grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from medseg.errors import UsageError
from medseg.resampling.axes import (
    Cubic,
    Nearest,
    Operator,
    cheapest_order,
    checked_shape,
    linear_operators,
    nearest_index,
    slabs,
)

Array = TypeVar("Array", np.ndarray, Tensor)


@torch.no_grad()
def resize(array: Array, shape: Sequence[int], order: int = 3, thick_axis: int | None = None) -> Array:
    """``array`` (C, Z, Y, X), numpy or torch on any device, on ``shape`` (Z, Y, X) voxels of the same extent.

    ``order`` 0 takes the nearest voxel, 1 is linear, 3 a cubic B-spline whose values are kept within those of the
    input, all as ``skimage.transform.resize(mode="edge", anti_aliasing=False)`` defines them for each channel. With
    ``thick_axis`` (0, 1 or 2) each slice across that axis is resized in its plane with ``order``, and the slices are
    then taken by nearest neighbour.

    Returns a new array of the same kind. Floating types are kept, half precision being computed as float32; other types
    become float32, except with order 0, which keeps every type.

    Works channel by channel. Beside the result it needs, for order 1, some MB; for order 3 up to twice the larger of
    one channel and its result, as floats; and one channel more where the type has to change first.

    Raises:
        UsageError: arguments of another form.
    """
    old, new = checked_shape(array, 4, shape, thick_axis)
    if order not in (0, 1, 3):
        raise UsageError(f"order: expected 0, 1 or 3, found {order!r}")
    if order == 0:
        return _nearest(array, old, new)
    kept = _floating_type(array)
    device = torch.device("cpu") if isinstance(array, np.ndarray) else array.device
    result = torch.empty((len(array), *new), dtype=kept, device=device)
    for channel, out in zip(array, result, strict=True):
        values = _as_tensor(channel, torch.float64 if kept == torch.float64 else torch.float32)
        if order == 1:
            _linear(values, out, thick_axis)
        else:
            _cubic(values, out, thick_axis)
    return cast(Array, result.numpy() if isinstance(array, np.ndarray) else result)


def _nearest(array: Array, old: Sequence[int], new: Sequence[int]) -> Array:
    for axis in cheapest_order(old, new):
        index = nearest_index(old[axis], new[axis])
        if isinstance(array, np.ndarray):
            array = array.take(index, axis + 1)
        else:
            array = array.index_select(axis + 1, torch.from_numpy(index).to(array.device))
    return array


def _linear(channel: Tensor, out: Tensor, thick_axis: int | None) -> None:
    along_z, *in_plane = linear_operators(channel.shape, out.shape, thick_axis, channel.device, channel.dtype)
    order = cheapest_order(channel.shape, out.shape)
    for start, stop in slabs(channel.shape, out.shape):
        planes, along_slab = along_z.part(start, stop)
        out[start:stop] = blended(channel[planes], (along_slab, *in_plane), order)


def blended(values: Tensor, operators: Sequence[Operator], order: Sequence[int]) -> Tensor:
    """(Z, Y, X) at the positions of three operators of order 1, one axis after the other."""
    for axis in order:
        values = operators[axis].apply(values, axis)
    return values


def _cubic(channel: Tensor, out: Tensor, thick_axis: int | None) -> None:
    within = [axis for axis in range(3) if axis != thick_axis]
    limits = channel.amin(within, keepdim=True), channel.amax(within, keepdim=True)
    operators = cubic_operators(channel.shape, out.shape, thick_axis, channel.device, channel.dtype)
    splined(channel, operators, cheapest_order(channel.shape, out.shape), limits, out)


def cubic_operators(
    old: Sequence[int], new: Sequence[int], thick_axis: int | None, device: torch.device, dtype: torch.dtype
) -> list[Nearest | Cubic]:
    """The three operators of order 3: nearest along the thick axis, and along those that stay as they are."""
    return [
        Nearest.between(n, m, device) if axis == thick_axis or n == m else Cubic.between(n, m, device, dtype)
        for axis, (n, m) in enumerate(zip(old, new, strict=True))
    ]


def splined(
    values: Tensor,
    operators: Sequence[Nearest | Cubic],
    order: Sequence[int],
    limits: tuple[Tensor, Tensor],
    out: Tensor | None = None,
) -> Tensor:
    """(Z, Y, X) at the positions of three operators of order 3, kept within the ``limits`` of the input.

    The limits have one voxel along each axis, or one a slice across a thick axis, whose operator they go through too.
    """
    lowest, highest = limits
    for axis in order:
        operator = operators[axis]
        if isinstance(operator, Cubic):
            place = out if axis == order[-1] and out is not None and out.dtype == values.dtype else None
            with torch.autocast(values.device.type, enabled=False):
                values = operator.apply(values.contiguous(), axis, place)
        else:
            values = operator.apply(values, axis)
            if lowest.shape[axis] > 1:
                lowest, highest = (operator.apply(limit, axis) for limit in (lowest, highest))
    return torch.clamp(values, lowest, highest, out=torch.empty_like(values) if out is None else out)


def _floating_type(array: np.ndarray | Tensor) -> torch.dtype:
    if isinstance(array, Tensor):
        return array.dtype if array.dtype.is_floating_point else torch.float32
    if array.dtype.kind not in "fiub":
        raise UsageError(f"array: expected numbers, found {array.dtype}")
    if array.dtype.kind != "f":
        return torch.float32
    return {2: torch.float16, 4: torch.float32}.get(array.dtype.itemsize, torch.float64)


def _as_tensor(channel: np.ndarray | Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(channel, Tensor):
        return channel.to(dtype).contiguous()
    native = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(np.require(channel, native, ["C_CONTIGUOUS", "WRITEABLE"]))
