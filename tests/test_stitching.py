"""Stitching windows: by hand, and against the plain sum over all windows at once."""

from __future__ import annotations

import pytest
import torch
from examples import every_tile
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import patches
from medseg.stitching import stitch

CPU = torch.device("cpu")


def plainly(image, patch, step, window_logits):
    """All windows summed into arrays of the whole scan."""
    margins = patches.padding(image.shape[1:], patch)
    padded = torch.nn.functional.pad(image, [amount for pair in reversed(margins) for amount in pair])
    weights = torch.from_numpy(patches.gaussian_weights(patch).copy())
    total, weight = 0, torch.zeros(padded.shape[1:])
    for corner in every_tile(padded.shape[1:], patch, step):
        window = tuple(slice(start, start + size) for start, size in zip(corner, patch, strict=True))
        logits = window_logits(padded[(slice(None), *window)][None])[0] * weights
        if isinstance(total, int):
            total = torch.zeros(len(logits), *padded.shape[1:])
        total[(slice(None), *window)] += logits
        weight[window] += weights
    inside = tuple(slice(low, low + size) for (low, _), size in zip(margins, image.shape[1:], strict=True))
    return (total / weight)[(slice(None), *inside)]


def window_logits(batch: torch.Tensor) -> torch.Tensor:
    """Something that depends on where in its window a voxel lies."""
    ramp = torch.linspace(0, 1, batch.shape[2]).view(1, 1, -1, *([1] * (batch.ndim - 3)))
    return torch.cat([batch * ramp, -batch, batch.square()], dim=1)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 17),) * 3),
    patch=st.tuples(*(st.integers(1, 8),) * 3),
    step=st.sampled_from([0.25, 0.5, 1.0]),
    together=st.integers(1, 5),
)
def test_slabs_are_the_plain_sum_cut_in_order(shape, patch, step, together):
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    slabs = list(stitch(image, patch, step, 3, window_logits, together=together, device=CPU))
    torch.testing.assert_close(torch.cat(slabs, dim=1), plainly(image, patch, step, window_logits))
    assert all(slab.shape[1] <= patch[0] for slab in slabs)


@pytest.mark.parametrize("shape", [(3, 20), (11, 13)])
def test_two_dimensions(shape):
    image = torch.randn(2, *shape)
    slabs = list(stitch(image, (5, 6), 0.5, 6, window_logits, together=2, device=CPU))
    torch.testing.assert_close(torch.cat(slabs, dim=1), plainly(image, (5, 6), 0.5, window_logits))


def test_where_windows_agree_the_mean_is_what_they_say():
    image = torch.rand(1, 9, 10, 11)
    slabs = stitch(image, (4, 4, 4), 0.5, 1, lambda batch: batch * 2, together=3, device=CPU)
    torch.testing.assert_close(torch.cat(list(slabs), dim=1), image * 2)
