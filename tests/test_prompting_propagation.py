"""Volumes from prompts on few slices, with an oracle that segments what lies in a box."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.prompting.slices.prompts import SlicePrompts
from medseg.prompting.slices.propagation import StoppingRule, between, box_around, propagate, recist_box


def ball(shape=(21, 40, 40), centre=(10, 20, 20), radius=8.0, squeeze=1.0) -> np.ndarray:
    z, y, x = np.ogrid[tuple(slice(size) for size in shape)]
    return ((z - centre[0]) / squeeze) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2


def oracle(scene: np.ndarray, asked: list[int] | None = None):
    """Segments what lies in the box: what a perfect engine would."""

    def segment(index: int, prompts: SlicePrompts) -> np.ndarray:
        if asked is not None:
            asked.append(index)
        mask = np.zeros(scene.shape[1:], bool)
        assert prompts.box is not None
        y0, x0, y1, x1 = prompts.box
        mask[y0:y1, x0:x1] = scene[index, y0:y1, x0:x1]
        return mask

    return segment


def test_one_box_becomes_the_object_and_nothing_beyond_it():
    scene = ball() | ball(centre=(10, 36, 36), radius=3)
    asked: list[int] = []
    box = (12, 12, 29, 29)
    found = propagate({10: SlicePrompts(box)}, oracle(scene, asked), (21, 40, 40))
    dice = 2 * (found & ball()).sum() / (found.sum() + ball().sum())
    assert dice > 0.97
    assert not found[:, 34:, 34:].any()
    assert max(asked) <= 19  # it did not go on to the end of the scan
    assert min(asked) >= 1


def test_it_stops_where_the_object_jumps_or_leaks():
    first = np.zeros((30, 30), bool)
    first[10:20, 10:20] = True
    rule = StoppingRule()
    assert not rule.stops(first, np.roll(first, 2, 0), 100)
    assert rule.stops(first, np.roll(first, 9, 0), 100)
    assert rule.stops(first, np.zeros_like(first), 100)
    leaked = np.ones((30, 30), bool)
    assert rule.stops(leaked, leaked, 100)


def test_what_lies_beside_the_end_of_an_object_is_not_followed():
    scene = np.zeros((20, 30, 30), bool)
    scene[5:11, 10:20, 10:20] = True
    scene[11:, 9, 9:21] = True  # something else, within the margin of the box
    found = propagate({8: SlicePrompts((10, 10, 20, 20))}, oracle(scene), scene.shape)  # type: ignore[arg-type]
    assert np.flatnonzero(found.any((1, 2))).tolist() == [5, 6, 7, 8, 9, 10]


def test_limits_are_kept():
    found = propagate({10: SlicePrompts((12, 12, 29, 29))}, oracle(ball()), (21, 40, 40), limits=(8, 13))
    assert np.flatnonzero(found.any((1, 2))).tolist() == [8, 9, 10, 11, 12]


def test_boxes_on_a_few_slices_are_interpolated():
    boxes = between({2: (0, 0, 10, 10), 6: (4, 8, 14, 18)})
    assert boxes == {
        2: (0, 0, 10, 10),
        3: (1, 2, 11, 12),
        4: (2, 4, 12, 14),
        5: (3, 6, 13, 16),
        6: (4, 8, 14, 18),
    }
    assert between({4: (1, 2, 3, 4)}) == {4: (1, 2, 3, 4)}


def test_between_two_points_the_slices_are_filled():
    seeds = {8: SlicePrompts((12, 12, 29, 29)), 12: SlicePrompts((12, 12, 29, 29))}
    found = propagate(seeds, oracle(ball()), (21, 40, 40))
    assert found[8:13].any((1, 2)).all()


@pytest.mark.parametrize(
    ("ends", "box"),
    [
        (((10, 4), (10, 16)), (5, 4, 16, 17)),  # 12 long, 9 wide: 10 +- 4.5
        (((4, 10), (16, 10)), (4, 5, 17, 16)),
        (((1, 0), (1, 12)), (0, 0, 7, 13)),  # cut at the edge
    ],
)
def test_the_box_of_a_longest_diameter(ends, box):
    assert recist_box(*ends, (20, 20)) == box


def test_a_box_around_a_mask():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:30] = True
    assert box_around(mask, 0.1) == (4, 8, 16, 30)
