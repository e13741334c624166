"""A session with an image: prompts in, masks out, undo, several objects.

The state of a session is the list of its prompts, step by step, so that it can be saved, replayed and audited. The
masks of earlier steps are kept beside it, so that undoing costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg import io, volume
from medseg.errors import UsageError
from medseg.progress import Progress, silent
from medseg.prompting.engine import Answer, Engine
from medseg.prompting.prompts import Box, MaskPrompt, Prompt, Steps, Text, load_steps, locate, save_steps
from medseg.volume import LabelVolume, Volume, bounding_box


@dataclass(frozen=True, eq=False)
class _Found:
    """An object's mask: the box that it fills, and the voxels in it; and what Dice the model expects of it."""

    box: volume.Box | None
    voxels: np.ndarray
    expected_dice: float | None

    @classmethod
    def of(cls, answer: Answer) -> _Found:
        box = bounding_box(answer.mask)
        voxels = answer.mask[box.slices].copy() if box else np.zeros((0, 0, 0), bool)
        return cls(box, voxels, answer.expected_dice)

    def paint(self, array: np.ndarray, value: int | bool) -> None:
        if self.box is not None:
            array[self.box.slices][self.voxels] = value


@dataclass(frozen=True, eq=False)
class _Step:
    """What was added, and every object's mask since; the object that was changed last stands last."""

    prompts: tuple[Prompt, ...]
    masks: Mapping[int, _Found]


class Session:
    """A promptable model with one image at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._image: Volume | None = None
        self._steps: list[_Step] = []

    def set_image(
        self, image: Volume | str | os.PathLike[str], *, case: str = "scan", progress: Progress = silent
    ) -> None:
        """Begin anew with an image: slow, once.

        Args:
            image: a volume or a file.
            case: names the image in errors.

        Raises:
            DataError: the image cannot be read, or the model cannot take it.
        """
        opened = image if isinstance(image, Volume) else io.read(image)
        self._image, self._steps = None, []
        self.engine.set_image(opened, case=case, progress=progress)
        self._image = opened

    def add(self, *prompts: Prompt | volume.Box, progress: Progress = silent) -> LabelVolume:
        """Add prompts, together one step, and return the mask of all objects on the image's grid.

        Each object's value is its number. A voxel that two objects claim goes to the one that was changed last.

        Raises:
            UsageError: there is no image yet, a prompt lies outside of it, all prompts of an object are negative, or
                the model does not take them.
        """
        image = self.image
        located = tuple(locate(prompt, image.geometry) for prompt in prompts)
        if not located:
            raise UsageError("no prompt is given; add a Box, Point, Scribble, MaskPrompt or Text")
        for prompt in located:
            if isinstance(prompt, Text) and not self.engine.takes_text:
                raise UsageError(
                    f"text {prompt.text!r}: the engine {self.engine.name} takes no text; sam3 does (a folder of SAM 3)"
                )
        masks = dict(self._steps[-1].masks) if self._steps else {}
        for number in dict.fromkeys(prompt.object for prompt in located):
            if number < 1:
                raise UsageError(f"object {number}: objects are numbered from 1; 0 is background")
            before = masks.pop(number, None)
            old = [prompt for step in self.steps for prompt in step if prompt.object == number]
            new = [prompt for prompt in located if prompt.object == number]
            masks[number] = _Found.of(self._segment(number, old, new, before, progress))
        self._steps.append(_Step(located, masks))
        return self.mask

    def undo(self) -> LabelVolume:
        """Take the last step back and return the mask as it was before.

        Raises:
            UsageError: there is nothing to undo.
        """
        if not self._steps:
            raise UsageError("nothing to undo: no prompt has been added")
        self._steps.pop()
        return self.mask

    @property
    def image(self) -> Volume:
        """The image of the session.

        Raises:
            UsageError: there is none yet.
        """
        if self._image is None:
            raise UsageError("the session has no image yet; begin with set_image(volume)")
        return self._image

    @property
    def mask(self) -> LabelVolume:
        """The mask of all objects so far."""
        masks = self._steps[-1].masks if self._steps else {}
        array = np.zeros(self.image.geometry.shape, np.min_scalar_type(max(masks, default=1)))
        for number, found in masks.items():
            found.paint(array, number)
        return LabelVolume(array, self.image.geometry, {f"object {number}": number for number in sorted(masks)})

    @property
    def expected_dice(self) -> dict[int, float]:
        """By object, what Dice the model itself expects of its mask; without those of which it does not say."""
        masks = self._steps[-1].masks if self._steps else {}
        return {number: found.expected_dice for number, found in masks.items() if found.expected_dice is not None}

    @property
    def steps(self) -> Steps:
        """All prompts so far, in voxels, step by step."""
        return tuple(step.prompts for step in self._steps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all prompts as JSON; :meth:`replay` takes the file.

        Raises:
            StorageError: the folder cannot be written, or no space is left.
        """
        save_steps(self.steps, path)

    def replay(
        self, steps: Sequence[Sequence[Prompt]] | str | os.PathLike[str], *, progress: Progress = silent
    ) -> LabelVolume:
        """Add the steps of another session, or of a file, one after the other.

        Raises:
            DocumentError: the file holds no prompts.
            UsageError: a prompt lies outside of the image.
        """
        given = load_steps(steps) if isinstance(steps, str | os.PathLike) else steps
        for step in given:
            self.add(*step, progress=progress)
        return self.mask

    def _segment(
        self, number: int, old: Sequence[Prompt], new: Sequence[Prompt], before: _Found | None, progress: Progress
    ) -> Answer:
        prompts = [*old, *new]
        shown = [prompt for prompt in prompts if prompt.positive or not isinstance(prompt, Box | MaskPrompt)]
        if not any(prompt.positive for prompt in shown):
            raise UsageError(f"object {number}: all its prompts are negative; show first where it is")
        previous = None
        if before is not None:
            previous = np.zeros(self.image.geometry.shape, bool)
            before.paint(previous, True)
            for prompt in new:
                if prompt.positive and isinstance(prompt, MaskPrompt):
                    previous |= prompt.array
        answer = self.engine.segment(shown, previous, progress)
        mask = answer.mask.copy()
        for prompt in prompts:
            if not prompt.positive and isinstance(prompt, Box):
                mask[prompt.voxels.slices] = False
            elif not prompt.positive and isinstance(prompt, MaskPrompt):
                mask &= ~prompt.array
        return replace(answer, mask=mask)
