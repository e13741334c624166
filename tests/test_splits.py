"""Splits: nnU-Net's own where cases stand alone, patients kept together where they do not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import DocumentError, UsageError
from medseg.splits import Split, check_splits, load_splits, make_splits, save_splits

CASES = [f"case_{i:02d}" for i in range(12)]


def test_ten_cases_in_the_order_of_the_generator():
    # RandomState(12345) shuffles 0..9 to 0 7 3 9 6 4 1 8 5 2; two neighbours are one fold. scikit-learn gives the same.
    validation = [split.validation for split in make_splits("abcdefghij")]
    assert validation == [("a", "h"), ("d", "j"), ("e", "g"), ("b", "i"), ("c", "f")]


def test_splits_equal_those_of_nnunet(shared):
    published = load_splits(shared / "hippocampus_splits.json")
    cases = {name for split in published for name in (*split.train, *split.validation)}
    assert make_splits(sorted(cases, reverse=True)) == published


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("Dataset001_BrainTumour", [f"BRATS_{i:03d}" for i in range(1, 485)]),
        ("Dataset003_Liver", [f"liver_{i}" for i in range(131)]),
    ],
)
def test_the_first_fold_of_published_results(shared, dataset, names):
    summary = json.loads((shared / "golden_plans_msd" / dataset / "nnunet_fold0_summary.json").read_text())
    validated = sorted(case["reference_file"].removesuffix(".nii.gz") for case in summary["metric_per_case"])
    assert list(make_splits(names)[0].validation) == validated


def test_fewer_cases_than_folds_leave_one_out():
    splits = make_splits("abc")
    assert sorted(split.validation for split in splits) == [("a",), ("b",), ("c",)]
    assert all(len(split.train) == 2 for split in splits)


@pytest.mark.parametrize(
    ("cases", "groups", "folds", "message"),
    [
        (["only"], None, 5, "1 training cases of 1 patients; cases of at least 2 patients are needed"),
        ([], None, 5, "0 training cases"),
        (["a", "b"], {"a": "p", "b": "p"}, 5, "2 training cases of 1 patients"),
        (["a", "b"], None, 1, "at least 2 folds, found 1"),
        (["a", "a", "b"], None, 5, "named twice"),
    ],
)
def test_what_cannot_be_split_is_refused(cases, groups, folds, message):
    with pytest.raises(UsageError, match=message):
        make_splits(cases, groups, folds)


def test_patients_of_one_case_each_change_nothing():
    assert make_splits(CASES, {case: f"patient of {case[::-1]}" for case in CASES}) == make_splits(CASES)


def test_a_patient_with_many_cases_fills_a_fold_alone():
    groups = dict.fromkeys(CASES[:6], "much imaged")
    splits = make_splits(CASES, groups, folds=3)
    assert tuple(CASES[:6]) in [split.validation for split in splits]
    assert sorted(len(split.validation) for split in splits) == [3, 3, 6]


def test_a_case_without_patient_is_not_taken_for_the_patient_of_that_name():
    splits = make_splits(["a", "b", "c"], {"b": "a"})
    assert len(splits) == 3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=40), st.integers(2, 6), st.integers(0, 99))
def test_every_case_validates_once_and_no_patient_straddles(owners, folds, seed):
    cases = [f"case_{i:03d}" for i in range(len(owners))]
    groups = {case: f"patient_{owner}" for case, owner in zip(cases, owners, strict=True)}
    sizes = [owners.count(owner) for owner in set(owners)]
    if len(sizes) < 2:
        return
    splits = make_splits(cases, groups, folds, seed)
    assert len(splits) == min(folds, len(sizes))
    assert sorted(case for split in splits for case in split.validation) == cases
    assert all(sorted((*split.train, *split.validation)) == cases for split in splits)
    check_splits(splits, cases, groups)
    validated = [len(split.validation) for split in splits]
    assert max(validated) - min(validated) <= max(sizes)
    assert splits == make_splits(reversed(cases), groups, folds, seed)


def test_splits_survive_their_file(tmp_path):
    splits = make_splits(CASES)
    save_splits(splits, tmp_path / "splits.json")
    assert load_splits(tmp_path / "splits.json") == splits
    written = json.loads((tmp_path / "splits.json").read_text())
    assert len(written) == 5
    assert set(written[0]) == {"train", "val"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"train": ["a"]}]', "fold 0: expected train and val, found train"),
        ('[{"train": ["a"], "val": [1]}]', "expected text, found 1"),
        ('{"train": ["a"], "val": ["b"]}', "expected a list"),
        ("[", "not valid JSON"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, content, message):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(DocumentError, match=message):
        load_splits(path)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([], "there are none"),
        ([Split((), ("a",))], "fold 0: train is empty"),
        ([Split(("a",), ())], "fold 0: val is empty"),
        (
            [Split(("a", "c"), ("b",)), Split(("a",), ("x", "y", "z", "w"))],
            "fold 1: the dataset has no case 'w', 'x', 'y' and 1",
        ),
        ([Split(("a", "b"), ("b",))], "'b' in train and in val"),
        ([Split(("a",), ("c",))], "cases of 'p' are in train and in val"),
    ],
)
def test_splits_that_cannot_be_trained_with_are_refused(splits, message):
    with pytest.raises(DocumentError, match=message):
        check_splits(splits, "abc", {"a": "p", "c": "p"})
