"""A previous stage's mask made imperfect: shapes to check by hand, chances by counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.augmentation.previous_stage import (
    LABEL_PROBABILITY,
    MORPHOLOGY_PROBABILITY,
    RADIUS_VOXELS,
    REMOVAL_PROBABILITY,
    Disturbance,
    disturb,
    draw_disturbances,
)


def row(*values: int) -> torch.Tensor:
    """One sample (1, 1, 1, n)."""
    return torch.tensor(values, dtype=torch.int16).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        ("dilate", (0, 0, 1, 0, 0, 2), (0, 1, 1, 1, 0, 2)),
        ("dilate", (0, 0, 1, 2, 2, 2), (0, 1, 1, 1, 2, 2)),  # what is gained is taken from a neighbour
        ("erode", (0, 1, 1, 1, 0, 2), (0, 0, 1, 0, 0, 2)),
        ("erode", (0, 0, 1, 0, 0, 2), (0, 0, 0, 0, 0, 2)),
        ("close", (0, 0, 1, 0, 1, 0, 0, 0), (0, 0, 1, 1, 1, 0, 0, 0)),
        ("open", (0, 1, 0, 0, 1, 1, 1, 0), (0, 0, 0, 0, 1, 1, 1, 0)),
        ("dilate", (0, 2, 0), (0, 2, 0)),  # the label is not there
    ],
)
def test_labels_grow_and_shrink(operation, before, after):
    assert torch.equal(disturb(row(*before), (Disturbance(((1, operation, 1),)),)), row(*after))


def test_growth_is_by_a_ball():
    mask = torch.zeros(1, 9, 9, 9, dtype=torch.int16)
    mask[0, 4, 4, 4] = 1
    grown = disturb(mask, (Disturbance(((1, "dilate", 3),)),))[0]
    z, y, x = np.indices((9, 9, 9)) - 4
    assert torch.equal(grown == 1, torch.from_numpy(z**2 + y**2 + x**2 <= 9))


def test_components_vanish_but_not_the_large_ones():
    before = row(1, 0, 1, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2)  # one of thirteen is 8 %, four are 31 %
    assert torch.equal(
        disturb(before, (Disturbance(removals=((1, 0.0),)),))[0, 0, 0, :3], torch.tensor([0, 0, 1]).short()
    )
    assert torch.equal(
        disturb(before, (Disturbance(removals=((1, 0.9),)),))[0, 0, 0, :3], torch.tensor([1, 0, 0]).short()
    )
    assert torch.equal(disturb(before, (Disturbance(removals=((2, 0.0),)),)), before)


def test_the_input_stays_as_it_is():
    before = row(0, 1, 0)
    disturb(before, (Disturbance(((1, "dilate", 1),)),))
    assert torch.equal(before, row(0, 1, 0))


def test_chances_and_ranges():
    count, labels = 4000, 3
    drawn = draw_disturbances(count, labels, np.random.default_rng(0))
    # A sample is changed and at least one of its labels takes part.
    some = 1 - (1 - LABEL_PROBABILITY) ** labels
    for chosen, chance in (
        ([each for each in drawn if each.morphology], MORPHOLOGY_PROBABILITY * some),
        ([each for each in drawn if each.removals], REMOVAL_PROBABILITY * some),
    ):
        deviation = np.sqrt(count * chance * (1 - chance))
        assert abs(len(chosen) - count * chance) < 4 * deviation
    changes = [change for each in drawn for change in each.morphology]
    assert {label for label, _, _ in changes} == {1, 2, 3}
    assert {operation for _, operation, _ in changes} == {"dilate", "erode", "close", "open"}
    assert {radius for _, _, radius in changes} == set(range(RADIUS_VOXELS[0], RADIUS_VOXELS[1] + 1))


def test_the_same_generator_gives_the_same():
    assert draw_disturbances(9, 2, np.random.default_rng(3)) == draw_disturbances(9, 2, np.random.default_rng(3))
