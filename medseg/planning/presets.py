"""The presets: how large a network may be, and what kind, in nnU-Net's published numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from medseg.architecture import Family
from medseg.errors import UsageError
from medseg.planning.plan import Preset

BASE_FEATURES = 32
RESIDUAL_BLOCKS = (1, 3, 4, 6)


@dataclass(frozen=True)
class Budget:
    """What a preset allows.

    Attributes:
        memory_gb: memory of the GPU that training must fit.
        elements_3d: numbers that the feature maps of one sample may hold at batch 2.
        elements_2d: the same in two dimensions, at batch 12.
        smallest_batch_2d: the batch for which a 2D patch must fit.
        dataset_share: largest share of all training voxels that one batch may show.
    """

    preset: Preset
    family: Family
    memory_gb: float
    elements_3d: float
    elements_2d: float
    smallest_batch_2d: int
    dataset_share: float

    def elements(self, dimensions: int) -> float:
        """Numbers that the feature maps of one sample may hold at the reference batch."""
        return self.elements_3d if dimensions == 3 else self.elements_2d

    def smallest_batch(self, dimensions: int) -> int:
        """The batch for which a patch must fit."""
        return 2 if dimensions == 3 else self.smallest_batch_2d


def reference_batch(dimensions: int) -> int:
    """The batch for which the budgets are stated."""
    return 2 if dimensions == 3 else 12


def largest_features(dimensions: int) -> int:
    """Where the channels stop doubling."""
    return 320 if dimensions == 3 else 512


PRESETS: dict[str, Budget] = {
    "default": Budget("default", "plain_unet", 8.0, 560e6, 85e6, 2, 0.05),
    "resenc-m": Budget("resenc-m", "residual_unet", 8.0, 680e6, 135e6, 12, 1.0),
    "resenc-l": Budget("resenc-l", "residual_unet", 24.0, 2100e6, 380e6, 12, 1.0),
    "resenc-xl": Budget("resenc-xl", "residual_unet", 40.0, 3600e6, 560e6, 12, 1.0),
}


def budget_for(preset: str, memory_gb: float | None = None) -> Budget:
    """The budget of a preset, scaled in proportion to the memory; by default the preset's own memory.

    Raises:
        UsageError: the preset is not known, or the memory is no positive number.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset {preset!r} is not known; choose one of {', '.join(PRESETS)}")
    own = PRESETS[preset]
    if memory_gb is None:
        return own
    if not (isfinite(memory_gb) and memory_gb > 0):
        raise UsageError(f"memory must be a positive number of GB, found {memory_gb}")
    scale = memory_gb / own.memory_gb
    return replace(
        own,
        memory_gb=float(memory_gb),
        elements_3d=own.elements_3d * scale,
        elements_2d=own.elements_2d * scale,
    )
