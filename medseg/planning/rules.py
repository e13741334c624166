"""The planning rules that read the data alone: spacing, axes, sizes, intensities, batch. One pure function a rule.

Every rule returns its value with the reason. They are nnU-Net's (Isensee et al., Nature Methods 2021, and the planners
of nnU-Net v2), so that the same dataset gives the same plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Generic, TypeVar

import numpy as np

from medseg.planning.facts import DatasetFacts
from medseg.planning.plan import Normalization, NormalizationScheme
from medseg.planning.wording import AXES, count, lengths, millions, number

T = TypeVar("T")
Triple = tuple[float, float, float]

ANISOTROPY = 3
THIN_SLICE_PERCENTILE = 10
CROPPED_AWAY = 0.75
ENOUGH_CONTEXT = 0.25
SCHEME_OF_CHANNEL: dict[str, NormalizationScheme] = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}
_WHY_SCHEME: dict[NormalizationScheme, str] = {
    "ct": "CT numbers mean the same in every scan, so all are clipped to the 0.5 and 99.5 percentiles of the labelled "
    "tissue and scaled by its mean and deviation",
    "zscore": "its intensities have no fixed unit, so every scan is scaled by its own mean and deviation",
    "none": "its name asks for no normalisation",
    "rescale_to_0_1": "its name asks for the range 0 to 1",
    "rgb_to_0_1": "its name says colour values from 0 to 255",
}


@dataclass(frozen=True)
class Ruled(Generic[T]):
    """What a rule says, and why."""

    value: T
    because: str


def target_spacing(facts: DatasetFacts) -> Ruled[Triple]:
    """Spacing (mm) that scans are resampled to: the median of each axis, finer along a coarse and thin one.

    Where one axis is more than 3 times coarser than both others and holds less than a third of their voxels, the
    median would leave too few slices and blur the thin-slice scans: the 10th percentile of that axis is used, but
    nothing finer than the other axes.
    """
    spacings = np.array(facts.spacings_mm)
    target = [float(value) for value in np.percentile(spacings, 50, axis=0)]
    sizes = np.percentile(np.array(facts.shapes), 50, axis=0)
    median = f"{lengths(target, 'mm')} is the median of {count(facts.training_cases, 'scan')}, axis by axis"
    if facts.slice_axis is not None:
        return Ruled(_triple(target), f"{median}; every case is one slice along {AXES[facts.slice_axis]}")
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    coarsest_other = max(target[axis] for axis in others)
    shortest_other = min(float(sizes[axis]) for axis in others)
    if not target[coarse] > ANISOTROPY * coarsest_other:
        return Ruled(_triple(target), f"{median}; no axis is more than {ANISOTROPY} times coarser than the others")
    apart = f"axis {AXES[coarse]} is more than {ANISOTROPY} times coarser than the others"
    if not sizes[coarse] * ANISOTROPY < shortest_other:
        reason = f"{median}; {apart}, but with {number(sizes[coarse])} slices it is not thin"
        return Ruled(_triple(target), reason)
    finer = float(np.percentile(spacings[:, coarse], THIN_SLICE_PERCENTILE))
    limited = finer < coarsest_other
    reason = (
        f"{median}; {apart} and has only {number(sizes[coarse])} slices, so it takes the {THIN_SLICE_PERCENTILE}th "
        f"percentile instead, {number(finer)} mm, to keep the detail of the thin-slice scans"
    )
    if limited:
        finer = coarsest_other + 1e-5
        reason += f"; no finer than the other axes, hence {number(finer)} mm"
    target[coarse] = finer
    return Ruled(_triple(target), reason)


def axis_order(spacing_mm: Triple, slice_axis: int | None = None) -> Ruled[tuple[int, int, int]]:
    """The axes with the coarsest in front and the others as they were; 2D networks work on slices along the first.

    Where every case is one slice along ``slice_axis``, that axis goes in front whatever its spacing.
    """
    first = int(np.argmax(spacing_mm)) if slice_axis is None else slice_axis
    second, third = (axis for axis in range(3) if axis != first)
    if slice_axis is not None:
        return Ruled((first, second, third), f"every case is a single slice along {AXES[first]}")
    if min(spacing_mm) == max(spacing_mm):
        return Ruled((0, 1, 2), f"all axes are equally fine ({number(spacing_mm[0])} mm) and stay as they are")
    reason = f"{AXES[first]} is the coarsest axis ({number(spacing_mm[first])} mm) and goes first; slices lie across it"
    return Ruled((first, second, third), reason)


def median_shape(facts: DatasetFacts, spacing_mm: Triple) -> Ruled[Triple]:
    """Median size of a scan in voxels once all scans have the spacing; may end in one half."""
    shapes = np.array(
        [
            [round(own / new * size) for own, new, size in zip(spacing, spacing_mm, shape, strict=True)]
            for spacing, shape in zip(facts.spacings_mm, facts.shapes, strict=True)
        ]
    )
    median = _triple([float(value) for value in np.median(shapes, axis=0)])
    return Ruled(median, f"median size of {count(facts.training_cases, 'scan')} at this spacing")


def normalization(facts: DatasetFacts) -> Ruled[tuple[Normalization, ...]]:
    """How each channel is normalised, from its name; z-scores skip zeros where cropping takes away much of a scan."""
    schemes: list[NormalizationScheme] = [
        SCHEME_OF_CHANNEL.get(channel.casefold(), "zscore") for channel in facts.channels
    ]
    mostly_empty = facts.relative_size < CROPPED_AWAY
    chosen = tuple(Normalization(scheme, mostly_empty and scheme == "zscore") for scheme in schemes)
    reasons = [f"{name!r}: {_WHY_SCHEME[scheme]}" for name, scheme in zip(facts.channels, schemes, strict=True)]
    if any(one.nonzero_only for one in chosen):
        reasons.append(
            f"cropping to nonzero leaves {facts.relative_size:.0%} of a scan, less than {CROPPED_AWAY:.0%}, so the "
            "empty surroundings are kept out of mean and deviation"
        )
    return Ruled(chosen, "; ".join(reasons))


def is_volumetric(median: tuple[float, ...]) -> Ruled[bool]:
    """Whether 3D configurations make sense: not where the median scan is one slice along the first axis."""
    if median[0] == 1:
        return Ruled(False, "only 2d: the scans are single slices")
    return Ruled(True, "2d and 3d_fullres are always made for volumes")


def batch_dice(dimensions: int, share: float, has_overview: bool) -> Ruled[bool]:
    """Whether the Dice loss judges all patches of a batch together instead of one by one.

    Args:
        share: part of the median scan that a patch shows.
        has_overview: whether a coarser configuration shows more of it.
    """
    if dimensions == 2:
        return Ruled(True, "many slices hold little or no foreground, so the Dice of one slice says little")
    if has_overview:
        return Ruled(True, f"a patch shows only {share:.0%} of the median scan, often without foreground")
    if share < ENOUGH_CONTEXT:
        return Ruled(False, f"a patch shows {share:.0%} of the median scan, and no coarser configuration shows more")
    return Ruled(False, f"a patch shows {share:.0%} of the median scan, enough to be judged on its own")


def batch_size(
    elements: int,
    allowed: float,
    reference: int,
    patch_size: tuple[int, ...],
    dataset_voxels: float,
    dataset_share: float,
) -> Ruled[int]:
    """Patches a step: as many as fit, no more than a share of the training voxels, at least 2.

    Args:
        elements: numbers in the feature maps of one patch.
        allowed: how many there may be at batch ``reference``.
        dataset_voxels: voxels of all training scans at this spacing.
        dataset_share: share of them that one batch may show.
    """
    fitting = round(allowed / elements * reference)
    capped = round(dataset_voxels * dataset_share / float(prod(patch_size)))
    size = max(min(fitting, capped), 2)
    memory = (
        f"memory holds {millions(allowed * reference)} intermediate values and one patch needs {millions(elements)}, "
        f"which makes {number(allowed * reference / elements)} patches"
    )
    share = f"{dataset_share:.0%} of all training voxels are {capped} patches"
    if size == fitting:
        return Ruled(size, memory)
    if size == capped:
        return Ruled(size, f"{memory}, but a batch shows no more than {share}")
    return Ruled(size, f"a batch has at least 2 patches; {memory}, and {share}")


def _triple(values: list[float]) -> Triple:
    first, second, third = values
    return first, second, third
