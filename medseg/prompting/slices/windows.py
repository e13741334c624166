"""Intensities of a scan as a picture from 0 to 255, as MedSAM was trained on them.

CT is cut at a window in Hounsfield units, by default that of soft tissue (level 40, width 400); other scans at the 0.5
and 99.5 percentiles of their positive voxels (Ma et al., Segment anything in medical images, Nature Communications
2024). Pictures of 8 bits stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.errors import DataError, UsageError
from medseg.volume import Volume

SOFT_TISSUE = (-160.0, 240.0)
PERCENTILES = (0.5, 99.5)
# Air in CT is -1000; nothing but CT has so much of what is so low.
_CT_BELOW = -500.0


@dataclass(frozen=True)
class Window:
    """Values from ``low`` to ``high`` become 0 to 255; what lies beyond is cut.

    Raises:
        UsageError: ``high`` is not above ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.high > self.low:
            raise UsageError(f"window: expected two rising values, found {self.low:g} and {self.high:g}")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Uint8, same shape."""
        clipped = np.clip(values.astype(np.float32), self.low, self.high)
        return ((clipped - self.low) * (255.0 / (self.high - self.low))).astype(np.uint8)


def window_of(volume: Volume, where: str) -> Window:
    """The window that suits a scan.

    Raises:
        DataError: voxels that are NaN or infinite; ``where`` names the scan.
    """
    if not np.isfinite(volume.array).all():
        raise DataError(f"{where}: voxels that are NaN or infinite; replace them (for example by 0)")
    if volume.array.dtype == np.uint8:
        return Window(0.0, 255.0)
    lowest = float(volume.array.min())
    if lowest < _CT_BELOW:
        return Window(*SOFT_TISSUE)
    positive = volume.array[volume.array > 0]
    if not positive.size:
        return Window(lowest, lowest + 1.0)
    low, high = np.percentile(positive, PERCENTILES)
    return Window(float(low), float(max(high, low + 1e-6 * max(1.0, abs(low)))))
