"""How sure a promptable model is of an object: what it answers when the same prompts are drawn a little otherwise.

How far its masks agree when boxes and points move by what a second person's would differ can be asked of any engine:
Deng et al., SAM-U: Multi-box prompts triggered uncertainty estimation for reliable SAM in medical image, 2023. Draws
share their mistakes, though: what an engine itself expects of its answer counts as well, where it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.prompting.prompts import Box, Point, locate
from medseg.prompting.session import Session

# A face of a box moves by up to this part of the box's size, and by so many voxels at most; a point by one voxel.
# Boxes are off already by what their author was: draws that move them by more are worse than the box itself.
FACE_SHARE = 0.15
FACE_VOXELS = 1
POINT_VOXELS = 1


@dataclass(frozen=True, eq=False)
class Agreement:
    """What several draws of an object's prompts gave.

    Attributes:
        votes: (Z, Y, X) uint8, in how many draws each voxel lay in the object.
        draws: how many there were.
        expected_dice: what the model expects of its answer to the prompts as they are, where it says so.
    """

    votes: np.ndarray
    draws: int
    expected_dice: float | None = None

    @property
    def confidence(self) -> float:
        """Dice of all draws with what most of them agree on, times what the model expects; 0 to 1.

        0 where they agree on nothing.
        """
        majority = 2 * self.votes.astype(np.int16) > self.draws
        size, shared, total = int(majority.sum()), int(self.votes[majority].sum()), int(self.votes.sum())
        agreement = 2 * shared / (self.draws * size + total) if size else 0.0
        return agreement if self.expected_dice is None else agreement * self.expected_dice


def agree(session: Session, prompts: Sequence[Box | Point], draws: int, random: np.random.Generator) -> Agreement:
    """Segment one object of the session's image with its prompts as they are, then with prompts moved a little.

    The session has the same prompts before and after.

    Raises:
        UsageError: a prompt lies outside of the image.
    """
    geometry = session.image.geometry
    located = [locate(prompt, geometry) for prompt in prompts]
    votes = np.zeros(geometry.shape, np.uint8)
    expected = None
    for draw in range(draws):
        moved = located if draw == 0 else [_moved(prompt, geometry.shape, random) for prompt in located]
        votes += session.add(*moved).array > 0
        if draw == 0:
            expected = next(iter(session.expected_dice.values()), None)
        session.undo()
    return Agreement(votes, draws, expected)


def merge(agreements: Sequence[tuple[int, Agreement]], ignore: int, sure: float) -> np.ndarray:
    """One mask of several objects: a label where one is sure and no other likely, ``ignore`` where that is not clear.

    Args:
        agreements: index of the label (1, 2 ...) and agreement of each object, all of equally many draws.
        ignore: index for voxels that are neither clearly one label's nor clearly background.
        sure: part of the draws, above one half, that must agree.

    Returns:
        (Z, Y, X) int16 indices.
    """
    shape, draws = agreements[0][1].votes.shape, agreements[0][1].draws
    needed = int(np.ceil(sure * draws - 1e-9))
    first, second = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    winner = np.zeros(shape, np.int16)
    for index in sorted({index for index, _ in agreements}):
        votes = np.max([each.votes for label, each in agreements if label == index], axis=0)
        ahead = votes > first
        second = np.where(ahead, first, np.maximum(second, votes))
        first = np.where(ahead, votes, first)
        winner[ahead] = index
    found = np.full(shape, ignore, np.int16)
    found[first <= draws - needed] = 0
    clear = (first >= needed) & (second <= draws - needed)
    found[clear] = winner[clear]
    return found


def _moved(prompt: object, shape: Sequence[int], random: np.random.Generator) -> Box | Point:
    match prompt:
        case Box():
            start, stop = [], []
            for low, high, size in zip(prompt.voxels.start, prompt.voxels.stop, shape, strict=True):
                most = min(FACE_VOXELS, int(FACE_SHARE * (high - low)))  # thin boxes keep their slices
                start.append(float(max(low + random.integers(-most, most + 1), 0)))
                stop.append(float(min(high + random.integers(-most, most + 1), size)))
            return replace(prompt, start=tuple(start), stop=tuple(stop))
        case Point():
            step = random.integers(-POINT_VOXELS, POINT_VOXELS + 1, 3)
            at = np.clip(np.array(prompt.at) + step, 0, np.array(shape) - 1)
            return replace(prompt, at=tuple(at.tolist()))
    raise TypeError(f"expected a Box or Point, found {type(prompt).__name__}")
