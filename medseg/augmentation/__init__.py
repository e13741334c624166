"""Augmentation of a batch where it lies: draw parameters from a generator, then apply them, which is pure.

    policy = AugmentationPolicy.default(patch_size)
    parameters = draw(policy, batch_size, channels, generator)
    images, labels = apply(images, labels, parameters, patch_size)

The steps, their order and their distributions are nnU-Net's: crop or turn and scale, noise, blur, brightness,
contrast, low resolution, inverted gamma, gamma, mirror. `docs/augmentation.png` shows each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.augmentation.intensity import change_intensities
from medseg.augmentation.parameters import AugmentationParameters, draw, source_sizes
from medseg.augmentation.policy import AugmentationPolicy, Chance
from medseg.augmentation.spatial import mirror, resample, swap_labels
from medseg.errors import UsageError

__all__ = [
    "AugmentationParameters",
    "AugmentationPolicy",
    "Chance",
    "apply",
    "apply_to_images",
    "apply_to_labels",
    "draw",
    "source_sizes",
]


def apply(
    images: Tensor,
    labels: Tensor,
    parameters: AugmentationParameters,
    patch_size: Sequence[int],
    border_label: int = 0,
) -> tuple[Tensor, Tensor]:
    """A new augmented batch; the inputs stay as they are. The same parameters give the same bits on one machine.

    Args:
        images: (B, C, Z, Y, X) or (B, C, Y, X), float32 or float64, on any device. At least ``patch_size`` along every
            axis; the patch is the centre, and what lies around it fills the corners of turned and shrunken samples.
        labels: (B, Z, Y, X) or (B, Y, X) integers on the grid of ``images``.
        patch_size: (Z, Y, X) or (Y, X) of the result.
        border_label: the label of voxels from outside the input; images are 0 there.

    Returns:
        Images (B, C, *patch_size), labels (B, *patch_size), types and device as given.

    Raises:
        UsageError: shapes or types that do not fit each other or the parameters.
    """
    if labels.shape[1:] != images.shape[2:]:
        raise UsageError(
            f"augmentation: expected labels on the grid of the images {tuple(images.shape[2:])}, "
            f"found {tuple(labels.shape[1:])}"
        )
    return (
        apply_to_images(images, parameters, patch_size),
        apply_to_labels(labels, parameters, patch_size, border_label),
    )


def apply_to_images(images: Tensor, parameters: AugmentationParameters, patch_size: Sequence[int]) -> Tensor:
    """The image half of ``apply``.

    Raises:
        UsageError: as ``apply``.
    """
    if images.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"augmentation: expected float32 or float64 images, found {images.dtype}; convert them")
    if images.ndim < 2 or images.shape[1] != parameters.channels:
        raise UsageError(
            f"augmentation: expected images of {parameters.channels} channels, found shape {tuple(images.shape)}"
        )
    _check_size(images, parameters, patch_size)
    result = resample(images, parameters, patch_size, "bilinear")
    change_intensities(result, parameters)
    return mirror(result, parameters.mirror)


def apply_to_labels(
    labels: Tensor, parameters: AugmentationParameters, patch_size: Sequence[int], border_label: int = 0
) -> Tensor:
    """The label half of ``apply``: for a second label map of the same batch, as a cascade has.

    Raises:
        UsageError: as ``apply``.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UsageError(f"augmentation: expected integer labels, found {labels.dtype}")
    limits = torch.iinfo(labels.dtype)
    if not limits.min <= border_label <= limits.max:
        raise UsageError(f"augmentation: expected a border label that fits {labels.dtype}, found {border_label}")
    _check_size(labels[:, None], parameters, patch_size)
    result = resample(labels[:, None], parameters, patch_size, "nearest", border_label)
    return swap_labels(mirror(result, parameters.mirror)[:, 0], parameters)


def _check_size(batch: Tensor, parameters: AugmentationParameters, patch_size: Sequence[int]) -> None:
    if batch.shape[0] != parameters.batch_size:
        raise UsageError(f"augmentation: expected {parameters.batch_size} samples, found {batch.shape[0]}")
    size = tuple(batch.shape[2:])
    if len(size) != parameters.dimensions or len(patch_size) != parameters.dimensions:
        raise UsageError(
            f"augmentation: expected {parameters.dimensions} spatial axes, found {size} for a patch of "
            f"{tuple(patch_size)}"
        )
    if any(length < wanted for length, wanted in zip(size, patch_size, strict=True)):
        raise UsageError(f"augmentation: expected at least {tuple(patch_size)} voxels, found {size}; pad the sample")
