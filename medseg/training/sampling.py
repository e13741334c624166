"""Training batches: which patch of which case, a pure function of the run's seed and the iteration.

A batch can therefore be drawn again at any time: a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from medseg import augmentation, patches
from medseg.augmentation import AugmentationParameters, AugmentationPolicy
from medseg.augmentation.previous_stage import Disturbance, disturb, draw_disturbances

# Share of a batch whose patches are centred on foreground: nnU-Net's value.
FOREGROUND_SHARE = 0.33

CPU = torch.device("cpu")
Array = np.ndarray | torch.Tensor


class Voxels(Protocol):
    """Voxel indices (n, 3), in memory or on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


class PatchSource(Protocol):
    """A prepared case that patches are cut from."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size (Z, Y, X)."""
        ...

    @property
    def channels(self) -> int:
        """Number of channels."""
        ...

    @property
    def foreground(self) -> Sequence[Voxels]:
        """For each class some of its voxels; with an ignore label, one entry more with annotated ones of any kind."""
        ...

    def copy_patch(
        self, start: Sequence[int], image: np.ndarray, labels: np.ndarray, previous: np.ndarray | None = None
    ) -> None:
        """Fill ``image`` (C, Z, Y, X), ``labels`` and ``previous`` (Z, Y, X) from ``start``; outside they stay."""
        ...


@dataclass(frozen=True, eq=False)
class InMemoryCase:
    """A prepared case held in memory: image (C, Z, Y, X) float32, labels and a previous mask (Z, Y, X) int16.

    They are arrays in the machine's memory, or tensors in a GPU's; voxel indices of foreground are always arrays.
    """

    image: Array
    labels: Array
    foreground: Sequence[np.ndarray]
    previous: Array | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size (Z, Y, X)."""
        z, y, x = self.labels.shape
        return z, y, x

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.image.shape[0]

    @property
    def device(self) -> torch.device:
        """Whose memory holds it."""
        return self.image.device if isinstance(self.image, torch.Tensor) else CPU

    def on(self, device: torch.device) -> InMemoryCase:
        """The same case as tensors in a device's memory."""
        image, labels = (torch.as_tensor(voxels, device=device) for voxels in (self.image, self.labels))
        previous = None if self.previous is None else torch.as_tensor(self.previous, device=device)
        return replace(self, image=image, labels=labels, previous=previous)

    def copy_patch(self, start: Sequence[int], image: Array, labels: Array, previous: Array | None = None) -> None:
        """Fill ``image``, ``labels`` and ``previous`` from ``start``; voxels outside stay as they are."""
        patches.copy_patch(self.image, start, image)
        patches.copy_patch(self.labels, start, labels)
        if previous is not None and self.previous is not None:
            patches.copy_patch(self.previous, start, previous)


