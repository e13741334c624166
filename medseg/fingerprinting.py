"""What a dataset is, in numbers: the document that the planning rules read, and how it is computed.

Cases are read one at a time, each leaves a summary of a few kilobytes, and the summaries are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from medseg import parallel
from medseg.coarse_grids import FACTORS, coarse_dice
from medseg.errors import DataError
from medseg.labels import LabelSet
from medseg.nonzero import nonzero_box
from medseg.orientation import CANONICAL
from medseg.progress import Progress, silent

if TYPE_CHECKING:
    from medseg.dataset import CaseRef, Dataset

# Voxels that stand for one case and channel in the percentiles. Evenly spaced among all foreground voxels in order of
# intensity, so that no rank is off by more than 1 / (2 * 10,000): finer than random samples many times their number.
RANKS_PER_CASE = 10_000
# So many cases, evenly spread, tell what labels lose on coarser grids.
COARSE_CASES = 16


@dataclass(frozen=True)
class IntensityStatistics:
    """Intensities of one channel in the foreground, in the file's own units; every case has the same weight."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True)
class CaseFingerprint:
    """One case: sizes in voxels and spacing in mm along (Z, Y, X) of the canonically oriented scan.

    ``cropped_shape`` is the size of the box around all voxels that are not zero; ``label_voxels`` counts voxels of the
    whole scan for each of the labels' ``values``, in that order.
    """

    case: str
    shape: tuple[int, int, int]
    cropped_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    label_voxels: tuple[int, ...]


@dataclass(frozen=True)
class Fingerprint:
    """A dataset in numbers.

    Attributes:
        channels: channel names in order.
        cases: one entry a training case, in order of case name.
        intensities: statistics of each channel.
        median_relative_size_after_cropping: median over cases of voxels left by cropping to nonzero.
        coarse_dice: mean Dice of the labels after a round trip over grids 1.5, 2, 3 and 4 times coarser than the
            finest axis (:mod:`medseg.coarse_grids`), mean over classes; empty where it was not measured.
    """

    version: Literal[1]
    dataset_name: str
    channels: tuple[str, ...]
    labels: LabelSet
    cases: tuple[CaseFingerprint, ...]
    intensities: tuple[IntensityStatistics, ...]
    median_relative_size_after_cropping: float
    coarse_dice: tuple[float, ...] = ()


