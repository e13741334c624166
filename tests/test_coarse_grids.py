"""What labels lose on coarser grids: cases with a pencil, then properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medseg.coarse_grids import FACTORS, coarse_dice, coarser_spacing

ISOTROPIC = (1.0, 1.0, 1.0)


def dice_of(labels: np.ndarray, spacing_mm=ISOTROPIC, classes=((1,),)) -> dict[float, float]:
    """Dice of the first class by factor."""
    found = coarse_dice(labels, classes, spacing_mm)[0]
    assert found is not None
    return dict(zip(FACTORS, found, strict=True))


def test_axes_that_are_coarse_already_stay():
    assert coarser_spacing((5.0, 1.0, 1.5), 2.0) == (5.0, 2.0, 2.0)
    assert coarser_spacing((5.0, 1.0, 1.0), 6.0) == (6.0, 6.0, 6.0)


def test_a_half_space_on_the_edges_of_cells_loses_nothing():
    """12 voxels are 8, 6, 4 and 3 cells; up to factor 3 the edge at 6 is also one of cells, with 4 it is a middle."""
    labels = np.zeros((12, 12, 12), np.int16)
    labels[:, :, :6] = 1
    assert set(dice_of(labels).values()) == {1.0}


def test_a_slab_between_cells_is_lost_and_one_in_a_cell_is_kept():
    """Factor 2: a slab of two voxels that fills a cell is 0.75 in both; across two cells it is nowhere above 0.5."""
    inside, across = np.zeros((2, 1, 1, 12), np.int16)
    inside[..., 4:6] = across[..., 5:7] = 1
    assert dice_of(inside)[2.0] == 1.0
    assert dice_of(across)[2.0] == 0.0


def test_a_line_of_one_voxel_vanishes():
    """At factor 3 it is a ninth of its cells."""
    labels = np.zeros((12, 12, 12), np.int16)
    labels[4, 4, :] = 1
    assert dice_of(labels)[3.0] == 0.0
    assert dice_of(labels)[4.0] == 0.0


def test_a_coarse_axis_keeps_structures_of_one_slice():
    """Slices 3 mm apart stay until the grid is coarser than that."""
    labels = np.zeros((10, 12, 12), np.int16)
    labels[4] = 1
    dice = dice_of(labels, (3.0, 1.0, 1.0))
    assert [dice[factor] for factor in (1.5, 2.0, 3.0)] == [1.0] * 3
    assert dice_of(labels)[3.0] == 0.0


def test_each_class_is_judged_alone():
    labels = np.zeros((12, 12, 12), np.int16)
    labels[:, :, :6] = 1
    labels[4, 4, 8:] = 2
    thick, thin, nothing, both = coarse_dice(labels, [(1,), (2,), (3,), (1, 2)], ISOTROPIC)
    assert thick == (1.0,) * 4
    assert thin is not None
    assert thin[2] == 0.0
    assert nothing is None
    assert both is not None
    # at factor 3 the region keeps 12 x 12 x 6 voxels, and the line adds at most itself
    assert 2 * 864 / (2 * 864 + 4) <= both[2] < 1


def test_without_labels_there_is_nothing_to_tell():
    assert coarse_dice(np.zeros((4, 4, 4), np.int16), [(1,), (2,)], ISOTROPIC) == (None, None)
    assert coarse_dice(np.ones((1, 1, 1), np.int16), [(1,)], ISOTROPIC) == (None,)


@pytest.mark.parametrize("slice_mm", [0.01, 1.0, 999.0])
def test_an_axis_of_one_voxel_counts_for_nothing(slice_mm):
    labels = np.zeros((1, 12, 12), np.int16)
    labels[0, 3:8, 2:9] = 1
    flat = dice_of(labels, (slice_mm, 1.0, 1.0))
    assert flat == dice_of(labels)
    assert flat[4.0] < 1.0


def test_a_long_structure_is_judged_by_its_middle():
    labels = np.zeros((1, 12, 400), np.int16)
    labels[:, :6, 20:380] = 1
    assert set(dice_of(labels).values()) == {1.0}


@pytest.mark.parametrize("far", [20, 390])
def test_thin_parts_far_apart_are_seen(far):
    """Nothing of the class is in the middle of its box."""
    labels = np.zeros((12, 12, 400), np.int16)
    labels[4, 4, 5:15] = labels[7, 7, far:] = 1
    assert dice_of(labels)[3.0] == 0.0


shapes = arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=14)


@given(
    labels=shapes.flatmap(lambda shape: arrays.arrays(np.int16, shape, elements=st.integers(0, 2))),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_it_is_a_dice_for_every_class_that_is_there(labels, spacing):
    found = coarse_dice(labels, [(1,), (2,), (1, 2)], spacing)
    for indices, dice in zip([(1,), (2,), (1, 2)], found, strict=True):
        there = np.isin(labels, indices).any() and labels.size > 1
        assert (dice is not None) == there
        assert dice is None or (len(dice) == len(FACTORS) and all(0 <= value <= 1 for value in dice))


@given(planes=st.lists(st.integers(0, 1), min_size=2, max_size=12).filter(any), slice_mm=st.floats(4.0, 9.0))
@settings(max_examples=30, deadline=None)
def test_nothing_is_lost_where_the_grid_does_not_change(planes, slice_mm):
    """Labels that vary along the coarse axis alone."""
    labels = np.broadcast_to(np.array(planes, np.int16)[:, None, None], (len(planes), 8, 8)).copy()
    assert set(dice_of(labels, (slice_mm, 1.0, 1.0)).values()) == {1.0}