def memory_of(cases: Sequence[PatchSource]) -> torch.device:
    """Whose memory batches of these cases are assembled in: the one that holds them."""
    case = cases[0]
    return case.device if isinstance(case, InMemoryCase) else CPU


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches before augmentation, with what lies around them where they are to be turned or shrunk.

    Attributes:
        images: (B, C, Z, Y, X) float32, or (B, C, Y, X).
        labels: (B, Z, Y, X) int16, or (B, Y, X).
        cases: index of each sample's case.
        previous: in a cascade the previous stage's masks, like the labels, and what is to happen to them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    parameters: AugmentationParameters
    cases: tuple[int, ...]
    previous: torch.Tensor | None = None
    disturbances: tuple[Disturbance, ...] = ()

    def augmented(
        self, patch_size: Sequence[int], device: torch.device, previous_labels: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of the plan's patch size on a device, augmented there.

        Args:
            previous_labels: label indices of the previous stage's masks; each becomes a further channel.
        """
        images = self.images.to(device, non_blocking=True)
        labels = self.labels.to(device, non_blocking=True)
        images, labels = augmentation.apply(images, labels, self.parameters, tuple(patch_size))
        if self.previous is not None:
            masks = self.previous.to(device, non_blocking=True)
            masks = augmentation.apply_to_labels(masks, self.parameters, tuple(patch_size))
            images = with_previous(images, disturb(masks, self.disturbances), previous_labels)
        return images, labels

    def pinned(self) -> Batch:
        """The same in memory that a GPU reads while both go on computing."""
        previous = None if self.previous is None else self.previous.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), previous=previous)


def with_previous(images: torch.Tensor, masks: torch.Tensor, labels: int) -> torch.Tensor:
    """Images (B, C, ...) with one channel more for each label index 1 to ``labels`` of masks (B, ...)."""
    return torch.cat([images, *((masks == index).to(images.dtype)[:, None] for index in range(1, labels + 1))], dim=1)


def draw_batch(
    cases: Sequence[PatchSource],
    patch_size: tuple[int, ...],
    batch_size: int,
    policy: AugmentationPolicy,
    seed: int,
    iteration: int,
    balance_classes: bool = False,
    previous_labels: int = 0,
    share: slice = slice(None),
    foreground_share: float = FOREGROUND_SHARE,
) -> Batch:
    """The batch of one iteration. Cases take turns in an order shuffled anew each time round.

    With ``balance_classes`` the patches centred on foreground show every class equally often, however few cases have
    it: first a class is drawn, then one of the cases with it.

    Around each patch as much is read as its own turn and scale need, so no empty corner enters a patch. Cases that a
    GPU holds are cut there.

    Args:
        previous_labels: in a cascade the label indices of the previous stage's masks, else 0.
        share: of ``batch_size`` samples those to read; they are the same whatever the share is.
        foreground_share: part of the samples whose patches are centred on foreground.
    """
    random = np.random.default_rng((seed, iteration))
    generator = torch.Generator().manual_seed(int(random.integers(2**62)))
    channels = cases[0].channels
    parameters = augmentation.draw(policy, batch_size, channels, generator)
    sizes = augmentation.source_sizes(parameters, patch_size)
    largest = tuple(max(along) for along in zip(*sizes, strict=True))
    own = range(batch_size)[share]
    where = memory_of(cases)
    images = torch.zeros((len(own), channels, *largest), dtype=torch.float32, device=where)
    labels = torch.zeros((len(own), *largest), dtype=torch.int16, device=where)
    previous = torch.zeros_like(labels) if previous_labels else None
    first_forced = round(batch_size * (1 - foreground_share))
    chosen = []
    for i, size in enumerate(sizes):
        turn = _turn(len(cases), seed, iteration * batch_size + i)
        around = None
        if i >= first_forced and balance_classes:
            turn, around = _balanced(cases, turn, random)
        elif i >= first_forced:
            around = _foreground_voxel(cases[turn], random)
        case = cases[turn]
        chosen.append(turn)
        start = _start(case, around, patch_size, random)
        if i not in own:
            continue
        at = own.index(i)
        middle = tuple(slice((all_ - used) // 2, (all_ + used) // 2) for all_, used in zip(largest, size, strict=True))
        before = None if previous is None else _fillable(previous[at])[middle]
        image, mask = _fillable(images[at])[(slice(None), *middle)], _fillable(labels[at])[middle]
        _cut(case, start, patch_size, image, mask, before)
    batch = Batch(images, labels, parameters.part(share), tuple(chosen[share]))
    if previous is None:
        return batch
    disturbances = draw_disturbances(batch_size, previous_labels, random)[share]
    return replace(batch, previous=previous, disturbances=disturbances)


def validation_patches(
    cases: Sequence[PatchSource], patch_size: tuple[int, ...], limit: int, previous_labels: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """One fixed patch around foreground of each of up to ``limit`` cases: (B, C, ...) float32 and (B, ...) int16."""
    chosen = cases[validation_subset(len(cases), limit)]
    images = np.zeros((len(chosen), chosen[0].channels, *patch_size), dtype=np.float32)
    labels = np.zeros((len(chosen), *patch_size), dtype=np.int16)
    previous = np.zeros_like(labels)
    random = np.random.default_rng(0)
    for i, case in enumerate(chosen):
        start = _start(case, _foreground_voxel(case, random), patch_size, random)
        _cut(case, start, patch_size, images[i], labels[i], previous[i])
    before = torch.from_numpy(previous)
    return with_previous(torch.from_numpy(images), before, previous_labels), torch.from_numpy(labels)


def validation_subset(count: int, limit: int) -> slice:
    """Which of so many cases give a patch for validation."""
    return slice(None, None, max(1, -(-count // limit)))


def _turn(cases: int, seed: int, position: int) -> int:
    """Which case stands at a position of the endless sequence of shuffled rounds."""
    order = np.random.default_rng((seed, 1 << 32, position // cases)).permutation(cases)
    return int(order[position % cases])


def _foreground_voxel(case: PatchSource, random: np.random.Generator) -> np.ndarray | None:
    """A random voxel of a random class that the case has."""
    present = [voxels for voxels in case.foreground if len(voxels) > 0]
    if not present:
        return None
    voxels = present[random.integers(len(present))]
    return voxels[int(random.integers(len(voxels)))]


def _balanced(cases: Sequence[PatchSource], turn: int, random: np.random.Generator) -> tuple[int, np.ndarray | None]:
    """A voxel of a class that any case has, and the case it is of; without foreground the case whose turn it is."""
    holders = [
        [i for i, case in enumerate(cases) if len(case.foreground[group])] for group in range(len(cases[0].foreground))
    ]
    present = [group for group, found in enumerate(holders) if found]
    if not present:
        return turn, None
    group = present[random.integers(len(present))]
    case = holders[group][random.integers(len(holders[group]))]
    voxels = cases[case].foreground[group]
    return case, voxels[int(random.integers(len(voxels)))]


def _start(
    case: PatchSource, around: np.ndarray | None, patch_size: tuple[int, ...], random: np.random.Generator
) -> tuple[int, ...]:
    """Where a patch begins, (Z, Y, X)."""
    return patches.random_start(case.shape, _in_three(patch_size), around, random)


def _fillable(tensor: torch.Tensor) -> Any:
    """Where a patch is copied to: an array in the machine's memory, the tensor itself in a GPU's."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _in_three(patch_size: tuple[int, ...]) -> tuple[int, ...]:
    return patch_size if len(patch_size) == 3 else (1, *patch_size)


def _cut(
    case: PatchSource,
    start: tuple[int, ...],
    patch_size: tuple[int, ...],
    image: Any,
    labels: Any,
    previous: Any,
) -> None:
    """Cut a patch of ``image``'s size, whose middle part of ``patch_size`` begins at ``start``."""
    size = _in_three(patch_size)
    if labels.ndim == 2:
        image, labels, previous = image[:, None], labels[None], None if previous is None else previous[None]
    margins = [(larger - inner) // 2 for larger, inner in zip(labels.shape, size, strict=True)]
    case.copy_patch([begin - margin for begin, margin in zip(start, margins, strict=True)], image, labels, previous)
