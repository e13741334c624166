"""A small SAM in its original form with random weights, and what segment-anything makes of it.

``sam_small_logits.npz`` holds the names and shapes of segment-anything's tensors, and its answers, as
``tests/peer_sam.py`` has written them. Values are drawn here, by NumPy, so that both sides have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

PEER_ANSWERS = Path(__file__).with_name("sam_small_logits.npz")
SIZE = 256
BOX = (60.0, 30.0, 180.0, 200.0)  # x0, y0, x1, y1 in pixels of the network's square
POINTS = ((100.0, 90.0, 1), (200.0, 30.0, 0))  # x, y, inside


def random_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Values for tensors of these names; norms stay near one."""
    tensors = {}
    for index, (name, shape) in enumerate(shapes.items()):
        values = np.random.default_rng(index).normal(0, 0.1, shape).astype(np.float32)
        is_norm = name.endswith("weight") and len(shape) == 1
        tensors[name] = values + 1 if is_norm else values
    return tensors


def picture_values(size: int) -> np.ndarray:
    """(1, 3, size, size) float32 from 0 to 1."""
    return np.random.default_rng(7).random((1, 3, size, size), np.float32)


def peer_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the small network's tensors in segment-anything."""
    with np.load(PEER_ANSWERS) as stored:
        return {
            str(name): tuple(int(size) for size in shape if size >= 0)
            for name, shape in zip(stored["names"], stored["shapes"], strict=True)
        }
