"""Resampling plane by plane: the values of the functions for whole arrays, however planes come and are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.resampling import (
    CubicPlanes,
    argmax_planes,
    label_planes,
    linear_planes,
    region_planes,
    resize,
    resize_argmax,
    resize_labels,
    resize_regions,
)

old_sizes = st.tuples(*[st.integers(1, 12)] * 3)
new_sizes = st.tuples(*[st.integers(1, 20)] * 3)
axis_or_none = st.sampled_from([None, 0, 1, 2])
seeds = st.integers(0, 2**32 - 1)
parts = st.lists(st.integers(1, 19), max_size=4)
# ``each_way`` stays the same from one example to the next.
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def cut(size: int, at: Sequence[int]) -> list[tuple[int, int]]:
    edges = sorted({0, size, *(place for place in at if place < size)})
    return list(itertools.pairwise(edges))


def one_buffer(logits: torch.Tensor, at: Sequence[int]) -> Iterator[torch.Tensor]:
    """Consecutive slabs that all lie in the same memory, as the stitcher gives them: the last is gone with the next."""
    ranges = cut(logits.shape[1], at)
    memory = torch.empty(logits.shape[0], max(stop - start for start, stop in ranges), *logits.shape[2:])
    for start, stop in ranges:
        memory.fill_(float("nan"))
        memory[:, : stop - start] = logits[:, start:stop]
        yield memory[:, : stop - start]


def some_logits(seed: int, shape: Sequence[int], tied: bool) -> torch.Tensor:
    logits = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    return (2 * logits).round() if tied else logits


@pytest.mark.usefixtures("each_way")
@few
@given(old_sizes, new_sizes, axis_or_none, parts, seeds, st.booleans())
def test_labels_from_slabs_of_logits(old, new, thick, at, seed, tied):
    logits = some_logits(seed, old, tied)
    got = torch.cat(list(argmax_planes(one_buffer(logits, at), old, new, thick)))
    assert torch.equal(got, resize_argmax(logits, new, thick))


@pytest.mark.usefixtures("each_way")
@few
@given(old_sizes, new_sizes, axis_or_none, parts, seeds)
def test_regions_from_slabs_of_logits(old, new, thick, at, seed):
    logits = some_logits(seed, old, tied=False)
    got = torch.cat(list(region_planes(one_buffer(logits, at), [1, 2, 1], old, new, thick)))
    assert torch.equal(got, resize_regions(logits, new, [1, 2, 1], thick))


@few
@given(old_sizes, new_sizes, axis_or_none, parts, seeds)
def test_probabilities_from_slabs(old, new, thick, at, seed):
    values = some_logits(seed, old, tied=False)
    got = torch.cat(list(linear_planes(one_buffer(values, at), old, new, thick)), 1)
    assert torch.equal(got, resize(values, new, 1, thick))


@few
@given(old_sizes, new_sizes, axis_or_none, parts, seeds)
def test_images_in_runs_of_planes(old, new, thick, at, seed):
    image = some_logits(seed, old, tied=False)[:1]
    planes = CubicPlanes.between(lambda start, stop: image[0, start:stop], old, new, thick)
    got = torch.cat([planes.planes(*each) for each in cut(new[0], at)])
    torch.testing.assert_close(got, resize(image, new, 3, thick)[0], atol=1e-5, rtol=1e-5)


@few
@given(old_sizes, new_sizes, axis_or_none, parts, seeds)
def test_label_maps_in_runs_of_planes(old, new, thick, at, seed):
    labels = torch.randint(0, 4, old, dtype=torch.int16, generator=torch.Generator().manual_seed(seed))

    def read(start: int, stop: int) -> torch.Tensor:
        return labels[start:stop]

    got = torch.cat([label_planes(read, old, new, *each, thick) for each in cut(new[0], at)])
    assert torch.equal(got, resize_labels(labels, new, thick))


def test_only_the_planes_that_are_needed_are_read():
    image = torch.randn(100, 4, 4, generator=torch.Generator().manual_seed(0))
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> torch.Tensor:
        asked.append((start, stop))
        return image[start:stop]

    planes = CubicPlanes.between(read, image.shape, (200, 4, 4), None)
    asked.clear()
    planes.planes(100, 110)  # new planes 100 to 109 lie around old ones 50 to 55; a spline reaches some planes further
    ((first, last),) = asked
    assert 15 <= first <= 48
    assert 57 <= last <= 90


def test_planes_leave_as_soon_as_their_neighbours_are_there():
    logits = torch.zeros(2, 10, 3, 3)
    seen = 0

    def slabs() -> Iterator[torch.Tensor]:
        nonlocal seen
        for start in range(10):
            seen = start + 1
            yield logits[:, start : start + 1]

    done = 0
    for planes in argmax_planes(slabs(), (10, 3, 3), (20, 6, 6), None):
        done += len(planes)
        assert done >= 2 * seen - 2  # a new plane waits for one old plane after its own
    assert done == 20


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("thick", [None, 0])
def test_equal_grids_change_nothing(thick):
    logits = some_logits(0, (5, 4, 3), tied=False)
    got = torch.cat(list(argmax_planes(one_buffer(logits, [2]), (5, 4, 3), (5, 4, 3), thick)))
    assert torch.equal(got, logits.argmax(0).to(got.dtype))
