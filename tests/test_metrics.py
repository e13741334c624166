"""The table of one case: pencil answers, labels and regions, empty masks as the documentation says, wrong arguments."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medseg import metrics
from medseg.errors import UsageError
from medseg.metrics import COLUMNS, compare

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
SPACING = (3.0, 0.5, 2.0)
ON_REQUEST = (
    *("hausdorff99_mm", "surface_dice_2mm", "boundary_iou_2mm"),
    *("cldice", "lesion_f1", "lesion_precision", "lesion_recall"),
)


def block(shape: tuple[int, ...], *corners: tuple[int, int]) -> np.ndarray:
    """Ones from corner to corner, zeros elsewhere."""
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(*corner) for corner in corners)] = 1
    return array


def documented(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of docs/metrics.md, without its head."""
    section = DOCUMENT.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_pencil_counts_volumes_and_ratios() -> None:
    reference = block((4, 6, 8), (1, 3), (1, 5), (2, 4))  # 2 * 4 * 2 = 16 voxels of 3 mm³
    prediction = block((4, 6, 8), (1, 3), (1, 5), (3, 6))  # 2 * 4 * 3 = 24 voxels, 8 of them shared
    row = compare(prediction, reference, SPACING).iloc[0]
    assert (row.label, row.tp, row.fp, row.fn, row.tn) == (1, 8, 16, 8, 192 - 32)
    assert row.dice == 16 / 40
    assert row.iou == 8 / 32
    assert row.precision == 8 / 24
    assert row.recall == 8 / 16
    assert row.volume_ml == pytest.approx(24 * 3 / 1000)
    assert row.reference_volume_ml == pytest.approx(16 * 3 / 1000)
    assert row.volume_error_ml == pytest.approx(8 * 3 / 1000)
    assert row.hausdorff_mm == 2 * 2.0  # the far face moved by two voxels of 2 mm
    assert row.surface_dice == compare(prediction, reference, SPACING, tolerance_mm=1.9).surface_dice[0] < 1
    assert compare(prediction, reference, SPACING, tolerance_mm=4).surface_dice[0] == 1


def test_equal_masks_agree_fully() -> None:
    array = block((3, 5, 4), (0, 2), (0, 5), (1, 4))
    row = compare(array, array, SPACING).iloc[0]
    assert row[["dice", "iou", "precision", "recall", "surface_dice"]].tolist() == [1] * 5
    assert row[["hausdorff_mm", "hausdorff95_mm", "assd_mm", "volume_error_ml"]].tolist() == [0] * 4


def test_columns_and_their_documentation() -> None:
    table = compare(np.ones((1, 2, 3), int), np.ones((1, 2, 3), int), (1, 1, 1))
    assert tuple(table.columns) == COLUMNS
    assert COLUMNS[:11] == (
        *("label", "dice", "iou", "precision", "recall", "volume_ml", "reference_volume_ml"),
        *("hausdorff_mm", "hausdorff95_mm", "assd_mm", "surface_dice"),
    )
    named = [name for row in documented("Columns of `compare`") for name in re.findall(r"`(\w+)`", row[0])]
    assert tuple(named) == COLUMNS
    functions = [re.match(r"`(\w+)\(", row[0]) for row in documented("Other functions")]
    assert all(match and match[1] in metrics.__all__ for match in functions)


def test_labels_by_default_are_all_above_zero_in_either() -> None:
    reference = np.array([[[0, 1, 300, -1]]], np.int16)
    prediction = np.array([[[7, 1, 0, -1]]], np.int16)
    table = compare(prediction, reference, (1, 1, 1))
    assert table.label.tolist() == [1, 7, 300]
    assert table.label.dtype == np.int64


def test_labels_keep_their_order_and_background_counts_where_asked() -> None:
    reference = np.array([[[0, 0, 1, 2, 2]]], np.uint8)
    table = compare(reference, reference, (1, 1, 1), labels=np.array([2, 0, 9])).set_index("label")
    assert table.index.tolist() == [2, 0, 9]
    assert table.tp.tolist() == [2, 2, 0]
    assert np.isnan(table.dice[9])


def test_named_regions_are_unions() -> None:
    reference = np.zeros((6, 7, 8), np.uint8)
    reference[1:3, 1:4, 1:4], reference[1:3, 1:4, 4:6], reference[4:, 5:, 5:] = 1, 2, 3
    prediction = np.roll(reference, 1, axis=1)
    labels = {"kidney": 1, "whole": (1, 2), "scattered": [1, 3]}
    table = compare(prediction, reference, SPACING, labels=labels)
    assert table.label.tolist() == list(labels)
    for row, values in zip(table.itertuples(index=False), ([1], [1, 2], [1, 3]), strict=True):
        masks = np.isin(prediction, values).astype(int), np.isin(reference, values).astype(int)
        expected = compare(*masks, SPACING).iloc[0]
        assert list(row)[1:] == expected.tolist()[1:]


