"""Seconds to compare five organs, beside DeepMind's surface-distance, with one thread.

    python -m benchmarks.metrics [--json FILE]

The organs are bumpy ellipsoids of the size of liver, spleen, kidneys and pancreas; predictions are the same bodies
equal, drawn anew a few voxels off, and displaced by 16 mm. Both sides give Dice, HD, HD95, ASSD and surface Dice for
every label; the last column is the largest relative difference of the figures. Each time is the best of a few runs.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from medseg.metrics import compare

# Centre and semi-axes of each organ, as parts of the volume's shape.
ORGANS = [
    ((0.60, 0.43, 0.33), (0.18, 0.19, 0.20)),
    ((0.63, 0.51, 0.76), (0.12, 0.09, 0.08)),
    ((0.43, 0.57, 0.35), (0.13, 0.06, 0.06)),
    ((0.43, 0.57, 0.66), (0.13, 0.06, 0.06)),
    ((0.50, 0.43, 0.53), (0.05, 0.05, 0.15)),
]
FIGURES = ("dice", "hausdorff_mm", "hausdorff95_mm", "assd_mm", "surface_dice")


def organs(shape: tuple[int, int, int], moved: tuple[float, ...] = (0, 0, 0), swollen: float = 1.0) -> np.ndarray:
    """Labels 1 to 5 in a volume; bodies moved by some voxels and scaled, with bumps that stay in place."""
    labels = np.zeros(shape, np.uint8)
    for label, (centre, radius) in enumerate(ORGANS, 1):
        middle = [part * length + shift for part, length, shift in zip(centre, shape, moved, strict=True)]
        extent = [swollen * part * length for part, length in zip(radius, shape, strict=True)]
        low = [max(0, int(m - 1.2 * r)) for m, r in zip(middle, extent, strict=True)]
        box = tuple(slice(a, int(m + 1.2 * r) + 1) for a, m, r in zip(low, middle, extent, strict=True))
        inside = labels[box]
        z, y, x = np.ogrid[tuple(slice(a, a + length) for a, length in zip(low, inside.shape, strict=True))]
        bumps = 1 + 0.08 * np.sin(y / 6) * np.sin(x / 7) * np.cos(z / 5)
        inside[sum(((i - m) / r) ** 2 for i, m, r in zip((z, y, x), middle, extent, strict=True)) < bumps] = label
    return labels


def by_peer(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The figures of surface-distance, a row a label."""
    import surface_distance as peer

    rows = []
    for label in range(1, len(ORGANS) + 1):
        masks = reference == label, prediction == label
        distances = peer.compute_surface_distances(*masks, spacing)
        areas = [distances[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
        rows.append(
            (
                peer.compute_dice_coefficient(*masks),
                peer.compute_robust_hausdorff(distances, 100),
                peer.compute_robust_hausdorff(distances, 95),
                np.average(peer.compute_average_surface_distance(distances), weights=areas),
                peer.compute_surface_dice_at_tolerance(distances, 1.0),
            )
        )
    return np.array(rows)


def best_of(runs: int, call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """The least time of some calls in seconds, and what the last one gave."""
    seconds, figures = [], np.empty(0)
    for _ in range(runs):
        start = time.perf_counter()
        figures = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), figures


def main() -> None:
    """Print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import surface_distance  # noqa: F401
        has_peer = True
    except ImportError:
        has_peer = False
        print("surface-distance is not installed: its column is left out (pip install surface-distance)")
    warnings.simplefilter("ignore", DeprecationWarning)  # the peer names scipy's functions by their old modules

    records = []
    print(f"{'volume (Z, Y, X)':18}{'prediction':20}{'medseg':>10}{'peer':>10}{'ratio':>8}{'difference':>12}")
    for shape, spacing in (((150, 256, 256), (1.5, 0.8, 0.8)), ((300, 512, 512), (1.0, 0.8, 0.8))):
        reference = organs(shape)
        predictions = {
            "equal": reference,
            "a few voxels off": organs(shape, moved=(1, -2, 1), swollen=1.03),
            "16 mm off": organs(shape, moved=(0, 20, 0)),
        }
        for name, prediction in predictions.items():

            def by_medseg(prediction=prediction, reference=reference, spacing=spacing) -> np.ndarray:
                return compare(prediction, reference, spacing)[list(FIGURES)].to_numpy()

            with threadpool_limits(1):
                by_medseg()
                seconds, figures = best_of(3, by_medseg)
                record = {"shape": shape, "prediction": name, "seconds": seconds}
                line = f"{'x'.join(map(str, shape)):18}{name:20}{seconds:9.3f}s"
                if has_peer:
                    peer_seconds, theirs = best_of(1, lambda p=prediction, r=reference, s=spacing: by_peer(p, r, s))
                    difference = float(np.max(np.abs(figures - theirs) / np.maximum(np.abs(theirs), 1e-9)))
                    record |= {"peer_seconds": peer_seconds, "largest_relative_difference": difference}
                    line += f"{peer_seconds:9.3f}s{peer_seconds / seconds:8.1f}{difference:12.0e}"
            print(line, flush=True)
            records.append(record)
    if options.json:
        options.json.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
