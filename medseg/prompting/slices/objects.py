"""A whole object from prompts of any kind, by whatever segments one slice from a box and points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medseg.progress import Progress
from medseg.prompting.prompts import MaskPrompt, Prompt
from medseg.prompting.slices.prompts import SegmentSlice, SlicePrompts
from medseg.prompting.slices.propagation import box_around, propagate
from medseg.prompting.slices.seeds import seeds_of

# Around each component of a given mask, as part of its size: MedSAM's boxes are loose by some voxels as well.
MASK_MARGIN = 0.05


def segment_object(
    prompts: Sequence[Prompt], axis: int, shape: tuple[int, int, int], segment: SegmentSlice, progress: Progress
) -> np.ndarray:
    """The mask (slices, Y, X) bool of an object: its given masks anew, and its boxes, points and lines propagated.

    Args:
        axis: across which slices are taken.
        shape: (slices, Y, X).
    """
    result = np.zeros(shape, bool)
    masks = [np.moveaxis(prompt.array, axis, 0) for prompt in prompts if isinstance(prompt, MaskPrompt)]
    for mask in masks:
        result |= _refined(mask, segment, progress)
    seeds, limits = seeds_of(prompts, axis, shape)
    if seeds and not all(seed.is_empty for seed in seeds.values()):
        result |= _from_seeds(seeds, limits, shape, segment, bool(masks), progress)
    return result


def _from_seeds(
    seeds: dict[int, SlicePrompts],
    limits: tuple[int, int] | None,
    shape: tuple[int, int, int],
    segment: SegmentSlice,
    only_seeds: bool,
    progress: Progress,
) -> np.ndarray:
    usable = {index: seed for index, seed in seeds.items() if not seed.is_empty}
    first, last = min(usable), max(usable)
    if only_seeds:  # a mask says already where the object ends
        limits = (first, last + 1)
    mask = propagate(usable, segment, shape, limits=limits, progress=progress)
    for index, seed in seeds.items():
        if seed.is_empty and mask[index].any():  # points outside only: the slice again, with its own box
            box = box_around(mask[index], MASK_MARGIN)
            mask[index] = segment(index, SlicePrompts(box, seed.points))
    return mask


def _refined(mask: np.ndarray, segment: SegmentSlice, progress: Progress) -> np.ndarray:
    """A mask (slices, Y, X) anew: a box for each component on each slice."""
    result = np.zeros_like(mask)
    slices = np.flatnonzero(mask.any((1, 2)))
    for done, index in enumerate(slices.tolist()):
        components, count = ndimage.label(mask[index])  # type: ignore[misc]
        for number in range(1, count + 1):
            box = box_around(components == number, MASK_MARGIN)
            result[index] |= segment(index, SlicePrompts(box))
        progress(done + 1, len(slices), "refining slices")
    return result
