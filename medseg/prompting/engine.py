"""What a session asks of a promptable model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from medseg.progress import Progress
from medseg.prompting.prompts import Prompt
from medseg.volume import Volume


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one object.

    Attributes:
        mask: (Z, Y, X) bool on the image's grid.
        expected_dice: what the model itself expects that mask to reach, 0 to 1; None where it does not say.
    """

    mask: np.ndarray
    expected_dice: float | None = None


class Engine(Protocol):
    """A promptable model on a device. It keeps the image, and nothing about prompts."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    @property
    def takes_text(self) -> bool:
        """Whether prompts may be :class:`medseg.prompting.prompts.Text`; else the session refuses them."""
        ...

    def set_image(self, volume: Volume, *, case: str, progress: Progress) -> None:
        """Take an image; what is slow and does not depend on prompts is done once.

        Raises:
            DataError: an image that the model cannot take.
        """
        ...

    def segment(self, prompts: Sequence[Prompt], previous: np.ndarray | None, progress: Progress) -> Answer:
        """One object on the image's grid.

        Args:
            prompts: all of the object, in voxels, within the image; at least one is positive. Boxes and masks are
                positive, since the session itself sees to the negative ones.
            previous: the object's mask before the newest prompts, (Z, Y, X) bool, if it had any.
        """
        ...