def test_no_labels_make_an_empty_table() -> None:
    table = compare(np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 1, 1))
    assert len(table) == 0
    assert tuple(table.columns) == COLUMNS


@pytest.mark.parametrize("kind", [np.bool_, np.uint16, np.int64, np.float32, np.float64, ">i2"])
def test_any_integer_values_in_any_layout(kind: type) -> None:
    reference = block((4, 5, 6), (1, 3), (1, 4), (2, 5))
    prediction = np.roll(reference, 1, axis=2)
    expected = compare(prediction, reference, SPACING)
    found = compare(np.asfortranarray(prediction.astype(kind)), reference.astype(kind)[:, ::1], SPACING)
    pd.testing.assert_frame_equal(found, expected)


def test_images_have_contours_and_no_volume() -> None:
    reference, prediction = block((5, 9), (1, 4), (1, 4)), block((5, 9), (1, 4), (1, 6))
    row = compare(prediction, reference, (2.0, 1.5)).iloc[0]
    assert row.hausdorff_mm == 2 * 1.5
    assert (row.tp, row.fp) == (9, 6)
    assert np.isnan(row.volume_ml)
    assert np.isnan(row.reference_volume_ml)


def test_a_volume_of_one_slice_is_a_slab() -> None:
    reference, prediction = block((1, 5, 9), (0, 1), (1, 4), (1, 4)), block((1, 5, 9), (0, 1), (1, 4), (1, 6))
    row = compare(prediction, reference, (4.0, 2.0, 1.5)).iloc[0]
    assert row.hausdorff_mm == 2 * 1.5
    assert row.volume_ml == pytest.approx(15 * 12 / 1000)


def test_empty_masks_give_what_the_documentation_says() -> None:
    empty, filled = np.zeros((4, 5, 6), np.uint8), block((4, 5, 6), (1, 3), (0, 2), (2, 6))
    volume = 16 * 3.0 / 1000
    names = {"NaN": np.nan, "inf": np.inf, "0": 0.0, "size": 16.0, "volume": volume, "-volume": -volume}
    pairs = {"both": (empty, empty), "prediction": (empty, filled), "reference": (filled, empty)}
    found = {}
    for pair, masks in pairs.items():
        found[pair] = compare(*masks, SPACING, labels=[1], metrics=ON_REQUEST).iloc[0].to_dict()
        found[pair]["mean_iou"] = metrics.mean_iou(*masks, labels=[1])
        found[pair]["boundary_iou"] = metrics.boundary_iou(*masks, SPACING, width_mm=3)
        found[pair]["cldice"] = metrics.cldice(*masks)
        lesions = metrics.lesion_detection(*masks)
        found[pair] |= {f"lesion_detection.{name}": getattr(lesions, name) for name in ("f1", "precision", "recall")}
    table = documented("Empty masks")
    assert {row[0].strip("`") for row in table} == found["both"].keys() - {"label", "tn"}
    for name, *cells in table:
        for pair, cell in zip(pairs, cells, strict=True):
            assert found[pair][name.strip("`")] == pytest.approx(names[cell], nan_ok=True), (name, pair)
    for pair, (prediction, reference) in pairs.items():
        assert found[pair]["tn"] == np.count_nonzero((prediction == 0) & (reference == 0))


def test_single_functions_agree_with_the_table() -> None:
    reference = block((8, 9, 10), (1, 6), (2, 7), (3, 9))
    prediction = np.roll(reference, (1, -1, 1), (0, 1, 2))
    row = compare(prediction, reference, SPACING, tolerance_mm=2.5).iloc[0]
    distances = metrics.surface_distances(prediction, reference, SPACING)
    counts = metrics.overlap(prediction, reference)
    assert row.hausdorff_mm == metrics.hausdorff_mm(distances)
    assert row.hausdorff95_mm == metrics.hausdorff_mm(distances, 95)
    assert row.assd_mm == metrics.assd_mm(distances)
    assert row.surface_dice == metrics.surface_dice(distances, 2.5)
    assert (row.tp, row.fp, row.fn, row.tn) == (counts.tp, counts.fp, counts.fn, counts.tn)
    assert row.iou == metrics.mean_iou(prediction, reference)


