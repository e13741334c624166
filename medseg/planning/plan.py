"""The plan document: everything that training and prediction need to know, each decision with its reason."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Literal

from medseg import documents
from medseg.architecture import NetworkSpec
from medseg.errors import UsageError
from medseg.fingerprinting import IntensityStatistics
from medseg.labels import LabelSet
from medseg.laterality import Laterality, laterality_of

NormalizationScheme = Literal["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"]
Preset = Literal["default", "resenc-m", "resenc-l", "resenc-xl"]


@dataclass(frozen=True)
class Decision:
    """One derived value with the reason for it, as a person reads it."""

    field: str
    value: str
    because: str


@dataclass(frozen=True)
class Normalization:
    """How one channel is normalised; with ``nonzero_only`` from the nonzero mask's statistics, and zero stays zero."""

    scheme: NormalizationScheme
    nonzero_only: bool = False


@dataclass(frozen=True)
class Configuration:
    """One way to look at the data; axes (Z, Y, X) after the plan's axis order, or (Y, X) in two dimensions.

    Attributes:
        spacing_mm: spacing that scans are resampled to. In two dimensions slices keep their own distance.
        median_shape: median size of a training scan at that spacing, in voxels.
        previous_stage: the configuration whose masks are further input channels (the cascade), if any.
    """

    name: str
    spacing_mm: tuple[float, ...]
    median_shape: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    batch_dice: bool
    normalization: tuple[Normalization, ...]
    network: NetworkSpec
    previous_stage: str | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch_size)


@dataclass(frozen=True)
class Plan:
    """What to do with a dataset.

    Attributes:
        preset: the rules that made the plan; ``"custom"`` for one that came from elsewhere.
        memory_gb: memory of the GPU that it was made for, where that is known.
        orientation: scans are brought to the nearest such orientation first; ``"stored"`` leaves the file's axes.
        axis_order: axes (Z, Y, X) are then put in this order, the coarsest first.
        median_spacing_mm: of the training scans as they are, in that order of axes.
        median_shape: of the training scans as they are, cropped to nonzero, in voxels.
        intensities: the training foreground's statistics, for CT normalisation and for checking incoming scans.
    """

    version: Literal[1]
    dataset_name: str
    preset: Preset | Literal["custom"]
    memory_gb: float | None
    orientation: str
    axis_order: tuple[int, int, int]
    median_spacing_mm: tuple[float, float, float]
    median_shape: tuple[float, float, float]
    channels: tuple[str, ...]
    labels: LabelSet
    intensities: tuple[IntensityStatistics, ...]
    configurations: tuple[Configuration, ...]
    decisions: tuple[Decision, ...] = field(default=())

    @property
    def laterality(self) -> Laterality:
        """The sides of the classes."""
        return laterality_of(self.labels)

    def configuration(self, name: str | None = None) -> Configuration:
        """The configuration of that name; by default ``3d_fullres`` where the plan has it, else ``2d``.

        Raises:
            UsageError: the plan has no such configuration; lists those it has.
        """
        by_name = {configuration.name: configuration for configuration in self.configurations}
        if name is None:
            name = "3d_fullres" if "3d_fullres" in by_name else "2d"
        if name not in by_name:
            raise UsageError(f"the plan has no configuration {name!r}; it has {', '.join(by_name)}")
        return by_name[name]

    def with_configuration(self, configuration: Configuration) -> Plan:
        """The plan with another configuration in the place of the one of that name."""
        changed = tuple(configuration if own.name == configuration.name else own for own in self.configurations)
        return replace(self, configurations=changed)

    def explain(self) -> str:
        """The plan as prose: what was decided and why."""
        from medseg.planning.explanation import explain

        return explain(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as readable JSON.

        Raises:
            StorageError: the folder cannot be written, or no space is left.
        """
        documents.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan.

        Raises:
            DocumentError: the file is missing, damaged, or not a plan of this version.
        """
        return documents.load(cls, path)
