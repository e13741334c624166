"""What is shown of an object on one slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SliceBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class SlicePrompts:
    """Prompts on a slice in voxels (y, x): a box, its start in, its stop out; points, and whether they are inside."""

    box: SliceBox | None = None
    points: tuple[tuple[float, float, bool], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing says where the object is."""
        return self.box is None and not any(inside for _, _, inside in self.points)


SegmentSlice = Callable[[int, SlicePrompts], np.ndarray]
