"""Intensities as a network sees them, read from the scan a few planes at a time.

The schemes are nnU-Net's: CT (clipped to the training foreground's 0.5 and 99.5 percentiles, then its mean and standard
deviation), z-score of the scan itself, onto 0 to 1, RGB, none (Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from medseg.errors import DataError
from medseg.fingerprinting import IntensityStatistics
from medseg.planning.plan import Normalization

_SMALLEST_STD = 1e-8
_AT_ONCE = 2**21  # voxels looked at together


@dataclass(frozen=True, eq=False)
class NormalizedChannel:
    """One channel of a scan: ``(clipped value - shift) / scale``; outside ``mask``, where there is one, as it is.

    Attributes:
        source: (Z, Y, X) of any real type, as the file has it.
    """

    source: np.ndarray
    lowest: float = -math.inf
    highest: float = math.inf
    shift: float = 0.0
    scale: float = 1.0
    mask: np.ndarray | None = None

    def planes(self, start: int, stop: int) -> torch.Tensor:
        """Planes from ``start`` to ``stop`` (n, Y, X) float32."""
        values = self.source[start:stop].astype(np.float32, order="C")
        if math.isfinite(self.lowest):
            np.clip(values, self.lowest, self.highest, out=values)
        if (self.shift, self.scale) != (0.0, 1.0):
            where = True if self.mask is None else self.mask[start:stop]
            np.subtract(values, np.float32(self.shift), out=values, where=where)
            np.divide(values, np.float32(self.scale), out=values, where=where)
        return torch.from_numpy(values)


def normalized(
    source: np.ndarray, rule: Normalization, statistics: IntensityStatistics, nonzero: np.ndarray | None, where: str
) -> NormalizedChannel:
    """How to normalise a channel (Z, Y, X) of a scan.

    Args:
        statistics: of the training foreground.
        nonzero: (Z, Y, X) bool, used by a rule for nonzero voxels only.
        where: names the scan in errors.

    Raises:
        DataError: voxels that are NaN or infinite.
    """
    mask = nonzero if rule.nonzero_only else None
    own = _Moments.of(source, mask, where)
    match rule.scheme:
        case "ct":
            low, high = statistics.percentile_00_5, statistics.percentile_99_5
            return NormalizedChannel(source, low, high, statistics.mean, max(statistics.std, _SMALLEST_STD))
        case "zscore":
            return NormalizedChannel(source, shift=own.mean, scale=max(own.std, _SMALLEST_STD), mask=mask)
        case "rescale_to_0_1":
            return NormalizedChannel(source, shift=own.lowest, scale=max(own.highest - own.lowest, _SMALLEST_STD))
        case "rgb_to_0_1":
            return NormalizedChannel(source, scale=255.0)
        case "none":
            return NormalizedChannel(source)


@dataclass(frozen=True)
class _Moments:
    """Of some voxels of a channel."""

    mean: float
    std: float
    lowest: float
    highest: float

    @staticmethod
    def of(source: np.ndarray, mask: np.ndarray | None, where: str) -> _Moments:
        count, mean, squares = 0, 0.0, 0.0
        lowest, highest, strange = math.inf, -math.inf, 0
        step = max(1, _AT_ONCE // math.prod(source.shape[1:]))
        for start in range(0, len(source), step):
            part = source[start : start + step].astype(np.float32)
            strange += int((~np.isfinite(part)).sum())
            values = part.ravel() if mask is None else part[mask[start : start + step]]
            if strange or not values.size:
                continue
            # Means and squares of parts join without loss (Chan, Golub and LeVeque, 1979).
            own = float(values.mean(dtype=np.float64))
            gap, total = own - mean, count + values.size
            squares += float(values.var(dtype=np.float64)) * values.size + gap * gap * count * values.size / total
            mean, count = mean + gap * values.size / total, total
            lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        if strange:
            raise DataError(f"{where}: {strange} voxels are NaN or infinite; replace them (for example by 0)")
        return _Moments(mean, math.sqrt(squares / max(count, 1)), lowest, highest)
