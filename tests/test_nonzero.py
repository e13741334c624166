"""Cropping to nonzero: holes, dents and boxes by hand, then scipy's answer."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from medseg.nonzero import nonzero_box, nonzero_mask
from medseg.volume import Box, bounding_box


@given(
    arrays.arrays(bool, st.tuples(st.integers(1, 2), *(st.integers(1, 7) for _ in range(3))), elements=st.booleans())
)
@settings(max_examples=50, deadline=None)
def test_nonzero_mask_is_that_of_scipy(array: np.ndarray):
    expected = ndimage.binary_fill_holes(array.any(axis=0))
    assert np.array_equal(nonzero_mask(array), expected)
    assert nonzero_box(array) == (bounding_box(expected) or Box((0, 0, 0), expected.shape))


def test_hole_is_filled_and_a_dent_is_not():
    image = np.zeros((1, 7, 7, 7), np.float32)
    image[0, 1:6, 1:6, 1:6] = -3.5
    image[0, 3, 3, 3] = image[0, 1:3, 2, 2] = 0
    mask = nonzero_mask(image)
    assert mask[3, 3, 3]
    assert not mask[1:3, 2, 2].any()
    assert mask.sum() == 5**3 - 2


def test_one_slice_has_no_holes():
    ring = np.zeros((1, 1, 5, 5))
    ring[0, 0, 1:4, 1:4] = 1
    ring[0, 0, 2, 2] = 0
    assert nonzero_mask(ring).sum() == 8
