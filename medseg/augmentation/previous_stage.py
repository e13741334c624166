"""A previous stage's mask made as imperfect as it will be: in a cascade, where it is part of the input.

Labels grow, shrink, close or open by a ball, and components vanish, with nnU-Net's chances (Isensee et al., Nature
Methods 2021; the code of MIC-DKFZ/nnUNet decides where the paper is silent). Without this a second stage learns to copy
the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage

Operation = Literal["dilate", "erode", "close", "open"]

MORPHOLOGY_PROBABILITY = 0.4
REMOVAL_PROBABILITY = 0.2
LABEL_PROBABILITY = 0.5  # that a label takes part, in a sample that is changed
RADIUS_VOXELS = (1, 8)
# Components that cover more of the patch than this stay.
LARGEST_REMOVED_SHARE = 0.15
_OPERATIONS: tuple[Operation, ...] = ("dilate", "erode", "close", "open")


@dataclass(frozen=True)
class Disturbance:
    """What happens to the mask of one sample.

    Attributes:
        morphology: (label index, operation, radius in voxels), one after the other.
        removals: (label index, which of its components as a part of all, in [0, 1)).
    """

    morphology: tuple[tuple[int, Operation, int], ...] = ()
    removals: tuple[tuple[int, float], ...] = ()


def draw_disturbances(batch_size: int, labels: int, random: np.random.Generator) -> tuple[Disturbance, ...]:
    """One a sample, for label indices 1 to ``labels``."""
    return tuple(_draw(labels, random) for _ in range(batch_size))


def disturb(masks: torch.Tensor, disturbances: tuple[Disturbance, ...]) -> torch.Tensor:
    """Label indices (B, Z, Y, X) or (B, Y, X) with each sample's disturbance; a new tensor where anything changes."""
    if not any(each.morphology or each.removals for each in disturbances):
        return masks
    changed = masks.cpu().numpy().copy()
    for mask, disturbance in zip(changed, disturbances, strict=True):
        for label, operation, radius in disturbance.morphology:
            _change(mask, label, operation, radius)
        for label, which in disturbance.removals:
            _remove(mask, label, which)
    return torch.from_numpy(changed).to(masks.device)


def _draw(labels: int, random: np.random.Generator) -> Disturbance:
    morphology: tuple[tuple[int, Operation, int], ...] = ()
    removals: tuple[tuple[int, float], ...] = ()
    if random.random() < MORPHOLOGY_PROBABILITY:
        morphology = tuple(
            (label, _OPERATIONS[random.integers(4)], int(random.integers(RADIUS_VOXELS[0], RADIUS_VOXELS[1] + 1)))
            for label in _some(labels, random)
        )
    if random.random() < REMOVAL_PROBABILITY:
        removals = tuple((label, float(random.random())) for label in _some(labels, random))
    return Disturbance(morphology, removals)


def _some(labels: int, random: np.random.Generator) -> list[int]:
    """Each label with its probability, in any order."""
    return [int(label) + 1 for label in random.permutation(labels) if random.random() < LABEL_PROBABILITY]


def _change(mask: np.ndarray, label: int, operation: Operation, radius: int) -> None:
    """In place. Voxels that are gained are taken from other labels; those that are lost become background."""
    before = mask == label
    if not before.any():
        return
    match operation:
        case "dilate":
            after = _grown(before, radius)
        case "erode":
            after = _shrunk(before, radius)
        case "close":
            after = _shrunk(_grown(before, radius), radius)
        case "open":
            after = _grown(_shrunk(before, radius), radius)
    mask[before] = 0
    mask[after] = label


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """Voxels within ``radius`` of the mask: dilation by a ball."""
    return _distance(~mask) <= radius if mask.any() else mask


def _shrunk(mask: np.ndarray, radius: int) -> np.ndarray:
    """Voxels further than ``radius`` from all outside the mask within the patch: erosion by a ball."""
    return _distance(mask) > radius if not mask.all() else mask


def _distance(mask: np.ndarray) -> np.ndarray:
    """From each voxel of the mask to the nearest outside it, in voxels."""
    return np.asarray(ndimage.distance_transform_edt(mask))


def _remove(mask: np.ndarray, label: int, which: float) -> None:
    """One of the label's components that are not too large, in place."""
    components, count = ndimage.label(mask == label)  # type: ignore[misc]
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    small = np.flatnonzero(sizes < LARGEST_REMOVED_SHARE * mask.size) + 1
    if len(small):
        mask[components == small[int(which * len(small))]] = 0
