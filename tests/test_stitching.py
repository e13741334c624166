"""Stitching windows: by hand, and against the plain sum over all windows at once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import patches
from medseg.stitching import stitch

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Scan:
    """An image (C, Z, Y, X) that tells if a plane is asked for out of turn."""

    image: torch.Tensor
    asked: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return tuple(self.image.shape)

    def planes(self, start: int, stop: int) -> torch.Tensor:
        assert self.asked == list(range(start))
        self.asked.extend(range(start, stop))
        return self.image[:, start:stop]


def stitched(image, patch, step, outputs, logits, together=2):
    """All slabs; each is copied before the next one, which may overwrite it."""
    scan = Scan(image)
    slabs = [slab.clone() for slab in stitch(scan, patch, step, outputs, logits, together=together, device=CPU)]
    assert scan.asked == list(range(image.shape[1]))
    return slabs


def plainly(image, patch, step, window_logits):
    """All windows summed into arrays of the whole scan."""
    margins = patches.padding(image.shape[1:], patch)
    padded = torch.nn.functional.pad(image, [amount for pair in reversed(margins) for amount in pair])
    weights = torch.from_numpy(patches.gaussian_weights(patch).copy())
    total, weight = 0, torch.zeros(padded.shape[1:])
    sizes = zip(padded.shape[1:], patch, strict=True)
    for corner in itertools.product(*(patches.tile_starts(size, window, step) for size, window in sizes)):
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
    slabs = stitched(image, patch, step, 3, window_logits, together)
    torch.testing.assert_close(torch.cat(slabs, dim=1), plainly(image, patch, step, window_logits))
    assert all(slab.shape[1] <= patch[0] for slab in slabs)


@pytest.mark.parametrize("shape", [(1, 3, 20), (7, 11, 13)])
@pytest.mark.parametrize("together", [1, 2, 30])
def test_two_dimensions(shape, together):
    image = torch.randn(2, *shape)
    found = torch.cat(stitched(image, (5, 6), 0.5, 6, window_logits, together), dim=1)
    expected = [plainly(plane, (5, 6), 0.5, window_logits) for plane in image.unbind(1)]
    torch.testing.assert_close(found, torch.stack(expected, dim=1))


def test_where_windows_agree_the_mean_is_what_they_say():
    image = torch.rand(1, 9, 10, 11)
    slabs = stitched(image, (4, 4, 4), 0.5, 1, lambda batch: batch * 2, together=3)
    torch.testing.assert_close(torch.cat(slabs, dim=1), image * 2)


def test_a_batch_that_does_not_fit_is_computed_in_parts():
    image, sizes = torch.rand(1, 9, 10, 11), []

    def small_memory(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no more")
        return batch * 2

    slabs = stitched(image, (4, 4, 4), 0.5, 1, small_memory, together=7)
    torch.testing.assert_close(torch.cat(slabs, dim=1), image * 2)
    assert 7 in sizes
    with pytest.raises(torch.OutOfMemoryError):
        stitched(image, (4, 4, 4), 0.5, 1, lambda batch: small_memory(batch.repeat(3, 1, 1, 1, 1)), together=7)
