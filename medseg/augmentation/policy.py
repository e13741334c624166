"""How often and how strongly patches are changed: a table of chances, nnU-Net's by default. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.errors import UsageError

# nnU-Net turns and scales only in the plane of the slices when the patch is this much longer than it is thick.
THICK_SLICE_ASPECT = 3.0
# In 2D, full turns are only for patches that are nearly square.
FULL_TURN_ASPECT = 1.5
LARGEST_SIDED_DEGREES = 30.0

MirrorSwaps = tuple[tuple[int, tuple[tuple[int, int], ...]], ...]


@dataclass(frozen=True)
class Chance:
    """A transform is applied to a sample with ``probability``, its strength drawn between ``low`` and ``high``.

    Where each channel has a strength of its own, a channel takes part with ``per_channel``.

    Raises:
        UsageError: a probability that is none, or ``low`` above ``high``.
    """

    probability: float
    low: float
    high: float
    per_channel: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 <= self.per_channel <= 1):
            raise UsageError(f"augmentation: expected probabilities between 0 and 1, found {self}")
        if not self.low <= self.high:
            raise UsageError(f"augmentation: expected low <= high, found {self}")


@dataclass(frozen=True)
class AugmentationPolicy:
    """Every probability and range of the augmentation of one configuration, in the order of application.

    The defaults are those of nnU-Net's ``get_training_transforms`` (Isensee et al. 2021; the code of
    MIC-DKFZ/nnUNet and MIC-DKFZ/batchgeneratorsv2 decides where the paper differs).

    Attributes:
        dimensions: 2 for (Y, X) patches, 3 for (Z, Y, X).
        in_plane: turn, scale, blur and coarsen along the last two axes only. True in 2D and for thick slices in 3D.
        rotation_degrees: angle about each axis, uniform; about the slice axis alone when ``in_plane``.
        scale: distance between sampled voxels, uniform, the same for all axes; above 1 things shrink.
        noise_sigma: standard deviation of Gaussian noise, uniform; all channels share one noise field.
        blur_sigma_voxels: standard deviation of a Gaussian, uniform, for each channel and axis.
        brightness: factor on each channel; half of the draws below 1, half above.
        contrast: factor on the distance from the channel's mean, drawn likewise; the channel's range is kept.
        low_resolution: part of the voxels kept along each axis, uniform, for each channel.
        inverted_gamma, gamma: exponent on each channel scaled to 0..1 (the first on its negative), drawn like
            brightness; the channel's mean and standard deviation are kept.
        mirror_probability, mirror_axes: each of these axes of the patch is mirrored with this probability.
        mirror_swaps: (axis, ((left label, right label), ...)): labels exchanged whenever that axis is mirrored.

    Raises:
        UsageError: a range or an axis that no patch can have.
    """

    dimensions: int
    in_plane: bool
    rotation_degrees: Chance
    mirror_axes: tuple[int, ...]
    scale: Chance = Chance(0.2, 0.7, 1.4)
    noise_sigma: Chance = Chance(0.1, 0.0, 0.1)
    blur_sigma_voxels: Chance = Chance(0.2, 0.5, 1.0, per_channel=0.5)
    brightness: Chance = Chance(0.15, 0.75, 1.25)
    contrast: Chance = Chance(0.15, 0.75, 1.25)
    low_resolution: Chance = Chance(0.25, 0.5, 1.0, per_channel=0.5)
    inverted_gamma: Chance = Chance(0.1, 0.7, 1.5)
    gamma: Chance = Chance(0.3, 0.7, 1.5)
    mirror_probability: float = 0.5
    mirror_swaps: MirrorSwaps = ()

    def __post_init__(self) -> None:
        if self.dimensions not in (2, 3):
            raise UsageError(f"augmentation: expected 2 or 3 dimensions, found {self.dimensions}")
        if self.dimensions == 2 and not self.in_plane:
            raise UsageError("augmentation: a 2D policy is in_plane by nature, found in_plane=False")
        for axis in (*self.mirror_axes, *(axis for axis, _ in self.mirror_swaps)):
            if not 0 <= axis < self.dimensions:
                raise UsageError(f"augmentation: expected mirror axes in 0..{self.dimensions - 1}, found {axis}")
        for name in ("brightness", "contrast", "inverted_gamma", "gamma"):
            chance: Chance = getattr(self, name)
            if not 0 < chance.low <= 1 <= chance.high:
                raise UsageError(f"augmentation: expected a range of {name} around 1, found {chance}")
        if self.scale.low <= 0 or self.noise_sigma.low < 0 or self.blur_sigma_voxels.low < 0:
            raise UsageError("augmentation: expected scale > 0, noise and blur >= 0, found a smaller lower end")
        if not 0 < self.low_resolution.low <= self.low_resolution.high <= 1:
            raise UsageError(f"augmentation: expected low_resolution in 0..1, found {self.low_resolution}")

    @classmethod
    def default(
        cls,
        patch_size: Sequence[int],
        mirror_axes: Sequence[int] | None = None,
        mirror_swaps: MirrorSwaps = (),
        sided: bool = False,
    ) -> AugmentationPolicy:
        """nnU-Net's augmentation for a patch of (Z, Y, X) or (Y, X) voxels.

        Angles are up to 30 degrees about every axis of a 3D patch; up to 180 in the plane where a 3D patch is more
        than three times as long as it is thick (its slices are thick) and in 2D; 15 in 2D for oblong patches.
        ``mirror_axes`` defaults to all axes. Where labels are ``sided`` (a left and a right kidney) angles are never
        above 30: mirroring leaves the side of a patch as the only sign of left and right, and half a turn reverses it.
        """
        dimensions = len(patch_size)
        if dimensions == 2:
            in_plane = True
            degrees = 15.0 if max(patch_size) / min(patch_size) > FULL_TURN_ASPECT else 180.0
        else:
            in_plane = max(patch_size) / patch_size[0] > THICK_SLICE_ASPECT
            degrees = 180.0 if in_plane else 30.0
        degrees = min(degrees, LARGEST_SIDED_DEGREES) if sided else degrees
        axes = range(dimensions) if mirror_axes is None else mirror_axes
        return cls(dimensions, in_plane, Chance(0.2, -degrees, degrees), tuple(axes), mirror_swaps=mirror_swaps)
