"""What label values mean, and the way between values in files and indices inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.errors import DocumentError, LabelError
from medseg.labels import LabelSet, value_counts


def test_plain_labels_by_hand() -> None:
    labels = LabelSet.parse({"background": 0, "tumour": 7, "liver": 2})
    assert labels.classes == {"tumour": (7,), "liver": (2,)}
    assert labels.names == ("tumour", "liver")
    assert labels.values == (2, 7)
    assert labels.class_indices == ((2,), (1,))
    assert (labels.output_count, labels.entry_count, labels.ignore_index) == (3, 3, None)
    assert labels.meaning == {"tumour": 7, "liver": 2}
    encoded = labels.encode(np.array([0, 2, 7, 2], np.uint8), "case")
    assert (encoded.tolist(), encoded.dtype) == ([0, 1, 2, 1], np.int16)
    assert labels.decode(encoded).tolist() == [0, 2, 7, 2]


def test_the_decathlon_lists_names_by_value() -> None:
    assert LabelSet.parse({"0": "background", "1": "liver", "2": "cancer"}).classes == {"liver": (1,), "cancer": (2,)}
    assert LabelSet.parse({"0": "Background", "255": "nucleus"}).classes == {"nucleus": (255,)}
    assert LabelSet.parse({"0": "clear", "1": "liver"}).classes == {"liver": (1,)}


def test_regions_by_hand() -> None:
    # BraTS: whole tumour is 1, 2 and 3; the core 2 and 3; the enhancing part 3.
    labels = LabelSet.parse({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, (1, 2, 3))
    assert labels.has_regions
    assert labels.values == (1, 2, 3)
    assert labels.class_indices == ((1, 2, 3), (2, 3), (3,))
    assert labels.region_order_indices == (1, 2, 3)
    assert (labels.output_count, labels.entry_count) == (3, 4)
    assert labels.meaning["whole"] == (1, 2, 3)


def test_ignore_label_and_a_background_that_is_not_zero() -> None:
    labels = LabelSet.parse({"Background": 4, "organ": 1, "ignore": -1})
    assert (labels.background, labels.ignore, labels.ignore_index) == (4, -1, 2)
    assert labels.encode(np.array([4, 1, -1], np.int8), "case").tolist() == [0, 1, 2]
    assert labels.decode(np.array([0, 1, 2])).tolist() == [4, 1, -1]
    assert labels.dtype == np.int16
    assert labels.output_count == 2
    assert labels.entry_count == 3


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, 255], np.uint8), ([1, 256], np.uint16), ([-1, 255], np.int16), ([1, 70_000], np.int32), ([2**40], np.int64)],
)
def test_smallest_type(values: list[int], dtype: type) -> None:
    assert LabelSet({f"class {value}": (value,) for value in values}).dtype == dtype


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_decode_undoes_encode_for_any_values(data: st.DataObject) -> None:
    span = data.draw(st.sampled_from([300, 2**31 - 1]))
    values = data.draw(st.lists(st.integers(-span - 1, span), min_size=2, max_size=6, unique=True))
    background, *others = values
    labels = LabelSet({f"class {value}": (value,) for value in others}, background=background)
    array = data.draw(arrays(np.int32, (2, 3, 2), elements=st.sampled_from(values)))
    encoded = labels.encode(array, "case")
    assert encoded.min() >= 0
    assert encoded.max() < labels.output_count
    assert np.array_equal(labels.decode(encoded), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_every_integer_type_encodes(dtype: type) -> None:
    labels = LabelSet.parse({"background": 0, "a": 1, "b": 3})
    assert labels.encode(np.array([[3, 0, 1]], dtype), "case").tolist() == [[2, 0, 1]]
    assert labels.encode(np.zeros((0, 2), dtype), "case").shape == (0, 2)


def test_undeclared_values_are_named_and_counted() -> None:
    labels = LabelSet.parse({"background": 0, "a": 1})
    with pytest.raises(LabelError, match=r"^case_1: .*: 7 \(2 voxels\), 9 \(1 voxels\); declared are \[0, 1\]"):
        labels.encode(np.array([7, 0, 7, 1, 9], np.uint8), "case_1")
    with pytest.raises(LabelError, match=r"2147483000 \(1 voxels\)"):
        labels.encode(np.array([0, 2147483000, -5], np.int32), "case_1")
    with pytest.raises(LabelError, match=r"\.\.\.;"):
        labels.encode(np.arange(20, dtype=np.uint8), "case_1")


def test_value_counts() -> None:
    assert value_counts(np.array([[5, -1], [5, 0]], np.int16)) == {-1: 1, 0: 1, 5: 2}
    assert value_counts(np.array([[2**31 - 1, 0], [0, 0]], np.int32)) == {0: 3, 2**31 - 1: 1}


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        ({}, None, "no foreground label"),
        ({"background": 0}, None, "no foreground label"),
        ({"background": 0, "a": 0}, None, "values of their own"),
        ({"background": 0, "a": 1, "ignore": 1}, None, "values of their own"),
        ({"background": 0, "a": 1, "b": 1}, None, "two names"),
        ({"background": 0, "a": []}, None, "without values"),
        ({"background": 0, "a": 1.5}, None, "integer"),
        ({"background": 0, "a": True}, None, "integer"),
        ({"background": 0, "a": None}, None, "integer"),
        ({"background": [0, 4], "a": 1}, None, "single values"),
        ({"0": "background", "1": "a", "2": "a"}, None, "used twice"),
        ({"zero": "background", "1": "a"}, None, "integer"),
        ({"background": 0, "a": [1, 2]}, None, "regions_class_order with 1"),
        ({"background": 0, "a": [1, 2]}, (5,), "no class covers"),
    ],
)
def test_labels_that_make_no_sense(labels: dict, order: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        LabelSet.parse(labels, order)
