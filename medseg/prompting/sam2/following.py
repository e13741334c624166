"""An object followed from the slices on which it was shown to those where it ends, by what is remembered of it.

Upwards from the first such slice to the last slice, then downwards, each way with a memory of its own, as MedSAM2's
authors do it: a mirrored scan gives a mirrored mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from medseg.progress import Progress, silent
from medseg.prompting.sam2.memory import Memory, nearest, reach, remember, with_memory
from medseg.prompting.sam2.network import Answer, Features, decode, given_mask, slice_mask, without_memory
from medseg.prompting.slices.prompts import SlicePrompts
from medseg.prompting.slices.propagation import StoppingRule

# After so many slices without the object it is not expected again.
GONE_AFTER = 2


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown of an object on a slice.

    Attributes:
        mask: (Y, X) bool, or None.
    """

    prompts: SlicePrompts
    mask: np.ndarray | None = None


def follow(
    network: Any,
    features: Callable[[int], Features],
    shown: Mapping[int, Shown],
    corrections: Mapping[int, SlicePrompts],
    shape: tuple[int, int, int],
    *,
    limits: tuple[int, int] | None = None,
    rule: StoppingRule | None = None,
    gone_after: int = GONE_AFTER,
    progress: Progress = silent,
) -> np.ndarray:
    """The mask (slices, Y, X) bool of an object.

    Between the slices that are known to hold it, it is always followed; beyond them until the network has not seen it
    on ``gone_after`` slices, or the rule says that it jumps or leaks.

    Args:
        features: of a slice.
        shown: by slice, each looked at for itself; at least one. A mask alone is the answer.
        corrections: by slice, points that mend what memory says there.
        limits: first and, exclusive, last slice on which it is followed; by default all.
    """
    rule = rule or StoppingRule()
    low, high = limits or (0, shape[0])
    size = shape[1:]
    mask = np.zeros(shape, bool)

    @cache
    def begin(index: int) -> tuple[Answer, Memory]:
        here = features(index)
        answer = _answer_to(network, here, shown[index], size)
        return answer, remember(network, here, answer, prompted=True)

    for index, there in shown.items():
        alone = there.mask is not None and there.prompts == SlicePrompts()
        mask[index] = there.mask if alone else slice_mask(begin(index)[0], size)

    known = [*shown, *(index for index, points in corrections.items() if not points.is_empty)]
    lowest, highest = min(known), max(known)
    start, done = min(shown), 0
    for step in (1, -1):
        followed: dict[int, Memory] = {}
        previous, area, missed = mask[start], int(mask[start].sum()), 0
        for index in range(start + step, shape[0] if step > 0 else -1, step):
            if index in shown:
                previous, area, missed = mask[index], int(mask[index].sum()), 0
                continue
            sure = lowest <= index <= highest
            if not sure and (missed >= gone_after or not low <= index < high):
                continue
            here = features(index)
            prompted = {other: begin(other)[1] for other in nearest(shown, index)}
            coarse = with_memory(network, here, index, step, prompted, followed, shape[0])
            answer = decode(network, here, coarse, SlicePrompts(), size)
            if index in corrections:
                answer = decode(network, here, coarse, corrections[index], size, answer.logits)
            followed[index] = remember(network, here, answer, prompted=index in corrections)
            followed.pop(index - step * reach(network), None)
            found = slice_mask(answer, size)
            done += 1
            progress(min(done, high - low), high - low, "following the object")
            if not found.any():
                missed += 1
            elif sure or not rule.stops(previous, found, area):
                mask[index] = previous = found
                area, missed = int(found.sum()) if index in corrections else area, 0
            else:
                missed = gone_after
    progress(1, 1, "following the object")
    return mask


def _answer_to(network: Any, features: Features, shown: Shown, size: tuple[int, int]) -> Answer:
    coarse = without_memory(network, features)
    if shown.mask is None:
        return decode(network, features, coarse, shown.prompts, size)
    answer = given_mask(network, features, shown.mask)
    if shown.prompts == SlicePrompts():
        return answer
    return decode(network, features, coarse, shown.prompts, size, answer.logits)