def test_mean_iou_leaves_out_what_neither_has() -> None:
    reference, prediction = np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 0]])
    assert metrics.mean_iou(prediction, reference, labels=[1, 2, 3]) == 0.5
    assert metrics.mean_iou(prediction, reference, labels=[0, 1]) == 0.75


def test_columns_on_request_are_the_functions_of_their_names() -> None:
    reference = block((8, 9, 10), (1, 6), (2, 7), (3, 9))
    prediction = np.roll(reference, (1, -1, 1), (0, 1, 2))
    prediction[7, 0, 0] = 1
    asked = (*ON_REQUEST, "hausdorff50_mm", "surface_dice_0.25mm")
    table = compare(prediction, reference, SPACING, metrics=asked)
    assert tuple(table.columns) == (*COLUMNS, *asked)
    row, distances = table.iloc[0], metrics.surface_distances(prediction, reference, SPACING)
    assert row.hausdorff99_mm == metrics.hausdorff_mm(distances, 99)
    assert row.hausdorff50_mm == metrics.hausdorff_mm(distances, 50) < row.hausdorff95_mm
    assert row.surface_dice_2mm == metrics.surface_dice(distances, 2)
    assert row["surface_dice_0.25mm"] == metrics.surface_dice(distances, 0.25) < row.surface_dice_2mm
    assert row.boundary_iou_2mm == metrics.boundary_iou(prediction, reference, SPACING, 2)
    assert row.cldice == metrics.cldice(prediction, reference)
    lesions = metrics.lesion_detection(prediction, reference, 0.5)
    assert (lesions.tp + lesions.fn, lesions.fp + lesions.tp) == (1, 2)
    assert np.array_equal(
        row[["lesion_f1", "lesion_precision", "lesion_recall"]].to_numpy(float),
        [lesions.f1, lesions.precision, lesions.recall],
    )
    named = [name for cells in documented("Columns on request") for name in re.findall(r"`(\w+)`", cells[0])]
    assert tuple(named) == ON_REQUEST


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dize", "not known"),
        ("hausdorff0_mm", "out of range"),
        ("hausdorff101_mm", "out of range"),
        ("surface_dice_0mm", "out of range"),
        ("surface_dice_-1mm", "not known"),
        ("boundary_iou_0.4mm", "thinner than a voxel"),
        ("", "not known"),
    ],
)
def test_columns_that_cannot_be_had(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compare(ONES, ONES, SPACING, metrics=[name])


ONES = np.ones((2, 3, 4), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((ONES, ONES[:1], (1, 1, 1)), r"prediction \(2, 3, 4\) and reference \(1, 3, 4\)"),
        ((ONES[None], ONES[None], (1, 1, 1, 1)), r"\(1, 2, 3, 4\)"),
        ((ONES[0, 0], ONES[0, 0], (1,)), r"\(4,\)"),
        ((ONES[:0], ONES[:0], (1, 1, 1)), r"\(0, 3, 4\)"),
        ((ONES * 0.5, ONES, (1, 1, 1)), "prediction must hold integer label values, found float64"),
        ((ONES, ONES * np.nan, (1, 1, 1)), "reference must hold integer"),
        ((ONES, ONES * np.inf, (1, 1, 1)), "reference must hold integer"),
        ((ONES, ONES.astype(complex), (1, 1, 1)), "complex"),
        ((ONES, ONES, (1, 1)), r"expected 3 positive spacings"),
        ((ONES, ONES, (1, 0, 1)), r"\(1.0, 0.0, 1.0\)"),
        ((ONES, ONES, (1, np.nan, 1)), "nan"),
        ((ONES, ONES, (1, -2, 1)), "-2.0"),
        ((ONES, ONES, (1, np.inf, 1)), "inf"),
        ((ONES, ONES, (1, 1, 1), None, 0), "tolerance_mm"),
        ((ONES, ONES, (1, 1, 1), None, -1.0), "tolerance_mm"),
        ((ONES, ONES, (1, 1, 1), None, np.inf), "tolerance_mm"),
        ((ONES, ONES, (1, 1, 1), ["one"]), "one"),
        ((ONES, ONES, (1, 1, 1), [1.5]), "1.5"),
        ((ONES, ONES, (1, 1, 1), 3), "labels as integers"),
        ((ONES, ONES, (1, 1, 1), {"organ": ()}), "organ"),
        ((ONES, ONES, (1, 1, 1), {"organ": "12"}), "organ"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(arguments: tuple, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        compare(*arguments)
    assert str(caught.value).startswith("metrics: ")
    assert "\n" not in str(caught.value)
