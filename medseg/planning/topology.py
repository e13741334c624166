"""The planning rules that shape the network: where it halves an axis, its kernels, and the patch that fits the memory.

They are nnU-Net's (Isensee et al., Nature Methods 2021, and the planners of nnU-Net v2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from medseg.architecture import Family, NetworkSpec, feature_map_elements
from medseg.errors import UsageError
from medseg.planning.presets import BASE_FEATURES, RESIDUAL_BLOCKS, Budget, largest_features, reference_batch
from medseg.planning.rules import Ruled
from medseg.planning.wording import count, lengths, millions, number

SMALLEST_SIDE = 4
START_VOXELS = {3: 256**3, 2: 2048**2}

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """The data as one network sees it: spacing (mm) and median scan (voxels), axes in the plan's order."""

    spacing_mm: tuple[float, ...]
    median_shape: tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """A network with the patch it works on, and the numbers its feature maps hold for one patch."""

    network: NetworkSpec
    patch_size: Sizes
    elements: int


def initial_patch(view: View) -> tuple[float, ...]:
    """A generous first patch: in mm as long as it is wide, 256^3 or 2048^2 voxels, nowhere beyond the median scan."""
    dimensions = len(view.spacing_mm)
    density = [1 / step for step in view.spacing_mm]
    scale = (START_VOXELS[dimensions] / prod(density)) ** (1 / dimensions)
    return tuple(min(round(step * scale), size) for step, size in zip(density, view.median_shape, strict=True))


def topology(spacing_mm: Sequence[float], patch_size: Sequence[float]) -> tuple[tuple[Sizes, ...], tuple[Sizes, ...]]:
    """Strides and kernel sizes of each resolution for a patch, finest first.

    An axis is halved while it has 8 voxels or more and its spacing is within a factor of 2 of the finest such axis; an
    axis alone needs 12. Kernels are 1 along an axis until its spacing is within a factor of 2 of the finest, 3 from
    then on, and 3 everywhere at the lowest resolution.
    """
    spacing, size = list(spacing_mm), list(patch_size)
    axes = range(len(size))
    strides: list[Sizes] = [(1,) * len(size)]
    kernels: list[Sizes] = []
    kernel = (1,) * len(size)
    while halved := _axes_to_halve(spacing, size):
        finest = min(spacing)
        kernel = tuple(3 if kernel[axis] == 3 or spacing[axis] / finest < 2 else 1 for axis in axes)
        kernels.append(kernel)
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            spacing[axis] *= 2
            size[axis] = ceil(size[axis] / 2)
    kernels.append((3,) * len(size))
    return tuple(strides), tuple(kernels)


def _axes_to_halve(spacing: list[float], size: list[float]) -> list[int]:
    long_enough = [axis for axis, length in enumerate(size) if length >= 2 * SMALLEST_SIDE]
    if not long_enough:
        return []
    finest = min(spacing[axis] for axis in long_enough)
    halved = [axis for axis in long_enough if spacing[axis] / finest < 2]
    if len(halved) == 1 and size[halved[0]] < 3 * SMALLEST_SIDE:
        return []
    return halved


def network(family: Family, strides: tuple[Sizes, ...], kernels: tuple[Sizes, ...]) -> NetworkSpec:
    """The U-Net of a topology: channels double from 32 up to 320 (3D) or 512 (2D).

    Plain networks have two convolutions a resolution on both sides; residual encoders have 1, 3, 4, 6, 6 ... blocks
    and decoders with one convolution.
    """
    stages = len(strides)
    most = largest_features(len(strides[0]))
    plain = family == "plain_unet"
    return NetworkSpec(
        family=family,
        features=tuple(min(BASE_FEATURES * 2**stage, most) for stage in range(stages)),
        kernel_sizes=kernels,
        strides=strides,
        encoder_blocks=(2,) * stages if plain else (*RESIDUAL_BLOCKS, *[RESIDUAL_BLOCKS[-1]] * stages)[:stages],
        decoder_blocks=(2 if plain else 1,) * (stages - 1),
    )


def fit_patch(view: View, label_entries: int, budget: Budget) -> Ruled[Fit]:
    """The largest patch of the median scan's proportions whose network fits the budget, with that network.

    Starting from ``initial_patch``, the axis that covers the largest share of the median scan is shortened by one
    step of the network's divisor at a time, and the network made anew.

    Raises:
        UsageError: not even the smallest patch fits.
    """
    start = fit = _fit(view, initial_patch(view), label_entries, budget)
    steps = 0
    while not fits(fit.elements, budget, len(view.spacing_mm)):
        fit = _fit(view, _shortened(view, fit, budget), label_entries, budget)
        steps += 1
    return Ruled(fit, _why(start, fit, steps, budget))


def fits(elements: int, budget: Budget, dimensions: int) -> bool:
    """Whether the smallest batch of patches with so many feature values stays within the budget."""
    reference, smallest = reference_batch(dimensions), budget.smallest_batch(dimensions)
    needed = elements if smallest == reference else elements / reference * smallest
    return needed <= budget.elements(dimensions)


def _fit(view: View, patch_size: Sequence[float], label_entries: int, budget: Budget) -> Fit:
    spec = network(budget.family, *topology(view.spacing_mm, patch_size))
    whole = tuple(ceil(size / step) * step for size, step in zip(patch_size, spec.divisor, strict=True))
    return Fit(spec, whole, feature_map_elements(spec, whole, label_entries))


def _shortened(view: View, fit: Fit, budget: Budget) -> Sizes:
    """One step down; the divisor is that of the shorter patch, so that no valid size between is passed over."""
    shares = [size / whole for size, whole in zip(fit.patch_size, view.median_shape, strict=True)]
    axis = max(range(len(shares)), key=lambda candidate: (shares[candidate], candidate))
    shorter = list(fit.patch_size)
    shorter[axis] -= fit.network.divisor[axis]
    strides, _ = topology(view.spacing_mm, shorter)
    shorter[axis] = fit.patch_size[axis] - prod(stride[axis] for stride in strides)
    if shorter[axis] < 1:
        raise UsageError(
            f"{number(budget.memory_gb)} GB hold no network of preset {budget.preset!r} for this dataset; "
            "plan with more memory"
        )
    return tuple(shorter)


def why_network(spec: NetworkSpec) -> str:
    """The reason for a topology, in numbers."""
    *most, last = (str(divisor.bit_length() - 1) for divisor in spec.divisor)
    reason = (
        f"the axes are halved {', '.join(most)} and {last} times, each while it has {2 * SMALLEST_SIDE} voxels or more "
        f"and is within a factor of 2 of the finest; channels double from {spec.features[0]}, up to "
        f"{largest_features(spec.dimensions)}"
    )
    if any(1 in kernel for kernel in spec.kernel_sizes):
        reason += "; kernels stay flat across a coarse axis until it is within a factor of 2 of the finest"
    return reason


def _why(start: Fit, fit: Fit, steps: int, budget: Budget) -> str:
    dimensions = len(fit.patch_size)
    batch = budget.smallest_batch(dimensions)
    allowed = budget.elements(dimensions) * reference_batch(dimensions) / batch
    room = f"{number(budget.memory_gb)} GB hold {millions(allowed)} intermediate values for each of {batch} patches"
    first = f"{lengths(start.patch_size)} voxels, the median scan or as much of it as is useful"
    if steps == 0:
        return f"{room}; {first}, needs {millions(fit.elements)} and is taken whole"
    return (
        f"{room}; {first}, would need {millions(start.elements)}; shortened in {count(steps, 'step')}, always along "
        f"the axis that shows the largest share of the scan, a patch needs {millions(fit.elements)}"
    )
