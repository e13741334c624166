"""Trained models of nnU-Net predicted with here, beside nnU-Net's own masks and probabilities.

    python -m benchmarks.nnunet_models FOLDER... --images IMAGES

Each folder is a trained-model folder with nnU-Net's predictions beside: ``predictions_tta`` (mirrored copies averaged)
and ``predictions_notta``, masks and, for some of them, ``--save_probabilities`` files. nnU-Net keeps the sums of its
windows' weighted logits in half precision, and divides by half-precision weights that are 6e-8 far from a window's
centre. The last column repeats that arithmetic with this package's network, resampling and everything else: what then
remains of the difference in probability has other reasons.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from medseg import io, patches
from medseg.prediction import PredictionSettings, Predictor, load_predictor
from medseg.preprocessing import PreparedPlanes, logit_planes, prepare_planes, probabilities
from medseg.stitching import window_starts
from medseg.volume import Volume


@dataclass(frozen=True)
class Agreement:
    """Of masks and probabilities over some scans; the worst each."""

    model: str
    mirrored: bool
    scans: int
    equal_voxels: float
    dice: float
    probability_gap: float
    probability_gap_p9999: float
    half_precision_gap: float


def compare(folder: Path, images: Path, mirrored: bool) -> Agreement:
    """Predict every scan that nnU-Net has predicted."""
    predictor = load_predictor(folder, None, "cpu", "fp32", PredictionSettings(mirror=mirrored))
    theirs = sorted((folder / f"predictions_{'tta' if mirrored else 'notta'}").glob("*.nii.gz"))
    equal, dice, gaps, tails, half_gaps = [], [], [], [], []
    for path in theirs:
        case = io.name_of(path)
        volume = io.read(images / f"{case}_0000.nii.gz")
        mask, likely = predictor.predict_probabilities(volume)
        expected = io.read_labels(path).array
        equal.append(float((mask.array == expected).mean()))
        dice += [dice_of(mask.array == value, expected == value) for value in predictor.plan.labels.values]
        saved = path.with_name(f"{case}.npz")
        if not saved.is_file():
            continue
        with np.load(saved) as archive:
            peer = archive["probabilities"].astype(np.float32)
        gap = np.abs(likely - peer)
        gaps.append(float(gap.max()))
        tails.append(float(np.quantile(gap, 0.9999)))
        half_gaps.append(float(np.abs(half_precision_probabilities(predictor, volume) - peer).max()))
    return Agreement(folder.name, mirrored, len(theirs), min(equal), min(dice), max(gaps), max(tails), max(half_gaps))


def dice_of(a: np.ndarray, b: np.ndarray) -> float:
    """1 where both are empty."""
    both = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / both if both else 1.0


def half_precision_probabilities(predictor: Predictor, volume: Volume) -> np.ndarray:
    """Probabilities (K, Z, Y, X) on the scan's grid with nnU-Net's arithmetic of overlapping windows."""
    (member,) = predictor.members
    scan = prepare_planes(volume, predictor.plan, member.configuration, case="scan")
    with torch.inference_mode():
        logits = torch.cat(list(half_precision_sums(predictor, scan)), dim=1).float()
    likely = np.zeros((predictor.plan.labels.output_count, *volume.geometry.shape), np.float32)
    likely[0] = 1
    first = 0
    for planes in logit_planes([logits], scan.trace):
        found = probabilities(planes, predictor.plan.labels).numpy()
        scan.trace.inside(likely)[:, first : first + found.shape[1]] = found
        first += found.shape[1]
    return likely


def half_precision_sums(predictor: Predictor, scan: PreparedPlanes) -> Iterator[torch.Tensor]:
    """Logits (K, n, Y, X) float16 of a whole scan, or of one slice after the other in two dimensions."""
    (member,) = predictor.members
    image, patch = scan.planes(0, scan.shape[1]), member.configuration.patch_size
    weights = half_precision_weights(patch)
    parts = [image] if len(patch) == 3 else image.unbind(1)
    for part in parts:
        around = patches.padding(part.shape[1:], patch)
        padded = torch.from_numpy(np.pad(part.numpy(), [(0, 0), *around]))
        total = torch.zeros((member.outputs, *padded.shape[1:]), dtype=torch.float16)
        weight = torch.zeros(padded.shape[1:], dtype=torch.float16)
        for corner in np.stack(np.meshgrid(*window_starts(part.shape[1:], patch, 0.5), indexing="ij"), -1).reshape(
            -1, len(patch)
        ):
            window = tuple(slice(start, start + size) for start, size in zip(corner, patch, strict=True))
            total[(slice(None), *window)] += member.window_logits(padded[(None, slice(None), *window)])[0] * weights
            weight[window] += weights
        inside = tuple(slice(low, low + size) for (low, _), size in zip(around, part.shape[1:], strict=True))
        logits = (total / weight)[(slice(None), *inside)]
        yield logits if len(patch) == 3 else logits[:, None]


def half_precision_weights(patch: Sequence[int]) -> torch.Tensor:
    """The Gaussian at a height of 10, rounded; what vanishes becomes the smallest that is left."""
    weights = np.zeros(patch)
    weights[tuple(size // 2 for size in patch)] = 1
    weights = gaussian_filter(weights, [size / 8 for size in patch], mode="constant")
    half = torch.from_numpy(weights / weights.max() * 10).to(torch.float16)
    half[half == 0] = half[half > 0].min()
    return half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    arguments = parser.parse_args()
    table = Table(
        "model", "mirrored", "scans", "equal voxels", "Dice", "gap", "gap 99.99 %", "gap, half-precision sums"
    )
    for folder in arguments.folders:
        for mirrored in (True, False):
            row = compare(folder, arguments.images, mirrored)
            table.add_row(
                row.model,
                str(row.mirrored),
                str(row.scans),
                f"{row.equal_voxels:.6f}",
                f"{row.dice:.5f}",
                f"{row.probability_gap:.1e}",
                f"{row.probability_gap_p9999:.1e}",
                f"{row.half_precision_gap:.1e}",
            )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
