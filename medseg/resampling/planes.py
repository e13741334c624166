"""Resampling plane by plane along the first axis, for scans that are not to be in memory whole.

Images are read by the run of old planes that some new planes need; logits come as consecutive slabs, and each new plane
leaves as soon as its neighbours are there. The values are those of the functions for whole arrays: labels bit for bit,
images and logits up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.resampling.axes import (
    Cubic,
    Nearest,
    Operator,
    cheapest_order,
    linear_operators,
    slabs,
)
from medseg.resampling.images import blended, cubic_operators, splined
from medseg.resampling.labels import argmax_between, majority_between, regions_between

ReadPlanes = Callable[[int, int], Tensor]


@dataclass(frozen=True, eq=False)
class CubicPlanes:
    """One channel on another grid by cubic splines, planes at a time: ``resize`` with order 3.

    Attributes:
        read: old planes from one to another (n, Y, X) float32.
        limits: smallest and largest value, or one each a slice across a thick axis: what results are kept within.
    """

    read: ReadPlanes
    operators: Sequence[Nearest | Cubic]
    order: Sequence[int]
    limits: tuple[Tensor, Tensor]

    @staticmethod
    def between(read: ReadPlanes, old: Sequence[int], new: Sequence[int], thick_axis: int | None) -> CubicPlanes:
        """Reads all old planes once, some at a time, for the limits."""
        operators = cubic_operators(old, new, thick_axis, torch.device("cpu"), torch.float32)
        return CubicPlanes(read, operators, cheapest_order(old, new), _limits(read, old, thick_axis))

    def planes(self, start: int, stop: int) -> Tensor:
        """New planes from ``start`` to ``stop`` (n, Y, X) float32."""
        along_z, *in_plane = self.operators
        needed, along_part = along_z.part(start, stop)
        lowest, highest = self.limits
        if len(lowest) > 1:
            lowest, highest = lowest[needed], highest[needed]
        values = self.read(needed.start, needed.stop)
        return splined(values, (along_part, *in_plane), self.order, (lowest, highest))


def label_planes(
    read: ReadPlanes, old: Sequence[int], new: Sequence[int], start: int, stop: int, thick_axis: int | None
) -> Tensor:
    """Planes ``start:stop`` of ``resize_labels``, from old planes of integers that are read as they are needed."""
    along_z, *in_plane = linear_operators(old, new, thick_axis, torch.device("cpu"), torch.float64)
    needed, along_part = along_z.part(start, stop)
    return majority_between(read(needed.start, needed.stop), (along_part, *in_plane))


def argmax_planes(
    parts: Iterable[Tensor], old: Sequence[int], new: Sequence[int], thick_axis: int | None
) -> Iterator[Tensor]:
    """Consecutive planes (n, Y, X) of ``resize_argmax`` of logits that come as consecutive slabs (C, n, Y, X).

    A slab may be overwritten as soon as the next one is asked for.
    """
    order = cheapest_order(old, new)
    for logits, operators in _runs(parts, old, new, thick_axis):
        yield argmax_between(logits, operators, order)


def region_planes(
    parts: Iterable[Tensor], values: Sequence[int], old: Sequence[int], new: Sequence[int], thick_axis: int | None
) -> Iterator[Tensor]:
    """The same for ``resize_regions``."""
    order = cheapest_order(old, new)
    for logits, operators in _runs(parts, old, new, thick_axis):
        yield regions_between(logits, values, operators, order)


def linear_planes(
    parts: Iterable[Tensor], old: Sequence[int], new: Sequence[int], thick_axis: int | None
) -> Iterator[Tensor]:
    """Consecutive planes (C, n, Y, X) of ``resize`` with order 1 of float32 slabs (C, n, Y, X)."""
    order = cheapest_order(old, new)
    for logits, operators in _runs(parts, old, new, thick_axis):
        yield torch.stack([blended(channel, operators, order) for channel in logits])


def _runs(
    parts: Iterable[Tensor], old: Sequence[int], new: Sequence[int], thick_axis: int | None
) -> Iterator[tuple[Tensor, tuple[Operator, ...]]]:
    """Runs of new planes as soon as the old planes between which they lie are there: these, and the operators."""
    operators: list[Operator] | None = None
    kept: Tensor | None = None  # old planes from ``first`` on that planes to come need
    first = seen = done = 0
    for slab in parts:
        if operators is None:
            operators = linear_operators(old, new, thick_axis, slab.device, _exact_type(slab))
        along_z, *in_plane = operators
        before, seen = seen, seen + slab.shape[1]
        ready = int(torch.searchsorted(along_z.upper, seen))
        across = min(ready, int(torch.searchsorted(along_z.lower, before)))  # these begin in planes before the slab
        for stop, base in ((across, first), (ready, before)):
            if stop <= done:
                continue
            needed, along_part = along_z.part(done, stop)
            around = slab
            if base != before:
                assert kept is not None
                around = torch.cat([kept, slab[:, : needed.stop - before]], dim=1)
            yield around[:, needed.start - base : needed.stop - base], (along_part, *in_plane)
            done = stop
        if done == new[0]:
            return
        wanted = int(along_z.lower[done])
        if wanted >= seen:
            kept, first = None, seen
        elif wanted >= before:
            kept, first = slab[:, wanted - before :].clone(), wanted
        else:
            assert kept is not None
            kept, first = torch.cat([kept[:, wanted - first :], slab], dim=1), wanted


def _exact_type(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _limits(read: ReadPlanes, old: Sequence[int], thick_axis: int | None) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of all old planes, or of each slice across the thick axis."""
    within = [axis for axis in range(3) if axis != thick_axis]
    lowest, highest = [], []
    for start, stop in slabs(old, old):
        values = read(start, stop)
        lowest.append(values.amin(within, keepdim=True))
        highest.append(values.amax(within, keepdim=True))
    if thick_axis == 0:
        return torch.cat(lowest), torch.cat(highest)
    return torch.stack(lowest).amin(0), torch.stack(highest).amax(0)
