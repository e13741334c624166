"""Prompts as channels of a network's input.

Four channels follow those of the scan: points in the object, points outside of it (each a Gaussian bump, the higher of
two where they meet), boxes (1 inside), and a mask to begin with (1 inside).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.prompting.grid import GridPrompts

PROMPT_CHANNELS = ("prompt: points inside", "prompt: points outside", "prompt: box", "prompt: mask")
# Width of a point's bump: broad enough for the coarser stages of a network, no broader than a click is sure.
POINT_SIGMA_VOXELS = 2.0
_REACH = 4  # sigmas


def prompt_channels(prompts: GridPrompts, shape: Sequence[int], sigma_voxels: Sequence[float]) -> np.ndarray:
    """Float32 (4, *shape) as ``PROMPT_CHANNELS`` names them.

    Args:
        sigma_voxels: width of a point's bump along each axis.
    """
    channels = np.zeros((len(PROMPT_CHANNELS), *shape), np.float32)
    for points, channel in ((prompts.inside, channels[0]), (prompts.outside, channels[1])):
        for point in points:
            _add_bump(channel, point, sigma_voxels)
    for start, stop in prompts.boxes:
        channels[2][tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(start, stop, strict=True))] = 1
    if prompts.mask is not None:
        channels[3] = prompts.mask
    return channels


def _add_bump(channel: np.ndarray, centre: Sequence[float], sigmas: Sequence[float]) -> None:
    """In place, around the centre only."""
    near, along = [], []
    for middle, sigma, size in zip(centre, sigmas, channel.shape, strict=True):
        first = min(max(int(np.floor(middle - _REACH * sigma)), 0), size)
        last = min(max(int(np.ceil(middle + _REACH * sigma)) + 1, first), size)
        near.append(slice(first, last))
        along.append(np.exp(-0.5 * ((np.arange(first, last) - middle) / sigma) ** 2))
    bump = along[0]
    for values in along[1:]:
        bump = bump[..., None] * values
    part = channel[tuple(near)]
    np.maximum(part, bump, out=part, casting="same_kind")
