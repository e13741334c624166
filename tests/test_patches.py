"""Where patches lie."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import patches


@pytest.mark.parametrize(
    ("size", "patch", "step", "starts"),
    [
        (10, 4, 0.5, (0, 2, 4, 6)),
        (4, 4, 0.5, (0,)),
        (3, 4, 0.5, (0,)),
        (9, 4, 0.5, (0, 2, 3, 5)),
        (10, 4, 1.0, (0, 3, 6)),
    ],
)
def test_tile_starts_by_hand(size, patch, step, starts):
    assert patches.tile_starts(size, patch, step) == starts


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 300), patch=st.integers(1, 128), step=st.floats(0.1, 1.0))
def test_tiles_cover_every_voxel_and_stay_inside(size, patch, step):
    starts = patches.tile_starts(size, patch, step)
    covered = np.zeros(max(size, patch), dtype=bool)
    for start in starts:
        assert 0 <= start <= max(size - patch, 0)
        covered[start : start + patch] = True
    assert covered.all()
    assert all(later - earlier <= max(1, np.ceil(patch * step)) for earlier, later in itertools.pairwise(starts))


def test_gaussian_weights_peak_at_the_centre_and_never_vanish():
    weights = patches.gaussian_weights((40, 56, 40))
    assert weights[20, 28, 20] == weights.max() == 1.0
    assert weights.min() > 0
    np.testing.assert_allclose(weights[1:, 28, 20], weights[1:, 28, 20][::-1], rtol=1e-5)


def test_padding_puts_the_odd_voxel_after():
    assert patches.padding((3, 8), (6, 5)) == ((1, 2), (0, 0))


def test_random_start_centres_on_the_wanted_voxel_as_far_as_borders_allow():
    random = np.random.default_rng(0)
    assert patches.random_start((10, 10, 3), (4, 4, 5), (5, 0, 1), random) == (3, 0, -1)


def test_random_start_reaches_both_ends():
    random = np.random.default_rng(0)
    starts = {patches.random_start((6,), (4,), None, random)[0] for _ in range(100)}
    assert starts == {0, 1, 2}


def test_copy_patch_leaves_what_lies_outside():
    source = np.arange(1, 7).reshape(1, 2, 3)
    target = np.full((1, 4, 2), -7)
    patches.copy_patch(source, (-1, 2), target)
    np.testing.assert_array_equal(target[0], [[-7, -7], [3, -7], [6, -7], [-7, -7]])


def test_copy_patch_that_misses_the_source_changes_nothing():
    target = np.zeros((2, 2))
    patches.copy_patch(np.ones((3, 3)), (5, 0), target)
    assert not target.any()


def test_how_many_patches_a_scan_holds():
    assert patches.patches_in((20, 60, 30), (10, 20, 40)) == 2 * 3
    assert patches.patches_in((20, 60, 30), (20, 15)) == 20 * 3 * 2
