"""Scans made by arithmetic: CT-like phantoms with known masks, for the demo, for tests and for trying things out.

Every scan shows a body with three organs: a large one, a thin curved one (a tube of a few millimetres), and a rare
small one inside the large one. Shapes are defined in patient millimetres and then sampled, so that any spacing and
orientation shows the same anatomy; the large organ lies on the patient's right, the tube runs on the left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from medseg import atomic, io
from medseg.progress import Progress, silent
from medseg.volume import Geometry, LabelVolume, Volume

LABELS = {"background": 0, "liver": 1, "vessel": 2, "cyst": 3}
RARE_SHARE = 0.5
# Mean intensity in Hounsfield units.
_AIR, _BODY = -1000.0, 30.0
_HOUNSFIELD = {"liver": 115.0, "vessel": 220.0, "cyst": -40.0}
_NOISE_HU = 25.0
_BIAS_HU = 20.0
_ORIENTATIONS = ("RAS", "LPS", "LAS", "PIR", "ASL", "SRP")


@dataclass(frozen=True)
class PhantomKind:
    """How large and how fine phantoms are: the extent of a scan and the range of its spacings (z, y, x), in mm."""

    extent_mm: tuple[float, float, float] = (110.0, 130.0, 150.0)
    finest_mm: tuple[float, float, float] = (3.0, 2.0, 2.0)
    coarsest_mm: tuple[float, float, float] = (5.0, 2.6, 2.6)


def phantom(seed: int, kind: PhantomKind = PhantomKind(), rare: bool = True) -> tuple[Volume, LabelVolume]:
    """One scan, int16 HU (1, Z, Y, X), and its mask; the same seed gives the same scan.

    Spacing is drawn from the kind's range, the orientation from six, and the grid is turned by a few degrees.

    Args:
        rare: whether the rare organ is there.
    """
    random = np.random.default_rng(seed)
    geometry = _grid(random, kind)
    z, y, x = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in geometry.shape), indexing="ij", sparse=True)
    affine = geometry.affine
    right, front, up = (affine[w, 0] * z + affine[w, 1] * y + affine[w, 2] * x + affine[w, 3] for w in range(3))
    depth, height, width = kind.extent_mm
    # Coordinates with the body between -1 and 1 on every axis, moved and stretched a little from patient to patient.
    shift, stretch = random.uniform(-0.06, 0.06, 3), random.uniform(0.92, 1.08, 3)
    u = (right / (width / 2) - shift[0]) / stretch[0]
    v = (front / (height / 2) - shift[1]) / stretch[1]
    w = (up / (depth / 2) - shift[2]) / stretch[2]
    body = (u / 0.9) ** 2 + (v / 0.85) ** 2 < 1
    waves, phase = random.uniform(2.0, 4.0, 3), random.uniform(0, 2 * np.pi, 3)
    surface = 0.1 * (
        np.sin(waves[0] * u + phase[0]) + np.sin(waves[1] * v + phase[1]) + np.sin(waves[2] * w + phase[2])
    )
    liver = ((u - 0.32) / 0.42) ** 2 + ((v - 0.05) / 0.5) ** 2 + (w / 0.62) ** 2 + surface < 1
    bend, turn = random.uniform(0.1, 0.2), random.uniform(0, 2 * np.pi)
    tube_u, tube_v = -0.35 + bend * np.sin(2.5 * w + turn), -0.1 + bend * np.cos(2.0 * w + turn)
    radius_mm = random.uniform(4.0, 5.5)
    vessel = ((u - tube_u) * width / 2) ** 2 + ((v - tube_v) * height / 2) ** 2 < radius_mm**2
    vessel &= np.abs(w) < 0.85
    cyst_at, cyst_mm = random.uniform(-0.12, 0.12, 3), random.uniform(8.0, 12.0)
    apart = ((u - 0.32 - cyst_at[0]) * width / 2) ** 2 + ((v - 0.05 - cyst_at[1]) * height / 2) ** 2
    cyst = (apart + ((w - cyst_at[2]) * depth / 2) ** 2 < cyst_mm**2) & liver & rare
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    image = np.where(body, _BODY + random.normal(0, 5), _AIR)
    for name, organ in (("liver", liver), ("vessel", vessel), ("cyst", cyst)):
        labels[organ] = LABELS[name]
        image[organ] = _HOUNSFIELD[name] + random.normal(0, 8)
    image = gaussian_filter(image, [0.6 / spacing for spacing in geometry.spacing_mm])
    image += _BIAS_HU * np.sin(u + phase[0]) * np.cos(v + phase[1])
    image += random.normal(0, _NOISE_HU, image.shape)
    hounsfield = np.clip(np.round(image), -1024, 3071).astype(np.int16)
    meaning = {name: value for name, value in LABELS.items() if value}
    return Volume(hounsfield[None], geometry), LabelVolume(labels, geometry, meaning)


def write_dataset(
    folder: str | os.PathLike[str],
    *,
    training: int,
    test: int,
    seed: int = 0,
    kind: PhantomKind = PhantomKind(),
    progress: Progress = silent,
) -> Path:
    """Write phantoms as a dataset in MSD form, with ``imagesTs`` and ``labelsTs`` for unseen cases; returns its folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    with atomic.replacing_folder(folder) as temporary:
        names = [f"phantom_{number:03d}" for number in range(training + test)]
        for number, name in enumerate(names):
            progress(number, len(names), "making phantoms")
            rare = np.random.default_rng((seed, number)).random() < RARE_SHARE or number in (0, training)
            image, mask = phantom(seed * 100_000 + number, kind, rare)
            part = "Tr" if number < training else "Ts"
            io.write(image, temporary / f"images{part}" / f"{name}.nii.gz")
            io.write(mask, temporary / f"labels{part}" / f"{name}.nii.gz")
        document = _dataset_json(names[:training], names[training:])
        atomic.write_text(temporary / "dataset.json", json.dumps(document, indent=1) + "\n")
        progress(len(names), len(names), "making phantoms")
    return Path(folder)


def _grid(random: np.random.Generator, kind: PhantomKind) -> Geometry:
    spacing = [random.uniform(low, high) for low, high in zip(kind.finest_mm, kind.coarsest_mm, strict=True)]
    spacing[1] = spacing[2]  # scanners make square pixels
    shape = [round(extent / size) for extent, size in zip(kind.extent_mm, spacing, strict=True)]
    tilt, yaw = np.deg2rad(random.uniform(-6, 6, 2))
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    axes = (about_z @ about_x)[:, ::-1] * spacing
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ ((np.array(shape) - 1) / 2)
    upright = Geometry((shape[0], shape[1], shape[2]), affine)
    return upright.changed(upright.change_to(str(random.choice(_ORIENTATIONS))))


def _dataset_json(training: Sequence[str], test: Sequence[str]) -> dict[str, object]:
    return {
        "name": "Phantoms",
        "description": "CT-like phantoms made by arithmetic",
        "licence": "CC0-1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for name, value in LABELS.items()},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in training],
        "test": [f"./imagesTs/{name}.nii.gz" for name in test],
    }