def fingerprint_dataset(
    dataset: Dataset, *, orientation: str = CANONICAL, workers: int | str = 0, progress: Progress = silent
) -> Fingerprint:
    """Read every training case once and describe the dataset.

    Intensities are those of the foreground (any label, the ignore label too, inside the box around nonzero voxels).
    nnU-Net draws the same number of voxels from every case, so a large organ counts no more than a small one; here the
    same weighting is applied without drawing: mean, standard deviation, minimum and maximum are exact, percentiles
    within 1 / 20,000 of the rank. Cases without foreground have no say in them.

    Args:
        orientation: axes are brought nearest to this first; ``"stored"`` leaves those of the files.
        workers: see :func:`medseg.parallel.map_cases`.

    Raises:
        CasesFailedError: any case failed, since a fingerprint of a part would plan for a part; lists them all.
        DataError: the dataset has no cases, or no case has foreground.
    """
    if not dataset.cases:
        raise DataError(f"{dataset.name}: the dataset has no training cases; add images with masks")
    ordered = sorted(dataset.cases, key=_name)
    looked_at = frozenset(case.name for case in ordered[:: -(-len(ordered) // COARSE_CASES)])
    outcomes = parallel.map_cases(
        partial(
            _summarize,
            labels=dataset.labels,
            channels=dataset.channels,
            orientation=orientation,
            coarsened=looked_at,
        ),
        ordered,
        name=_name,
        what="fingerprint",
        workers=workers,
        progress=progress,
    )
    summaries = parallel.values(outcomes, "fingerprint")
    with_foreground = [summary.intensities for summary in summaries if summary.intensities]
    if not with_foreground:
        raise DataError(
            f"{dataset.name}: no case has a foreground voxel among {dict(dataset.labels.meaning)};"
            " check the masks and the declared labels"
        )
    cases = tuple(summary.case for summary in summaries)
    return Fingerprint(
        version=1,
        dataset_name=dataset.name,
        channels=tuple(dataset.channels),
        labels=dataset.labels,
        cases=cases,
        intensities=tuple(_merge(channel) for channel in zip(*with_foreground, strict=True)),
        median_relative_size_after_cropping=float(
            np.median([prod(case.cropped_shape) / prod(case.shape) for case in cases])
        ),
        coarse_dice=_mean_coarse_dice([summary.coarse_dice for summary in summaries]),
    )


@dataclass(frozen=True, eq=False)
class _Intensities:
    """Foreground of one case and channel: exact moments and range, and evenly spaced ranks (n,) float32, ascending."""

    mean: float
    variance: float
    min: float
    max: float
    ranks: np.ndarray


@dataclass(frozen=True, eq=False)
class _Summary:
    """One case: its entry in the fingerprint, its foreground intensities (one per channel, or none), and for each
    class, where that was asked for, its Dice on coarser grids, or None without that class."""

    case: CaseFingerprint
    intensities: tuple[_Intensities, ...]
    coarse_dice: tuple[tuple[float, ...] | None, ...]


def _name(case: CaseRef) -> str:
    return case.name


def _summarize(
    case: CaseRef, labels: LabelSet, channels: tuple[str, ...], orientation: str, coarsened: frozenset[str]
) -> _Summary:
    from medseg.dataset import load_case

    volume, mask = load_case(case, labels, channels)
    if mask is None:
        raise DataError(f"{case.name}: a training case needs a mask; give it one or remove the case")
    if orientation != "stored":
        change = volume.geometry.change_to(orientation)
        volume, mask = volume.changed(change), mask.changed(change)
    indices = labels.encode(mask.array, where=case.name)
    box = nonzero_box(volume.array)
    foreground = indices[box.slices] > 0
    return _Summary(
        CaseFingerprint(
            case=case.name,
            shape=volume.geometry.shape,
            cropped_shape=box.shape,
            spacing_mm=volume.geometry.spacing_mm,
            label_voxels=_count(indices, len(labels.values)),
        ),
        tuple(_describe(channel[foreground]) for channel in volume.cropped(box).array) if foreground.any() else (),
        coarse_dice(indices, labels.class_indices, volume.geometry.spacing_mm) if case.name in coarsened else (),
    )


def _mean_coarse_dice(cases: Sequence[Sequence[tuple[float, ...] | None]]) -> tuple[float, ...]:
    """Mean over the cases that show a class, then over classes."""
    classes = [[dice for dice in of_class if dice is not None] for of_class in zip(*filter(None, cases), strict=True)]
    means = [np.mean(found, axis=0) for found in classes if found]
    return tuple(np.mean(means, axis=0).tolist()) if means else (1.0,) * len(FACTORS)


def _count(indices: np.ndarray, labels: int) -> tuple[int, ...]:
    """Voxels of each index 1..labels, slice by slice, since ``bincount`` makes a copy in 64 bits."""
    counts = np.zeros(labels + 2, dtype=np.int64)
    for plane in indices:
        counts += np.bincount(plane.ravel(), minlength=labels + 2)
    return tuple(counts[1 : labels + 1].tolist())


def _describe(values: np.ndarray) -> _Intensities:
    values = np.sort(values)
    count = min(len(values), RANKS_PER_CASE)
    middles = ((np.arange(count) + 0.5) * (len(values) / count)).astype(np.int64)
    mean, variance = _moments(values)
    return _Intensities(
        mean=mean,
        variance=variance,
        min=float(values[0]),
        max=float(values[-1]),
        ranks=values[middles].astype(np.float32),
    )


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and variance in double precision, a million values at a time, since a copy of all may not fit."""
    parts = [values[start : start + 2**20] for start in range(0, len(values), 2**20)]
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / len(values)
    squares = (float(np.square(part.astype(np.float64) - mean).sum()) for part in parts)
    return mean, sum(squares) / len(values)


def _merge(cases: tuple[_Intensities, ...]) -> IntensityStatistics:
    """Statistics of the mixture of all cases, each with the same weight."""
    means = np.array([case.mean for case in cases])
    variances = np.array([case.variance for case in cases])
    values = np.concatenate([case.ranks for case in cases])
    weights = np.concatenate([np.full(len(case.ranks), 1 / len(case.ranks)) for case in cases])
    low, median, high = np.quantile(values, (0.005, 0.5, 0.995), weights=weights, method="inverted_cdf").tolist()
    return IntensityStatistics(
        mean=float(means.mean()),
        median=median,
        std=float(np.sqrt(variances.mean() + means.var())),
        min=min(case.min for case in cases),
        max=max(case.max for case in cases),
        percentile_00_5=low,
        percentile_99_5=high,
    )
