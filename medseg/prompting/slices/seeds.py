"""Which slices the prompts of an object lie on, and what they show there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.errors import UsageError
from medseg.prompting.grid import line_points, tight_box
from medseg.prompting.prompts import Box, MaskPrompt, Point, Prompt, Scribble
from medseg.prompting.slices.prompts import SliceBox, SlicePrompts
from medseg.prompting.slices.propagation import between, recist_box

LINE_STEP_VOXELS = 8.0


def slice_axis(prompts: Sequence[Prompt], spacing_mm: Sequence[float]) -> int:
    """The axis across which slices are taken: that of flat boxes, lines and masks, else the coarsest (first of equals).

    Raises:
        UsageError: they are flat across different axes.
    """
    candidates = {0, 1, 2}
    for prompt in prompts:
        if isinstance(prompt, Box) and prompt.flat_axes:
            candidates &= set(prompt.flat_axes)
        if isinstance(prompt, Scribble):
            flat = np.flatnonzero(np.ptp(np.round(prompt.points), axis=0) == 0)
            candidates &= set(flat.tolist()) or candidates
        if isinstance(prompt, MaskPrompt):
            start, stop = tight_box(prompt.array)
            candidates &= {axis for axis in range(3) if stop[axis] - start[axis] == 1} or candidates
    if not candidates:
        raise UsageError(
            "the boxes, lines and masks of an object lie on slices across different axes; draw them on one kind"
        )
    return max(sorted(candidates), key=lambda axis: spacing_mm[axis])


def seeds_of(
    prompts: Sequence[Prompt], axis: int, shape: Sequence[int], *, interpolate: bool = True
) -> tuple[dict[int, SlicePrompts], tuple[int, int] | None]:
    """What is shown on which slice across an axis, and the slices that may hold the object where a box says so.

    A box through several slices begins on its middle one; a line alone becomes the box of a lesion with that diameter.
    Boxes stand in front, then points, as they were given.

    Args:
        shape: (slices, Y, X).
        interpolate: whether slices between those with boxes have boxes too.
    """
    flat: dict[int, SliceBox] = {}
    limits: tuple[int, int] | None = None
    points: dict[int, list[tuple[float, float, bool]]] = {}
    lines: dict[int, SliceBox] = {}
    for prompt in prompts:
        match prompt:
            case Box():
                box = prompt.voxels
                (y0, x0), (y1, x1) = _others(box.start, axis), _others(box.stop, axis)
                first, last = box.start[axis], box.stop[axis]
                flat[(first + last - 1) // 2] = (int(y0), int(x0), int(y1), int(x1))
                if last - first > 1:
                    low, high = limits or (first, last)
                    limits = min(low, first), max(high, last)
            case Point():
                points.setdefault(_slice_of(prompt.at, axis, shape), []).append(
                    (*_others(prompt.at, axis), prompt.positive)
                )
            case Scribble():
                one, two = _others(prompt.points[0], axis), _others(prompt.points[-1], axis)
                first, last = (_slice_of(prompt.points[end], axis, shape) for end in (0, -1))
                if prompt.positive and len(prompt.points) == 2 and first == last:
                    lines[first] = recist_box(one, two, shape[1:])
                    continue
                for at in line_points(prompt.points, LINE_STEP_VOXELS):
                    points.setdefault(_slice_of(at, axis, shape), []).append((*_others(at, axis), prompt.positive))
    boxes = {**lines, **flat}
    if interpolate and boxes:
        boxes = between(boxes)
    if limits is not None:
        limits = min(limits[0], *boxes), max(limits[1], max(boxes) + 1)
    seeds = {
        index: SlicePrompts(boxes.get(index), tuple(points.get(index, ())))
        for index in dict.fromkeys((*boxes, *points))
    }
    return seeds, limits


def _slice_of(position: Sequence[float], axis: int, shape: Sequence[int]) -> int:
    """The slice that a position lies on; on the outer face of the first or last one, that one."""
    return min(max(round(position[axis]), 0), shape[0] - 1)


def _others(position: Sequence[float], axis: int) -> tuple[float, float]:
    first, second = (value for a, value in enumerate(position) if a != axis)
    return first, second
