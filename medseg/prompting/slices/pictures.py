"""A scan as pictures: 8 bits, three colours, slices across any axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.errors import DataError
from medseg.prompting.slices.windows import Window, window_of
from medseg.volume import Volume


@dataclass(frozen=True, eq=False)
class Pictures:
    """The slices of a scan.

    Attributes:
        array: (C, Z, Y, X) uint8, of one channel or three.
        spacing_mm: along (z, y, x).
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, volume: Volume, window: Window | None, case: str) -> Pictures:
        """Of a scan through a window, by default the one that suits it.

        Raises:
            DataError: neither one channel nor three, or voxels that are NaN or infinite; ``case`` names the scan.
        """
        if volume.channels not in (1, 3):
            raise DataError(f"{case}: SAM sees pictures of 1 or 3 channels, found {volume.channels}; give one of them")
        window = window or window_of(volume, case)
        return cls(window.apply(volume.array), volume.geometry.spacing_mm)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        _, z, y, x = self.array.shape
        return z, y, x

    def across(self, axis: int) -> tuple[int, int, int]:
        """The shape with an axis first: how many slices there are across it, and how large they are."""
        first, second = (size for other, size in enumerate(self.shape) if other != axis)
        return self.shape[axis], first, second

    def slice(self, axis: int, index: int) -> np.ndarray:
        """(Y, X, 3) uint8: one slice across an axis."""
        plane = np.moveaxis(self.array.take(index, axis + 1), 0, -1)
        return np.ascontiguousarray(np.broadcast_to(plane, (*plane.shape[:2], 3)))
