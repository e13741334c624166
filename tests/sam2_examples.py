"""SAM 2 in its original form with random weights, and what the original code makes of it.

``sam2_answers.npz`` holds the names and shapes of the original's tensors and its answers at 128 pixels, as
``tests/peer_sam2.py`` has written them. Values are drawn here, by NumPy, so that both sides have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

PEER_ANSWERS = Path(__file__).with_name("sam2_answers.npz")
SIZE = 128
FRAMES = 6
FIRST = 2  # the frame with the prompt
# In parts of the square's side: x0, y0, x1, y1, and x, y, inside.
BOX = (0.25, 0.125, 0.75, 0.75)
POINTS = ((0.5, 0.375, 1), (0.875, 0.125, 0))
CORRECTION = (4, (0.625, 0.5, 1))  # frame, and x, y, inside
SEEN, GONE = 4.0, -4.0  # what the object score is around


def random_tensors(shapes: Mapping[str, tuple[int, ...]], score: float = SEEN) -> dict[str, np.ndarray]:
    """Values for tensors of these names, such that activations stay near one."""
    tensors = {}
    for index, (name, shape) in enumerate(shapes.items()):
        values = np.random.default_rng(index).normal(0, 1, shape).astype(np.float32)
        is_matrix = name.endswith("weight") and len(shape) > 1 and not ("embed" in name or "token" in name)
        if is_matrix or "patch_embed" in name:
            values /= np.sqrt(prod(shape[1:]) or 1).astype(np.float32)
        elif name.endswith("bias"):
            values *= 0.1
        elif len(shape) == 1:  # of norms, and of the scales of layers
            values = 1 + 0.1 * values
        tensors[name] = values
    tensors["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] = np.full(1, score, np.float32)
    return tensors


def frame_values(size: int) -> np.ndarray:
    """(FRAMES, 3, size, size) float32, each much like the one before."""
    random = np.random.default_rng(7)
    common, own = random.normal(0, 1, (1, 3, size, size)), random.normal(0, 0.3, (FRAMES, 3, size, size))
    return (common + np.cumsum(own, 0)).astype(np.float32)


def mask_values(size: int) -> np.ndarray:
    """A disc (size, size) bool."""
    y, x = np.mgrid[:size, :size] / size
    return (y - 0.45) ** 2 + (x - 0.55) ** 2 < 0.2**2


def peer_shapes(answers: Path = PEER_ANSWERS) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors in the original code."""
    with np.load(answers) as stored:
        return {
            str(name): tuple(int(size) for size in shape if size >= 0)
            for name, shape in zip(stored["names"], stored["shapes"], strict=True)
        }
