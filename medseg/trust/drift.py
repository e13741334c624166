"""Whether a scan is like those of training: spacing, field of view, intensities, sharpness, orientation, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.orientation import CANONICAL
from medseg.planning.plan import Plan
from medseg.volume import Volume

FACTOR = 1.25
"""Lengths and sharpness may leave the range of training by this factor."""
INTENSITY_SHARE = 0.25
"""Intensities may leave it by this part of the distance from the lowest to the highest of training."""
MOST_VOXELS = 400_000
PERCENTILES = (0.5, 50.0, 99.5)
BOX = 128
"""Voxels a side of the box in the middle of the scan by which sharpness is judged."""


@dataclass(frozen=True)
class ScanNumbers:
    """One scan: where its axes lead, and named numbers, the same names for every scan of a plan."""

    orientation: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class Range:
    """One number over all training scans: what occurred, and from where to where a scan counts as like them."""

    name: str
    lowest: float
    highest: float
    allowed_low: float
    allowed_high: float


@dataclass(frozen=True)
class TrainingScans:
    """All training scans: how many have which orientation, and the ranges of their numbers."""

    cases: int
    orientations: dict[str, int]
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Drift:
    """One number of a scan beside those of training."""

    name: str
    value: float
    lowest: float
    highest: float
    outside: bool

    def __str__(self) -> str:
        return f"{self.name} is {self.value:.4g}, in training {self.lowest:.4g} to {self.highest:.4g}"


def describe_scan(volume: Volume, plan: Plan) -> ScanNumbers:
    """The numbers of a scan.

    Spacing and field of view are along the patient's axes (of a model that keeps stored axes, along these).
    Intensities are percentiles of each channel over voxels that are not zero, evenly spaced; where a channel is
    standardised scan by scan, in standard deviations from its mean, since its units then mean nothing. Sharpness is the
    mean difference of neighbours along an axis, in standard deviations: little in a blurred scan, much in a noisy one.
    """
    geometry, stored = volume.geometry, plan.orientation == "stored"
    turned = volume if stored else volume.changed(geometry.change_to(CANONICAL))
    upright = turned.geometry
    numbers: dict[str, float] = {}
    for axis, spacing, size in zip("zyx", upright.spacing_mm, upright.shape, strict=True):
        numbers[f"spacing {axis} (mm)"] = spacing
        numbers[f"field of view {axis} (mm)"] = spacing * size
    schemes = [rule.scheme for rule in plan.configurations[0].normalization]
    middle = tuple(slice(max(0, (size - BOX) // 2), (size + BOX) // 2) for size in upright.shape)
    for name, scheme, channel, shown in zip(plan.channels, schemes, volume.array, turned.array, strict=True):
        values = channel.ravel()[:: max(1, channel.size // MOST_VOXELS)].astype(np.float64)
        values = values[values != 0]
        if scheme == "zscore" and len(values):
            values = (values - values.mean()) / max(float(values.std()), 1e-8)
        found = np.percentile(values, PERCENTILES) if len(values) else np.zeros(len(PERCENTILES))
        unit = " in SD" if scheme == "zscore" else ""
        for percentile, value in zip(PERCENTILES, found, strict=True):
            numbers[f"{name}: {percentile:g} % of voxels below{unit}"] = float(value)
        box = shown[middle].astype(np.float32)
        spread = max(float(box.std()), 1e-8)
        for axis, letter in enumerate("zyx"):
            step = np.abs(np.diff(box, axis=axis)).mean() if box.shape[axis] > 1 else 0.0
            numbers[f"{name}: sharpness {letter} (SD)"] = float(step) / spread
    return ScanNumbers(geometry.orientation, numbers)


def training_scans(scans: Sequence[ScanNumbers]) -> TrainingScans:
    """The ranges of scans that a model has learned from."""
    ranges = []
    names = list(scans[0].numbers)
    values = {name: np.array([scan.numbers[name] for scan in scans]) for name in names}
    for name in names:
        lowest, highest = float(values[name].min()), float(values[name].max())
        if name.endswith(("(mm)", "(SD)")):
            low, high = lowest / FACTOR, highest * FACTOR
        else:
            channel = name.partition(": ")[0]
            percentiles = [
                each for other, each in values.items() if other.startswith(f"{channel}: ") and "below" in other
            ]
            together = np.concatenate(percentiles)
            slack = INTENSITY_SHARE * float(np.ptp(together))
            low, high = lowest - slack, highest + slack
        ranges.append(Range(name, lowest, highest, low, high))
    return TrainingScans(len(scans), dict(Counter(scan.orientation for scan in scans)), tuple(ranges))


def drifts(scan: ScanNumbers, training: TrainingScans) -> tuple[Drift, ...]:
    """Every number of a scan beside those of training."""
    return tuple(
        Drift(
            known.name,
            scan.numbers[known.name],
            known.lowest,
            known.highest,
            not known.allowed_low <= scan.numbers[known.name] <= known.allowed_high,
        )
        for known in training.ranges
        if known.name in scan.numbers
    )
