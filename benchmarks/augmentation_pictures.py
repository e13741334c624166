"""A picture of every augmentation step, on one slice with the outlines of its labels.

python -m benchmarks.augmentation_pictures CT.nii.gz LABELS.nii.gz docs/augmentation.png --source "where from, licence"
"""

from __future__ import annotations

import argparse
import math
from dataclasses import fields, replace
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import torch

from medseg.augmentation import AugmentationParameters, AugmentationPolicy, Chance, apply, draw

PATCH = (24, 92, 108)
COLUMNS = 4


def canonical(path: Path) -> np.ndarray:
    """The (Z, Y, X) array of a file, axes towards superior, anterior, right."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return np.ascontiguousarray(np.asarray(image.dataobj).T)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("image", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", default="", help="origin and licence, written under the picture")
    options = parser.parse_args()

    scan = canonical(options.image).astype(np.float32).clip(-300, 300)
    scan = (scan - scan.mean()) / scan.std()
    images = torch.from_numpy(scan)[None, None]
    labels = torch.from_numpy(canonical(options.labels).astype(np.int16))[None]

    policy = AugmentationPolicy.default(PATCH)
    chances = {f.name: getattr(policy, f.name) for f in fields(policy) if isinstance(getattr(policy, f.name), Chance)}
    never = {name: replace(chance, probability=0.0) for name, chance in chances.items()}
    generator = torch.Generator().manual_seed(3)
    still = draw(replace(policy, mirror_probability=0.0, **never), 1, 1, generator)

    def one(*value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=torch.float64)

    panels: list[tuple[str, AugmentationParameters]] = [
        ("as it is", still),
        ("turned 25 degrees", replace(still, rotation_radians=one(math.radians(25)))),
        ("scale 1.4", replace(still, scale=one(1.4)[0])),
        ("scale 0.7", replace(still, scale=one(0.7)[0])),
        ("noise 0.1", replace(still, noise_sigma=one(0.1)[0])),
        ("blur 1 voxel", replace(still, blur_sigma_voxels=one(0.0, 1.0, 1.0)[None])),
        ("brightness x 1.25", replace(still, brightness=one(1.25))),
        ("contrast x 0.75", replace(still, contrast=one(0.75))),
        ("low resolution 0.5", replace(still, low_resolution=one(1.0, 0.5, 0.5)[None])),
        ("gamma 0.7", replace(still, gamma=one(0.7))),
        ("gamma 1.5", replace(still, gamma=one(1.5))),
        ("inverted gamma 1.5", replace(still, inverted_gamma=one(1.5))),
        ("mirrored in X", replace(still, mirror=torch.tensor([[False, False, True]]))),
        *(("drawn", draw(policy, 1, 1, generator)) for _ in range(3)),
    ]
    figure, axes = plt.subplots(math.ceil(len(panels) / COLUMNS), COLUMNS, figsize=(11, 9.8), layout="compressed")
    middle, low, high = PATCH[0] // 2, *np.quantile(scan, [0.02, 0.995])
    colours = plt.colormaps["tab20"]
    for axis, (title, parameters) in zip(axes.flat, panels, strict=True):
        image, outline = apply(images, labels, parameters, PATCH)
        axis.imshow(image[0, 0, middle], cmap="gray", vmin=low, vmax=high, origin="lower")
        for label in outline[0, middle].unique().tolist():
            if label:
                inside = (outline[0, middle] == label).float()
                axis.contour(inside, [0.5], colors=[colours(label % 20)], linewidths=0.8)
        axis.set_title(title, fontsize=10)
        axis.invert_xaxis()  # the patient's right on the left, as radiologists look at it
        axis.set_axis_off()
    if options.source:
        figure.supxlabel(options.source, fontsize=7)
    figure.savefig(options.output, dpi=72)


if __name__ == "__main__":
    main()
