"""The planning rule for a coarse configuration: whether one is worth it, and at what spacing.

As in nnU-Net (Isensee et al., Nature Methods 2021, and the planners of nnU-Net v2).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from medseg.planning.presets import Budget
from medseg.planning.rules import ENOUGH_CONTEXT, Ruled
from medseg.planning.topology import Fit, View, fit_patch

COARSER = 1.03
WORTHWHILE = 2


@dataclass(frozen=True)
class Lowres:
    """A coarse view of the data, its voxels in the median scan before rounding, and the network that fits."""

    view: View
    voxels: float
    fit: Ruled[Fit]


def lowres(view: View, patch_size: tuple[int, ...], label_entries: int, budget: Budget) -> Ruled[Lowres | None]:
    """The coarse configuration, where the patch at full resolution shows less than a quarter of the median scan.

    The spacing grows by 3% at a time until the patch that fits shows a quarter. It is not kept if the coarse scans
    have more than half the voxels of the fine ones.
    """
    full_voxels = prod(view.median_shape)
    share = prod(patch_size) / full_voxels
    shown = f"a 3d_fullres patch shows {min(1.0, share):.0%} of the median scan"
    if share >= ENOUGH_CONTEXT:
        return Ruled(None, f"no 3d_lowres: {shown}, which is context enough (at least {ENOUGH_CONTEXT:.0%})")
    spacing = view.spacing_mm
    coarse = None
    while coarse is None or prod(coarse.fit.value.patch_size) / coarse.voxels < ENOUGH_CONTEXT:
        spacing = coarser(spacing)
        coarse = _look(view, spacing, label_entries, budget)
    fewer = full_voxels / coarse.voxels
    if fewer < WORTHWHILE:
        return Ruled(None, f"no 3d_lowres: {shown}, but coarse scans would be only {fewer:.1f} times smaller")
    return Ruled(
        coarse,
        f"3d_lowres and the cascade are made because {shown}, less than {ENOUGH_CONTEXT:.0%}; scans made {fewer:.1f} "
        "times smaller let a patch show that much",
    )


def coarser(spacing_mm: tuple[float, ...]) -> tuple[float, ...]:
    """3% coarser along the axes more than twice as fine as the coarsest, or along all where there are none."""
    coarsest = max(spacing_mm)
    fine = [coarsest / step > 2 for step in spacing_mm]
    if not any(fine):
        fine = [True] * len(spacing_mm)
    return tuple(step * COARSER if is_fine else step for step, is_fine in zip(spacing_mm, fine, strict=True))


def _look(view: View, spacing_mm: tuple[float, ...], label_entries: int, budget: Budget) -> Lowres:
    shape = [
        full / step * size for full, step, size in zip(view.spacing_mm, spacing_mm, view.median_shape, strict=True)
    ]
    coarse = View(spacing_mm, tuple(float(max(1, round(size))) for size in shape))
    return Lowres(coarse, prod(shape), fit_patch(coarse, label_entries, budget))
