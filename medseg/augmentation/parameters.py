"""What is going to be done to each sample of a batch: drawn once from a generator, small, on the CPU, readable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from medseg.augmentation.policy import AugmentationPolicy, Chance, MirrorSwaps
from medseg.errors import UsageError

# A turn about an axis turns the first axis of its plane towards the second.
_PLANES = ((1, 2), (2, 0), (0, 1))


@dataclass(frozen=True, eq=False)
class AugmentationParameters:
    """The parameters of B samples with C channels and D (2 or 3) axes. The value in brackets leaves a sample alone.

    Attributes:
        rotation_radians: (B, 3) about (Z, Y, X), or (B, 1) in the plane of the last two axes [0]. A quarter turn about
            Z is ``np.rot90`` from Y to X, about Y from X to Z, about X from Z to Y.
        scale: (B,) distance between sampled voxels along the axes that rotation may turn [1].
        noise_sigma: (B,) [0].
        noise_seed: (B,) what the noise is generated from.
        blur_sigma_voxels: (B, C, D) [0].
        brightness, contrast: (B, C) [1].
        low_resolution: (B, C, D) part of the voxels kept along each axis [1].
        inverted_gamma, gamma: (B, C) exponents [1].
        mirror: (B, D) axes to reverse [False].
        mirror_swaps: see ``AugmentationPolicy``.
    """

    rotation_radians: Tensor
    scale: Tensor
    noise_sigma: Tensor
    noise_seed: Tensor
    blur_sigma_voxels: Tensor
    brightness: Tensor
    contrast: Tensor
    low_resolution: Tensor
    inverted_gamma: Tensor
    gamma: Tensor
    mirror: Tensor
    mirror_swaps: MirrorSwaps = ()

    @property
    def batch_size(self) -> int:
        """Number of samples B."""
        return self.mirror.shape[0]

    @property
    def channels(self) -> int:
        """Number of image channels C."""
        return self.brightness.shape[1]

    @property
    def dimensions(self) -> int:
        """Number of spatial axes D: 2 or 3."""
        return self.mirror.shape[1]

    def part(self, samples: slice) -> AugmentationParameters:
        """The parameters of some of the samples."""
        fields = {name: value[samples] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **fields)

    @property
    def in_plane(self) -> bool:
        """Whether samples turn and scale along their last two axes only."""
        return self.rotation_radians.shape[1] == 1

    @property
    def warped(self) -> Tensor:
        """(B,) which samples are turned or scaled; the others are cropped."""
        return self.rotation_radians.any(dim=1) | (self.scale != 1)


def draw(policy: AugmentationPolicy, batch_size: int, channels: int, generator: Generator) -> AugmentationParameters:
    """Parameters for one batch. ``generator`` lives on the CPU; the same state gives the same parameters.

    Every number is drawn whether it is used or not, so that changing one probability leaves all other draws as
    they were.

    Raises:
        UsageError: a generator of another device.
    """
    if generator.device.type != "cpu":
        raise UsageError(f"augmentation: expected a generator on the CPU, found one on {generator.device}")
    dimensions = policy.dimensions
    per_channel = (batch_size, channels)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def between(chance: Chance, *shape: int) -> Tensor:
        return chance.low + (chance.high - chance.low) * uniform(*shape)

    def around_one(chance: Chance, *shape: int) -> Tensor:
        above, part = uniform(*shape) < 0.5, uniform(*shape)
        return torch.where(above, 1 + (chance.high - 1) * part, 1 - (1 - chance.low) * part)

    def sometimes(chance: Chance, values: Tensor, neutral: float) -> Tensor:
        """``values``, (B,) or (B, C, ...), where a sample and its channel take part; else ``neutral``."""
        chosen = uniform(batch_size) < chance.probability
        if values.ndim > 1:
            chosen = chosen[:, None] & (uniform(*per_channel) < chance.per_channel)
            chosen = chosen.view(*per_channel, *[1] * (values.ndim - 2))
        return torch.where(chosen, values, neutral)

    turned = uniform(batch_size, 1) < policy.rotation_degrees.probability
    degrees = between(policy.rotation_degrees, batch_size, 1 if policy.in_plane else 3)
    blur = sometimes(policy.blur_sigma_voxels, between(policy.blur_sigma_voxels, *per_channel, dimensions), 0.0)
    kept = between(policy.low_resolution, *per_channel, 1).expand(*per_channel, dimensions)
    kept = sometimes(policy.low_resolution, kept, 1.0)
    if policy.in_plane:
        blur[..., :-2], kept[..., :-2] = 0.0, 1.0
    may_mirror = torch.tensor([axis in policy.mirror_axes for axis in range(dimensions)])
    return AugmentationParameters(
        rotation_radians=torch.where(turned, torch.deg2rad(degrees), 0.0),
        scale=sometimes(policy.scale, between(policy.scale, batch_size), 1.0),
        noise_sigma=sometimes(policy.noise_sigma, between(policy.noise_sigma, batch_size), 0.0),
        noise_seed=torch.randint(2**63 - 1, (batch_size,), generator=generator),
        blur_sigma_voxels=blur,
        brightness=sometimes(policy.brightness, around_one(policy.brightness, *per_channel), 1.0),
        contrast=sometimes(policy.contrast, around_one(policy.contrast, *per_channel), 1.0),
        low_resolution=kept,
        inverted_gamma=sometimes(policy.inverted_gamma, around_one(policy.inverted_gamma, *per_channel), 1.0),
        gamma=sometimes(policy.gamma, around_one(policy.gamma, *per_channel), 1.0),
        mirror=may_mirror & (uniform(batch_size, dimensions) < policy.mirror_probability),
        mirror_swaps=policy.mirror_swaps,
    )


def sampling_matrices(parameters: AugmentationParameters) -> Tensor:
    """(B, D, D): a voxel at offset p from the centre of the result is read at offset ``matrix @ p`` of the source."""
    angles = parameters.rotation_radians
    if not parameters.in_plane:
        turns = [_turn(angles[:, axis], plane, 3) for axis, plane in enumerate(_PLANES)]
        return parameters.scale[:, None, None] * (turns[0] @ turns[1] @ turns[2])
    matrices = torch.eye(parameters.dimensions, dtype=angles.dtype).repeat(parameters.batch_size, 1, 1)
    matrices[:, -2:, -2:] = parameters.scale[:, None, None] * _turn(angles[:, 0], (0, 1), 2)
    return matrices


def source_sizes(parameters: AugmentationParameters, patch_size: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The size, in voxels, of what each sample reads, centred on its patch: exact, so that no border enters a patch.

    Most samples are only cropped and read ``patch_size``. A batch is as large as the largest of its samples along
    each axis, and what lies outside a sample's own size is never read.
    """
    size = torch.tensor(tuple(patch_size))
    reach = sampling_matrices(parameters).abs() @ ((size.double() - 1) / 2)
    # A hair less than the reach: a quarter turn of a square patch must not ask for one more voxel.
    margin = torch.ceil(reach - (size - 1) / 2 - 1e-6).clamp_min(0).long()
    return tuple(tuple(row) for row in (size + 2 * margin).tolist())


def _turn(angles: Tensor, plane: tuple[int, int], dimensions: int) -> Tensor:
    """(B, D, D) sampling matrices that turn what is seen from the first axis of ``plane`` to the second."""
    matrices = torch.eye(dimensions, dtype=angles.dtype).repeat(len(angles), 1, 1)
    first, second = plane
    matrices[:, first, first] = matrices[:, second, second] = torch.cos(angles)
    matrices[:, first, second] = torch.sin(angles)
    matrices[:, second, first] = -torch.sin(angles)
    return matrices
