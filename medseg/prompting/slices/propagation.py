"""A volume from prompts on few slices: boxes between boxes, and from slice to slice until a rule says stop.

A segmented slice gives the box for its neighbour. This goes on in both directions until the object is gone, jumps, or
leaks. Engine and image do not matter here: a function segments a slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.progress import Progress, silent
from medseg.prompting.slices.prompts import SegmentSlice, SliceBox, SlicePrompts

# RECIST measures the longest diameter; lesions are about three quarters as wide, which is the box's shape.
SHORT_PER_LONG = 0.75


@dataclass(frozen=True)
class StoppingRule:
    """When a neighbouring slice no longer shows the same object.

    Attributes:
        overlap: least Dice of two neighbours.
        growth: largest area as part of that on the slice where it began.
        margin: what a box has around its neighbour's mask, as part of its size, one voxel at least.
    """

    overlap: float = 0.3
    growth: float = 2.0
    margin: float = 0.1

    def stops(self, previous: np.ndarray, found: np.ndarray, first_area: int) -> bool:
        """Whether ``found`` (Y, X) is not what ``previous`` was."""
        area = int(found.sum())
        if not area or area > self.growth * first_area:
            return True
        return 2 * int((found & previous).sum()) < self.overlap * (area + int(previous.sum()))


def box_around(mask: np.ndarray, margin: float) -> SliceBox:
    """The box of a mask (Y, X) that is not empty, with a margin as part of its size, within the slice."""
    box = []
    for axis in (0, 1):
        hits = np.flatnonzero(mask.any(1 - axis))
        low, high = int(hits[0]), int(hits[-1]) + 1
        extra = max(1, round(margin * (high - low)))
        box.append((max(low - extra, 0), min(high + extra, mask.shape[axis])))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def between(boxes: Mapping[int, SliceBox]) -> dict[int, SliceBox]:
    """A box on every slice from the first to the last that has one, linear between those given."""
    known = sorted(boxes)
    slices = range(known[0], known[-1] + 1)
    edges = [np.interp(slices, known, [boxes[index][edge] for index in known]) for edge in range(4)]
    filled = {}
    for position, index in enumerate(slices):
        y0, x0, y1, x1 = (int(np.floor(edge[position] + 0.5)) for edge in edges)
        filled[index] = (y0, x0, max(y1, y0 + 1), max(x1, x0 + 1))
    return filled


def recist_box(one: Sequence[float], two: Sequence[float], shape: Sequence[int]) -> SliceBox:
    """The box around an object with this longest diameter (y, x): an ellipse three quarters as wide as it is long."""
    ends = np.array([one, two], float)
    centre, half = ends.mean(0), (ends[1] - ends[0]) / 2
    across = SHORT_PER_LONG * half[::-1] * (-1, 1)
    reach = np.hypot(half, across)
    low = np.clip(np.floor(centre - reach).astype(int), 0, np.array(shape) - 1)
    high = np.clip(np.ceil(centre + reach).astype(int) + 1, low + 1, shape)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def propagate(
    seeds: Mapping[int, SlicePrompts],
    segment: SegmentSlice,
    shape: tuple[int, int, int],
    *,
    limits: tuple[int, int] | None = None,
    rule: StoppingRule | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """The mask (slices, Y, X) bool of an object from prompts on some slices.

    Every slice with prompts is segmented with them. Below the first, above the last and between two of them, each slice
    is segmented with the box around its neighbour's mask, until the rule stops.

    Args:
        limits: first and, exclusive, last slice that may hold the object; by default all.
    """
    rule = rule or StoppingRule()
    low, high = limits or (0, shape[0])
    mask = np.zeros(shape, bool)
    known = sorted(seeds)
    done = 0

    def note() -> None:
        nonlocal done
        done += 1
        progress(min(done, high - low), high - low, "segmenting slices")

    for index in known:
        mask[index] = segment(index, seeds[index])
        note()
    ways = [range(known[0] - 1, low - 1, -1)]
    ways += [range(index + 1, following) for index, following in zip(known, (*known[1:], high), strict=True)]
    for way in ways:
        if not len(way):
            continue
        previous = mask[way[0] - way.step]
        first_area = int(previous.sum())
        for index in way:
            if not previous.any():
                break
            found = segment(index, SlicePrompts(box_around(previous, rule.margin)))
            note()
            if rule.stops(previous, found, first_area):
                break
            mask[index] = previous = found
    progress(1, 1, "segmenting slices")
    return mask
