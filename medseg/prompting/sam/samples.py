"""Slices for the fine-tuning of SAM: pictures as the engine sees them, one class each, and a loose box around it.

After MedSAM's training (Ma et al., Segment anything in medical images, Nature Communications 2024): the box of a class
on a slice, each side moved outwards by up to 20 of 1024 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from medseg import atomic, parallel
from medseg.dataset import CaseRef, load_case
from medseg.errors import DataError
from medseg.labels import LabelSet
from medseg.progress import Progress
from medseg.prompting.grid import tight_box
from medseg.prompting.sam.network import Style, pixels, scales
from medseg.prompting.slices.seeds import slice_axis
from medseg.prompting.slices.windows import window_of

LOOSE_SHARE = 20 / 1024
# A class with fewer voxels on a slice is not shown there.
SMALLEST_VOXELS = 10


@dataclass(frozen=True, eq=False)
class SliceCase:
    """A scan cut across its coarsest axis.

    Attributes:
        picture: (C, slices, Y, X) uint8, of 1 or 3 channels.
        labels: (slices, Y, X) indices.
        slices: for each class the slices that show it; classes that are not there are missing.
    """

    picture: np.ndarray
    labels: np.ndarray
    slices: dict[str, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """A class on a slice of a case."""

    case: int
    label: str
    index: int


def cut(
    cases: Sequence[CaseRef], labels: LabelSet, channels: tuple[str, ...], folder: Path, progress: Progress
) -> tuple[SliceCase, ...]:
    """Every case as a :class:`SliceCase`, kept on disk in a folder, in order.

    Raises:
        CasesFailedError: cases that cannot be read, or that SAM cannot see.
        DataError: no case shows any class.
    """
    work = _Cutting(labels, channels, folder)
    outcomes = parallel.map_cases(work, cases, name=lambda case: case.name, what="cutting slices", progress=progress)
    parallel.values(outcomes, "cutting slices")
    found = [_opened(folder, case.name, labels) for case in cases]
    if not any(case.slices for case in found):
        raise DataError(f"no slice shows {SMALLEST_VOXELS} voxels of a class; check the masks with: medseg doctor")
    return tuple(case for case in found if case.slices)


def draw(cases: Sequence[SliceCase], random: np.random.Generator) -> Sample:
    """A random class on a random slice of a random case."""
    case = int(random.integers(len(cases)))
    names = list(cases[case].slices)
    label = names[int(random.integers(len(names)))]
    return Sample(case, label, int(random.choice(cases[case].slices[label])))


def picture_of(case: SliceCase, index: int) -> np.ndarray:
    """(Y, X, 3) uint8 of one slice."""
    plane = np.moveaxis(np.asarray(case.picture[:, index]), 0, -1)
    return np.ascontiguousarray(np.broadcast_to(plane, (*plane.shape[:2], 3)))


def mask_of(case: SliceCase, sample: Sample, labels: LabelSet) -> np.ndarray:
    """(Y, X) bool of a class on its slice."""
    return np.isin(case.labels[sample.index], labels.class_indices[labels.names.index(sample.label)])


def batch_of(
    cases: Sequence[SliceCase],
    samples: Sequence[Sample],
    labels: LabelSet,
    size: int,
    style: Style,
    random: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the network sees, (B, 3, size, size), boxes (B, 1, 4) as x0, y0, x1, y1, and masks (B, 1, size, size)."""
    images, boxes, masks = [], [], []
    for sample in samples:
        case = cases[sample.case]
        mask = mask_of(case, sample, labels)
        images.append(pixels(picture_of(case, sample.index), size, style))
        scale_y, scale_x = scales((mask.shape[0], mask.shape[1]), size, style)
        (y0, x0), (y1, x1) = tight_box(mask)
        loose = random.uniform(0, LOOSE_SHARE * size, 4)
        corners = np.array([x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y])
        corners = np.clip(corners + loose * (-1, -1, 1, 1), 0, [mask.shape[1] * scale_x, mask.shape[0] * scale_y] * 2)
        boxes.append(torch.from_numpy(corners.astype(np.float32))[None])
        target = (round(mask.shape[0] * scale_y), round(mask.shape[1] * scale_x))
        stretched = functional.interpolate(torch.from_numpy(mask)[None, None].float(), target, mode="nearest-exact")
        masks.append(functional.pad(stretched[0], (0, size - target[1], 0, size - target[0])))
    return torch.cat(images), torch.stack(boxes), torch.stack(masks)


@dataclass(frozen=True)
class _Cutting:
    labels: LabelSet
    channels: tuple[str, ...]
    folder: Path

    def __call__(self, case: CaseRef) -> None:
        image_file, label_file = _files(self.folder, case.name)
        if label_file.is_file():
            return
        volume, mask = load_case(case, self.labels, self.channels)
        if mask is None:
            raise DataError(f"{case.name}: has no mask to learn from")
        if volume.channels not in (1, 3):
            raise DataError(f"{case.name}: SAM sees pictures of 1 or 3 channels, found {volume.channels}")
        axis = slice_axis((), volume.geometry.spacing_mm)
        picture = window_of(volume, case.name).apply(volume.array)
        indices = self.labels.encode(mask.array, where=case.name)
        for file, array in (
            (image_file, np.moveaxis(picture, axis + 1, 1)),
            (label_file, np.moveaxis(indices, axis, 0)),
        ):
            with atomic.replacing_file(file) as temporary, temporary.open("wb") as opened:
                np.save(opened, np.ascontiguousarray(array))


def _files(folder: Path, case: str) -> tuple[Path, Path]:
    return folder / f"{case}_image.npy", folder / f"{case}_labels.npy"


def _opened(folder: Path, case: str, labels: LabelSet) -> SliceCase:
    image_file, label_file = _files(folder, case)
    indices = np.load(label_file, mmap_mode="r")
    slices = {}
    for name, covered in zip(labels.names, labels.class_indices, strict=True):
        shown = np.flatnonzero(np.isin(indices, covered).sum((1, 2)) >= SMALLEST_VOXELS)
        if shown.size:
            slices[name] = shown
    return SliceCase(np.load(image_file, mmap_mode="r"), indices, slices)
