"""Prompts as a person might give them, drawn from a reference mask: pure functions of a mask and a generator.

Boxes are jittered, flat, or exact; points lie at an object's middle or anywhere inside; a line is the longest diameter
on the slice where the object is largest (as in RECIST); a correction is a click in the largest part that a mask got
wrong, as in the evaluation of interactive methods (Sofiiuk et al., Reviving Iterative Training with Mask Guidance,
2021). Masks and indices have two or three axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from medseg.prompting.grid import GridBox, GridPrompts, line_points, tight_box

JITTER_VOXELS = 2
# How often each kind of first prompt is drawn in training.
BOX, FLAT_BOX, LINE = 0.4, 0.07, 0.07  # else points
# The first of them lies at the middle; it is the only one.
CENTRAL, SINGLE = 0.6, 0.65
POINT_WITH_BOX = 0.2
_DIRECTIONS = 36  # tried for the longest diameter: every five degrees

Index = tuple[int, ...]


def jittered_box(box: GridBox, shape: Sequence[int], largest: int, random: np.random.Generator) -> GridBox:
    """Each face moved by up to ``largest`` voxels either way; stays within the grid, one voxel thick at least."""
    start, stop = [], []
    for low, high, size in zip(*box, shape, strict=True):
        first = int(np.clip(low + random.integers(-largest, largest + 1), 0, size - 1))
        start.append(first)
        stop.append(int(np.clip(high + random.integers(-largest, largest + 1), first + 1, size)))
    return tuple(start), tuple(stop)


def flat_box(mask: np.ndarray, random: np.random.Generator) -> GridBox:
    """The box of one slice through the object, across a random axis; slices that hold more of it come more often."""
    axis = int(random.integers(mask.ndim))
    areas = mask.sum(tuple(other for other in range(mask.ndim) if other != axis))
    at = int(random.choice(len(areas), p=areas / areas.sum()))
    start, stop = tight_box(mask & _only(mask.shape, axis, at))
    return start, stop


def central_point(mask: np.ndarray) -> Index:
    """The voxel of a mask that lies furthest from all outside; the edge of the grid counts as outside."""
    start, stop = tight_box(mask)
    part = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(part, 1)))
    deepest = np.unravel_index(int(depth.argmax()), depth.shape)
    return tuple(int(i) - 1 + first for i, first in zip(deepest, start, strict=True))


def random_point(mask: np.ndarray, random: np.random.Generator) -> Index:
    """Any voxel of a mask that is not empty."""
    flat = np.flatnonzero(mask)
    return tuple(int(i) for i in np.unravel_index(int(flat[random.integers(len(flat))]), mask.shape))


def longest_diameter(mask: np.ndarray) -> tuple[Index, Index]:
    """Ends of the longest line across the object on the slice along the first axis (of three) where it is largest."""
    if mask.ndim == 3:
        at = int(mask.sum((1, 2)).argmax())
        one, two = longest_diameter(mask[at])
        return (at, *one), (at, *two)
    voxels = np.argwhere(mask)
    angles = np.arange(_DIRECTIONS) * (np.pi / _DIRECTIONS)
    along = voxels @ np.stack([np.sin(angles), np.cos(angles)])
    best = int(np.ptp(along, axis=0).argmax())
    ends = voxels[[along[:, best].argmin(), along[:, best].argmax()]]
    return tuple(ends[0].tolist()), tuple(ends[1].tolist())


def correction(reference: np.ndarray, found: np.ndarray) -> tuple[Index, bool] | None:
    """A click at the middle of the largest connected part that is wrong, and whether the object is there; or None."""
    clicks = corrections(reference, found, 1)
    return clicks[0] if clicks else None


def corrections(reference: np.ndarray, found: np.ndarray, count: int) -> list[tuple[Index, bool]]:
    """Clicks in the ``count`` largest parts that are wrong, the largest first."""
    parts: list[tuple[int, np.ndarray, bool]] = []
    for wrong, positive in ((reference & ~found, True), (found & ~reference, False)):
        components, number = ndimage.label(wrong)  # type: ignore[misc]
        sizes = np.bincount(components.ravel(), minlength=number + 1)[1:]
        parts += [(int(sizes[i]), components == i + 1, positive) for i in np.argsort(-sizes)[:count]]
    parts.sort(key=lambda part: -part[0])
    return [(central_point(part), positive) for _, part, positive in parts[:count]]


def with_clicks(prompts: GridPrompts, clicks: Sequence[tuple[Index, bool]]) -> GridPrompts:
    """The prompts and some clicks more."""
    inside = tuple(tuple(map(float, at)) for at, positive in clicks if positive)
    outside = tuple(tuple(map(float, at)) for at, positive in clicks if not positive)
    return replace(prompts, inside=prompts.inside + inside, outside=prompts.outside + outside)


def draw_object(groups: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray | None:
    """One object out of masks of classes: a connected part of a random class, large ones more often; None without any.

    Half the time it is all of the class: an organ is often one object although its mask falls apart.
    """
    present = [group for group in groups if group.any()]
    if not present:
        return None
    chosen = present[random.integers(len(present))]
    if random.random() < 0.5:
        return chosen
    components, _ = ndimage.label(chosen)  # type: ignore[misc]
    return components == components[random_point(chosen, random)]


def draw_prompts(target: np.ndarray | None, shape: Sequence[int], random: np.random.Generator) -> GridPrompts:
    """First prompts for an object, of a random kind; where there is none, a few points outside."""
    if target is None:
        points = random.uniform(0, np.array(shape) - 1, (int(random.integers(1, 4)), len(shape)))
        return GridPrompts(outside=tuple(tuple(map(float, point)) for point in points.tolist()))
    kind = random.random()
    if kind < BOX:
        largest = int(random.integers(0, JITTER_VOXELS + 1))
        prompts = GridPrompts(boxes=(jittered_box(tight_box(target), shape, largest, random),))
        return with_clicks(prompts, [(random_point(target, random), True)] if random.random() < POINT_WITH_BOX else [])
    if kind < BOX + FLAT_BOX:
        return GridPrompts(boxes=(flat_box(target, random),))
    if kind < BOX + FLAT_BOX + LINE:
        return GridPrompts(inside=line_points(longest_diameter(target), 2.0))
    clicks = [(central_point(target) if random.random() < CENTRAL else random_point(target, random), True)]
    if random.random() >= SINGLE:
        clicks += [(random_point(target, random), True) for _ in range(int(random.integers(0, 3)))]
        if not target.all():
            clicks += [(random_point(_near(target), random), False)]
    return with_clicks(GridPrompts(), clicks)


def _near(mask: np.ndarray) -> np.ndarray:
    """Voxels outside of a mask but close to it; all outside where there are none."""
    ring = np.asarray(ndimage.binary_dilation(mask, iterations=5)) & ~mask
    return ring if ring.any() else ~mask


def _only(shape: Sequence[int], axis: int, at: int) -> np.ndarray:
    kept = np.zeros(shape, bool)
    kept[tuple(slice(at, at + 1) if a == axis else slice(None) for a in range(len(shape)))] = True
    return kept
