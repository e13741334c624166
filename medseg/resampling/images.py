"""Images and logits on another grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from medseg.errors import UsageError
from medseg.resampling.axes import Cubic, Nearest, cheapest_order, checked_shape, linear_operators, nearest_index, slabs

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

    Raises UsageError for arguments of another form.
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
        operators = (along_slab, *in_plane)
        values = channel[planes]
        for axis in order:
            values = operators[axis].apply(values, axis)
        out[start:stop] = values


def _cubic(channel: Tensor, out: Tensor, thick_axis: int | None) -> None:
    within = [axis for axis in range(3) if axis != thick_axis]
    lowest, highest = channel.amin(within, keepdim=True), channel.amax(within, keepdim=True)
    values = channel
    order = cheapest_order(channel.shape, out.shape)
    for axis in order:
        old, new = channel.shape[axis], out.shape[axis]
        if axis == thick_axis:
            nearest = Nearest.between(old, new, channel.device)
            values, lowest, highest = (nearest.apply(each, axis) for each in (values, lowest, highest))
        elif old != new:
            place = out if axis == order[-1] and out.dtype == channel.dtype else None
            with torch.autocast(channel.device.type, enabled=False):
                values = Cubic.between(old, new, channel.device, channel.dtype).apply(values, axis, place)
    torch.clamp(values, lowest, highest, out=out)


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
