"""Boxes of labels, boundary IoU, clDice and lesion detection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import find_objects

from medseg.errors import UsageError
from medseg.metrics import LesionDetection, boundary_iou, cldice, lesion_detection
from medseg.metrics.masks import label_boxes


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(0, 3)))
@settings(max_examples=50, deadline=None)
def test_boxes_are_those_of_scipy(array: np.ndarray) -> None:
    expected = {value: box for value, box in enumerate(find_objects(array), 1) if box is not None}
    assert label_boxes(array) == expected


def test_boxes_of_any_value() -> None:
    array = np.array([[-5, 0, 2**40], [0, 0, 2**40]])
    assert label_boxes(array) == {
        -5: (slice(0, 1), slice(0, 1)),
        2**40: (slice(0, 2), slice(2, 3)),
    }


def test_boundary_iou_of_squares_by_pencil() -> None:
    reference, prediction = np.zeros((9, 9), int), np.zeros((9, 9), int)
    reference[2:7, 2:7], prediction[2:7, 2:6] = 1, 1
    # Rims one pixel wide: 16 and 14 pixels; they share the left side and most of top and bottom, 5 + 3 + 3.
    assert boundary_iou(prediction, reference, (1, 1), width_mm=1) == 11 / (16 + 14 - 11)
    assert boundary_iou(prediction, reference, (1, 1), width_mm=9) == 20 / 25  # all rim: plain IoU
    assert boundary_iou(reference, reference, (1, 1), width_mm=1.5) == 1


def test_boundary_iou_is_measured_in_mm() -> None:
    reference = np.ones((3, 7, 7), int)
    hollow = reference.copy()
    hollow[1, 2:5, 2:5] = 0
    # Slices 5 mm apart: the rim is the outer two rings of each slice, which the hole does not touch.
    assert boundary_iou(hollow, reference, (5.0, 1.0, 1.0), width_mm=2) == 1
    # Slices 1 mm apart: top and bottom are near enough for every voxel to belong to the rim.
    assert boundary_iou(hollow, reference, (1.0, 1.0, 1.0), width_mm=2) == (147 - 9) / 147
    with pytest.raises(UsageError, match="thinner than a voxel"):
        boundary_iou(reference, reference, (5.0, 1.0, 1.0), width_mm=0.5)


def test_cldice_of_tubes() -> None:
    tube = np.zeros((7, 7, 30), bool)
    tube[2:5, 2:5, :] = True
    thin, half = np.zeros_like(tube), tube.copy()
    thin[3, 3, :] = True
    half[:, :, 15:] = False
    assert cldice(thin, tube) == 1  # width does not matter
    assert cldice(half, tube) == pytest.approx(2 / 3, abs=0.05)  # all of one centreline, half of the other
    assert cldice(np.roll(thin, 3, axis=0), thin) == 0


def test_cldice_keeps_blocks_that_thinning_erases() -> None:
    block = np.zeros((6, 6, 6), bool)
    block[1:3, 1:3, 1:3] = True
    assert cldice(block, block) == 1
    beside = block.copy()
    beside[3:5, 4:6, 4:6] = True
    assert cldice(beside, block) == pytest.approx(2 / 3)  # one of two components is invented


def test_lesions_by_pencil() -> None:
    reference, prediction = np.zeros((12, 12), int), np.zeros((12, 12), int)
    reference[0:2, 0:2] = prediction[0:2, 0:2] = 1  # found
    reference[5:7, 0:4], prediction[5:7, 2:6] = 1, 1  # touched: IoU 1/3
    reference[10, 10] = 1  # missed
    prediction[0, 8] = prediction[1, 9] = 1  # invented, one by its corner
    assert lesion_detection(prediction, reference) == LesionDetection(tp=1, fp=2, fn=2)
    found = lesion_detection(prediction, reference, min_iou=1 / 3)
    assert found == LesionDetection(tp=2, fp=1, fn=1)
    assert (found.precision, found.recall, found.f1) == (2 / 3, 2 / 3, 2 / 3)


def test_lesions_pair_one_to_one() -> None:
    reference, prediction = np.zeros((1, 9, 1), int), np.zeros((1, 9, 1), int)
    reference[0, 0:9] = 1
    prediction[0, [0, 1, 2, 4, 5, 6, 8]] = 1  # one lesion in three pieces is found once
    assert lesion_detection(prediction, reference, min_iou=0.1) == LesionDetection(tp=1, fp=2, fn=0)
    assert lesion_detection(reference, prediction, min_iou=0.1) == LesionDetection(tp=1, fp=0, fn=2)


@pytest.mark.parametrize("min_iou", [0, -0.5, 1.5, float("nan")])
def test_wrong_min_iou(min_iou: float) -> None:
    with pytest.raises(UsageError, match="min_iou"):
        lesion_detection(np.ones((1, 1)), np.ones((1, 1)), min_iou)
