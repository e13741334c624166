"""Simulated prompts: pencil answers, and properties that hold for any object."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.prompting.grid import GridPrompts, line_points, tight_box
from medseg.prompting.simulation import (
    central_point,
    correction,
    corrections,
    draw_object,
    draw_prompts,
    flat_box,
    jittered_box,
    longest_diameter,
    with_clicks,
)
from medseg.prompting.unet.channels import prompt_channels


def blob(seed: int, shape=(9, 12, 11)) -> np.ndarray:
    random = np.random.default_rng(seed)
    z, y, x = np.ogrid[tuple(slice(size) for size in shape)]
    c, r = random.uniform(2, 7, 3), random.uniform(1.5, 4, 3)
    return ((z - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 + ((x - c[2]) / r[2]) ** 2 <= 1


def test_channels_by_pencil():
    mask = np.zeros((5, 6), bool)
    mask[0, 0] = True
    prompts = GridPrompts(((2.0, 3.0),), ((4.0, 5.0),), (((1, 1), (3, 4)),), mask)
    channels = prompt_channels(prompts, (5, 6), (2.0, 1.0))
    assert channels.shape == (4, 5, 6)
    assert channels[0, 2, 3] == 1
    assert channels[0, 4, 3] == pytest.approx(np.exp(-0.5))
    assert channels[0, 2, 4] == pytest.approx(np.exp(-0.5))
    assert channels[1, 4, 5] == 1
    assert channels[2].sum() == 6
    assert channels[2, 1:3, 1:4].all()
    np.testing.assert_array_equal(channels[3], mask)


def test_prompts_outside_of_a_window_reach_into_it_or_do_nothing():
    prompts = GridPrompts(((-1.0, 2.0), (-50.0, 0.0)), (), (((-3, -3), (1, 2)), ((9, 9), (12, 12))), None)
    channels = prompt_channels(prompts, (5, 5), (1.0, 1.0))
    assert channels[0, 0, 2] == pytest.approx(np.exp(-0.5))
    assert channels[2].sum() == 2


def test_boxes():
    mask = np.zeros((5, 6, 7), bool)
    mask[1:3, 2:5, 3] = True
    assert tight_box(mask) == ((1, 2, 3), (3, 5, 4))
    assert jittered_box(((1, 2, 3), (3, 5, 4)), (5, 6, 7), 0, np.random.default_rng(0)) == ((1, 2, 3), (3, 5, 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_jittered_boxes_stay_within_their_bounds(seed: int, largest: int):
    mask = blob(seed)
    box = tight_box(mask)
    start, stop = jittered_box(box, mask.shape, largest, np.random.default_rng(seed))
    for a, b, c, d, size in zip(start, stop, *box, mask.shape, strict=True):
        assert 0 <= a < b <= size
        assert abs(a - c) <= largest
        assert abs(b - d) <= largest + 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000))
def test_prompts_lie_where_they_say(seed: int):
    mask = blob(seed)
    random = np.random.default_rng(seed)
    assert mask[central_point(mask)]
    start, stop = flat_box(mask, random)
    assert 1 in np.subtract(stop, start)
    assert mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].any()
    one, two = longest_diameter(mask)
    assert mask[one]
    assert mask[two]
    assert one[0] == two[0]
    prompts = draw_prompts(mask, mask.shape, random)
    assert prompts.boxes or prompts.inside
    for point in prompts.outside:
        assert not mask[tuple(int(value) for value in point)]


def test_the_same_generator_gives_the_same_prompts():
    mask = blob(3)
    one, two = (draw_prompts(mask, mask.shape, np.random.default_rng(5)) for _ in range(2))
    assert (one.inside, one.outside, one.boxes) == (two.inside, two.outside, two.boxes)


def test_middle_of_an_object_is_not_its_centre_of_mass():
    mask = np.zeros((3, 9, 9), bool)
    mask[1, 0:9, 0:3] = mask[1, 0:9, 6:9] = mask[1, 6:9, :] = True  # a U, whose centre is outside of it
    assert mask[central_point(mask)]
    cube = np.zeros((7, 7, 7), bool)
    cube[1:6, 1:6, 1:6] = True
    assert central_point(cube) == (3, 3, 3)


def test_longest_diameter_by_pencil():
    mask = np.zeros((3, 20, 20), bool)
    mask[0, 5, 5] = True
    mask[1, 4:6, 2:17] = True
    one, two = longest_diameter(mask)
    assert {one[0], two[0]} == {1}
    assert {one[2], two[2]} == {2, 16}
    assert line_points(((0, 0, 0), (0, 0, 4)), 2.0) == ((0, 0, 0), (0, 0, 2), (0, 0, 4))


def test_corrections_go_where_it_is_wrong_the_most():
    reference = np.zeros((9, 9), bool)
    reference[1:8, 1:4] = True
    found = np.zeros_like(reference)
    found[1:3, 1:4] = True
    found[4:7, 6:9] = True
    assert corrections(reference, found, 2) == [((4, 2), True), ((5, 7), False)]
    assert correction(reference, found) == ((4, 2), True)
    assert correction(reference, reference) is None
    prompts = with_clicks(GridPrompts(), corrections(reference, found, 2))
    assert prompts.inside == ((4.0, 2.0),)
    assert prompts.outside == ((5.0, 7.0),)


def test_objects_are_classes_or_their_parts():
    two = np.zeros((5, 5), bool)
    two[0, 0] = two[4, 3:] = True
    random = np.random.default_rng(0)
    sizes = {int(draw_object([two, np.zeros_like(two)], random).sum()) for _ in range(50)}  # type: ignore[union-attr]
    assert sizes == {1, 2, 3}
    assert draw_object([np.zeros_like(two)], random) is None
    prompts = draw_prompts(None, (5, 5), random)
    assert prompts.outside
    assert not prompts.inside
