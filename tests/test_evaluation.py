"""Predictions against references: pairs by name, the table, what failed, the summary, and the files."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg.errors import DocumentError, UsageError
from medseg.evaluation import (
    COLUMNS,
    METRICS,
    Evaluation,
    comparison,
    evaluate,
    evaluate_folders,
    findings,
    foreground_mean,
    nnunet_summary,
    onto_grid,
    pair_masks,
    summarize,
    write_tables,
)
from medseg.labels import LabelSet
from medseg.metrics import compare
from medseg.parallel import map_cases
from medseg.volume import Geometry, LabelVolume

SPACING = (2.0, 1.0, 0.5)  # x, y, z


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> Path:
    """Write a mask (Z, Y, X) as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.T, np.diag((*SPACING, 1.0)) if affine is None else affine), path)
    return path


def bar(*runs: tuple[int, int, int], length: int = 10) -> np.ndarray:
    """A mask (2, 2, length) whose voxels from start to stop along x hold a value, for each (value, start, stop)."""
    array = np.zeros((2, 2, length), np.uint8)
    for value, start, stop in runs:
        array[:, :, start:stop] = value
    return array


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two cases: in "a" labels 1 and 2, one voxel row of 1 too many; in "b" label 1 alone, found exactly."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    save(bar((1, 0, 4), (2, 6, 8)), references / "a.nii.gz")
    save(bar((1, 0, 5), (2, 6, 8)), predictions / "a.nii.gz")
    save(bar((1, 2, 5)), references / "b.nii.gz")
    save(bar((1, 2, 5)), predictions / "b.nii.gz")
    return predictions, references


def row(table: pd.DataFrame, case: str, label: str | int) -> pd.Series:
    return table[(table["case"] == case) & (table["label"] == label)].iloc[0]


def test_a_row_a_case_and_label_with_pencil_figures(folders: tuple[Path, Path]) -> None:
    table = evaluate(*folders)
    assert list(table.columns) == list(COLUMNS)
    assert list(zip(table["case"], table["label"], strict=True)) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    first = row(table, "a", 1)  # 16 voxels of 1 mm³ wanted, 20 found, 16 shared
    assert (first.tp, first.fp, first.fn, first.tn) == (16, 4, 0, 20)
    assert first.dice == 32 / 36
    assert (first.reference_volume_ml, first.volume_ml) == pytest.approx((0.016, 0.020))
    assert first.hausdorff_mm == pytest.approx(2.0)
    assert row(table, "a", 2).dice == row(table, "b", 1).dice == 1
    assert math.isnan(row(table, "b", 2).dice)  # in neither mask
    assert (table["error"] == "").all()


def test_rows_are_those_of_compare(folders: tuple[Path, Path]) -> None:
    table = evaluate(*folders, tolerance_mm=2.5)
    wanted = compare(bar((1, 0, 5), (2, 6, 8)), bar((1, 0, 4), (2, 6, 8)), SPACING[::-1], [1, 2], 2.5)
    found = table[table["case"] == "a"].reset_index(drop=True)
    for column in METRICS:
        np.testing.assert_array_equal(found[column], wanted[column])


def test_two_files_are_one_pair_whatever_their_names(folders: tuple[Path, Path]) -> None:
    table = evaluate(folders[0] / "a.nii.gz", folders[1] / "b.nii.gz", labels={"bar": 1})
    assert list(table["case"]) == ["b"]
    assert list(table["label"]) == ["bar"]


def test_names_come_from_dataset_json_beside_the_references(tmp_path: Path) -> None:
    reference = tmp_path / "data" / "labelsTr"
    save(bar((1, 0, 4)), reference / "a.nii.gz")
    save(bar((1, 0, 4)), tmp_path / "p" / "a.nii.gz")
    document = {"labels": {"0": "background", "1": "liver", "2": "tumour"}}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(document))
    for references in (reference, tmp_path / "data"):
        table = evaluate(tmp_path / "p", references)
        assert list(zip(table["label"], table["value"], strict=True)) == [("liver", 1), ("tumour", 2)]


def test_regions_and_ignored_voxels(tmp_path: Path) -> None:
    save(bar((1, 0, 2), (2, 2, 4), (3, 4, 6)), tmp_path / "r" / "a.nii.gz")
    save(bar((1, 0, 4), (2, 4, 8)), tmp_path / "p" / "a.nii.gz")
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    table = evaluate(tmp_path / "p", tmp_path / "r", labels=labels)
    whole, core = row(table, "a", "whole"), row(table, "a", "core")
    # Columns 4 and 5 do not count: the whole is 0-4 against 0-4 and 6-8.
    assert (whole.tp, whole.fp, whole.fn, whole.tn) == (16, 8, 0, 8)
    assert whole["value"] == "(1, 2)"
    assert (core.tp, core.fp, core.fn, core.tn) == (0, 8, 8, 16)
    summary = nnunet_summary(evaluate_folders(tmp_path / "p", tmp_path / "r", labels=labels))
    assert set(summary["mean"]) == {"(1, 2)", "2"}


def test_labels_as_label_set_path_and_mapping_agree(folders: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"labels": {"background": 0, "one": 1, "two": 2}}))
    tables = [
        evaluate(*folders, labels=labels)
        for labels in (path, str(path), {"one": 1, "two": 2}, LabelSet({"one": (1,), "two": (2,)}))
    ]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_one_bad_case_leaves_the_others(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    save(bar((1, 0, 4), length=9), predictions / "a.nii.gz")  # another grid
    save(bar((1, 0, 4)), references / "c.nii.gz")  # no prediction
    save(bar((1, 0, 4)), references / "d.nii.gz")
    (predictions / "d.nii.gz").write_bytes(b"not a mask")
    save(np.full((2, 2, 10), 0.4, np.float32), references / "e.nii.gz")
    save(bar((1, 0, 4)), predictions / "e.nii.gz")
    save(bar((1, 0, 4)), predictions / "f.nii.gz")  # no reference
    result = evaluate_folders(predictions, references, labels={"one": 1, "two": 2})
    assert sorted(result.failures) == ["a", "c", "d", "e"]
    assert "different grids" in result.failures["a"]
    assert "2x2x9 voxels" in result.failures["a"]
    assert "2x2x10 voxels" in result.failures["a"]
    assert "no prediction" in result.failures["c"]
    assert "d.nii.gz" in result.failures["d"]
    assert "integer" in result.failures["e"]
    assert all("\n" not in reason for reason in result.failures.values())
    assert result.warnings == ("prediction without reference, not compared: f",)
    assert result.cases == ["a", "b", "c", "d", "e"]
    failed = result.table[result.table["case"] == "c"]
    assert list(failed["label"]) == ["one", "two"]
    assert failed[list(METRICS)].isna().all(axis=None)
    assert failed["tp"].isna().all()
    assert (failed["error"] == result.failures["c"]).all()
    assert list(result.done["case"].unique()) == ["b"]


def test_everything_failed_is_still_a_table(tmp_path: Path) -> None:
    save(bar((1, 0, 4)), tmp_path / "r" / "a.nii.gz")
    (tmp_path / "p").mkdir()
    result = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert list(result.table["case"]) == ["a"]
    assert summarize(result.table)["n"].sum() == 0
    assert nnunet_summary(result)["metric_per_case"] == []


def test_same_grid_moved_by_a_millimetre_is_refused(folders: tuple[Path, Path]) -> None:
    moved = np.diag((*SPACING, 1.0))
    moved[0, 3] = 1.0
    save(bar((1, 0, 5)), folders[0] / "a.nii.gz", moved)
    assert "voxels apart" in evaluate_folders(*folders).failures["a"]


def test_both_empty_and_labels_that_are_nowhere(tmp_path: Path) -> None:
    for folder in ("p", "r"):
        save(bar(), tmp_path / folder / "a.nii.gz")
    nameless = evaluate(tmp_path / "p", tmp_path / "r")
    assert list(nameless["case"]) == ["a"]
    assert list(nameless["label"]) == [""]
    table = evaluate(tmp_path / "p", tmp_path / "r", labels={"one": 1})
    assert math.isnan(table["dice"].item())
    assert table["tn"].item() == 40


def test_an_image_in_place_of_a_mask_is_one_warning(tmp_path: Path) -> None:
    save(bar(), tmp_path / "r" / "a.nii.gz")
    save(np.arange(45, dtype=np.int16).reshape(3, 3, 5), tmp_path / "p" / "a.nii.gz")
    save(np.zeros((3, 3, 5), np.uint8) + np.uint8(5), tmp_path / "r" / "a.nii.gz")
    result = evaluate_folders(tmp_path / "p", tmp_path / "r", labels={"five": 5})
    (warning,) = result.warnings
    assert warning.startswith("43 values from 1 to 44 (is this an image?) are not among the labels")


def test_labels_found_are_those_of_references_and_others_are_named(tmp_path: Path) -> None:
    save(bar((5, 0, 4)), tmp_path / "r" / "a.nii.gz")
    save(bar((5, 0, 4), (7, 6, 8)), tmp_path / "p" / "a.nii.gz")
    result = evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert list(result.table["label"]) == [5]
    assert result.warnings == ("value 7 is not among the labels and was not compared: prediction of 1 case(s): a",)
    save(bar(), tmp_path / "r" / "a.nii.gz")
    assert list(evaluate(tmp_path / "p", tmp_path / "r")["label"]) == [5, 7]


def test_float_masks_and_a_fourth_axis_of_one(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    save(bar((1, 0, 5), (2, 6, 8)).astype(np.float32), predictions / "a.nii.gz")
    four = nib.Nifti1Image(bar((1, 2, 5)).T[..., None], np.diag((*SPACING, 1.0)))
    nib.save(four, predictions / "b.nii.gz")
    table = evaluate(predictions, references)
    assert (table["error"] == "").all()
    assert row(table, "a", 1).dice == 32 / 36
    assert row(table, "b", 1).dice == 1
    several = np.stack([bar((1, 2, 5)), bar((2, 2, 5))], axis=-1).transpose(2, 1, 0, 3)
    nib.save(nib.Nifti1Image(several, np.diag((*SPACING, 1.0))), predictions / "b.nii.gz")
    assert "channel" in evaluate_folders(predictions, references).failures["b"]


def test_pictures_are_compared_in_the_plane(tmp_path: Path) -> None:
    reference, prediction = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    reference[1:5, 2:6] = prediction[1:5, 2:7] = 1
    for folder, array in (("r", reference), ("p", prediction)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "cell.png")
    found = evaluate(tmp_path / "p", tmp_path / "r").iloc[0]
    wanted = compare(prediction, reference, (1.0, 1.0)).iloc[0]
    assert found["surface_dice"] == wanted["surface_dice"]
    assert found["hausdorff_mm"] == 1.0
    assert math.isnan(found["volume_ml"])


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_pairs_by_path_then_by_name(tmp_path: Path) -> None:
    p, r = tmp_path / "p", tmp_path / "r"
    touch(r / "site1" / "x.nii.gz", r / "site2" / "x.nii.gz", r / "site2" / "y.nii.gz", r / "z.1.2.nii.gz")
    touch(r / "site1" / "v.nii", r / "site2" / "v.nii", p / "v.nii", r / "w.nrrd")
    touch(p / "site1" / "x.nii.gz", p / "x.mha", p / "deep" / "y.mha", p / "z.1.2.nii", p / "w.nii.gz", p / "w.mha")
    touch(p / ".hidden.nii.gz", p / ".partial-1" / "site2" / "x.nii.gz", p / "plans.json", p / "w.npz")
    pairing = pair_masks(p, r)
    assert {case: pair.prediction.relative_to(p).as_posix() for case, pair in pairing.pairs.items()} == {
        "site1/x": "site1/x.nii.gz",
        "site2/y": "deep/y.mha",
        "z.1.2": "z.1.2.nii",
    }
    assert pairing.failures == {
        "site1/v": "no prediction is named v; predict this case, or rename its file",
        "site2/v": "no prediction is named v; predict this case, or rename its file",
        "site2/x": "no prediction is named x; predict this case, or rename its file",
        "w": "several files for one case: w.mha, w.nii.gz; keep one of them",
    }
    assert pairing.warnings == tuple(f"prediction without reference, not compared: {name}" for name in "vx")


def test_wrong_arguments_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = folders
    with pytest.raises(UsageError, match=r"predictions: no such file or folder: .*nowhere"):
        evaluate(tmp_path / "nowhere", references)
    with pytest.raises(UsageError, match="one is a file, the other a folder"):
        evaluate(predictions / "a.nii.gz", references)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no mask found"):
        evaluate(predictions, tmp_path / "empty")
    with pytest.raises(UsageError, match="tolerance"):
        evaluate(predictions, references, tolerance_mm=0)
    with pytest.raises(DocumentError, match="no such file"):
        evaluate(predictions, references, labels=tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(DocumentError, match="labels"):
        evaluate(predictions, references, labels=tmp_path / "dataset.json")


def made_up(figures: dict[str, list[float]], metric: str = "dice") -> pd.DataFrame:
    """A table with one metric filled in: label to its value in each case."""
    rows = [
        {"case": f"c{index}", "label": label, "value": 1, metric: value, "error": ""}
        for label, values in figures.items()
        for index, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(METRICS, float))


def test_summary_counts_what_it_leaves_out() -> None:
    table = made_up({"liver": [1.0, 2.0, 6.0, math.inf, math.nan], "absent": [math.nan] * 5}, "assd_mm")
    table.loc[4, "error"] = "no prediction"
    summary = summarize(table).set_index(["label", "metric"])
    liver = summary.loc["liver", "assd_mm"]
    assert (liver["n"], liver["infinite"], liver["undefined"]) == (4, 1, 0)
    assert (liver["mean"], liver["median"], liver["minimum"], liver["maximum"]) == (3.0, 4.0, 1.0, math.inf)
    assert liver["std"] == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert 1 <= liver["mean_low"] < 3 < liver["mean_high"] <= 6
    absent = summary.loc["absent", "assd_mm"]
    assert (absent["n"], absent["undefined"]) == (0, 5)
    assert math.isnan(absent["mean"])


def test_a_label_absent_everywhere_does_not_spoil_the_mean_over_labels() -> None:
    means = foreground_mean(summarize(made_up({"a": [0.5, 0.7], "b": [1.0, 1.0], "absent": [math.nan] * 2})))
    dice = means.set_index("metric").loc["dice"]
    assert (dice["mean"], dice["labels"], dice["absent"]) == (pytest.approx(0.8), 2, 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=2, max_size=20))
def test_interval_holds_the_mean_and_is_the_same_each_time(values: list[float]) -> None:
    first, second = (summarize(made_up({"a": values})) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    dice = first.set_index("metric").loc["dice"]
    if np.isfinite(values).sum() >= 2:
        assert min(v for v in values if not math.isnan(v)) - 1e-9 <= dice["mean_low"] <= dice["mean"] + 1e-9
        assert dice["mean"] - 1e-9 <= dice["mean_high"]
    else:
        assert math.isnan(dice["mean_low"])


def test_findings_are_sorted_by_severity(tmp_path: Path) -> None:
    p, r = tmp_path / "p", tmp_path / "r"
    save(bar((1, 0, 2)), r / "small_miss.nii.gz")
    save(bar(), p / "small_miss.nii.gz")
    save(bar((1, 0, 6)), r / "big_miss.nii.gz")
    save(bar(), p / "big_miss.nii.gz")
    save(bar(), r / "invented.nii.gz")
    save(bar((1, 0, 2)), p / "invented.nii.gz")
    save(bar((1, 0, 4)), r / "poor.nii.gz")
    save(bar((1, 3, 7)), p / "poor.nii.gz")
    save(bar((1, 0, 4)), r / "good.nii.gz")
    save(bar((1, 0, 4)), p / "good.nii.gz")
    save(bar((1, 0, 4)), r / "gone.nii.gz")
    found = findings(evaluate(p, r))
    assert [(each.kind, each.case) for each in found] == [
        ("failed", "gone"),
        ("missed", "big_miss"),
        ("missed", "small_miss"),
        ("invented", "invented"),
        ("poor", "poor"),
    ]
    assert found[1].text == "0.024 ml (24 voxels) not found"


def written(folders: tuple[Path, Path], target: Path) -> Evaluation:
    save(bar((1, 0, 4)), folders[1] / "lost.nii.gz")
    result = evaluate_folders(*folders, labels={"one": 1, "two": 2})
    write_tables(result, target)
    return result


def test_csv_reads_back(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = written(folders, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "metrics.csv", keep_default_na=True)
    assert list(table.columns) == list(COLUMNS)
    np.testing.assert_array_equal(table["dice"], result.table["dice"])
    assert table["error"].notna().sum() == 2  # a row a label of the case that failed
    assert ",16,4,0,20," in (tmp_path / "out" / "metrics.csv").read_text()


def test_json_is_strict_and_whole(folders: tuple[Path, Path], tmp_path: Path) -> None:
    written(folders, tmp_path)

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    document = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert document["labels"] == {"one": [1], "two": [2]}
    assert len(document["cases"]) == 6
    assert document["cases"][0]["tp"] == 16
    lost = document["cases"][4]
    assert (lost["case"], lost["tp"], lost["dice"]) == ("lost", None, "NaN")
    assert document["failures"]["lost"].startswith("no prediction")
    assert {entry["metric"] for entry in document["foreground_mean"]} == set(METRICS)


def test_nnunet_summary_has_its_form_and_its_means(folders: tuple[Path, Path], tmp_path: Path, shared: Path) -> None:
    written(folders, tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text())
    path = shared / "golden_plans_msd" / "Dataset004_Hippocampus" / "nnunet_fold0_summary.json"
    specimen = json.loads(path.read_text())
    assert set(found) == set(specimen)
    assert set(found["metric_per_case"][0]) == set(specimen["metric_per_case"][0])
    assert found["foreground_mean"].keys() == specimen["foreground_mean"].keys()
    first = found["metric_per_case"][0]["metrics"]["1"]
    assert first == {"Dice": 32 / 36, "IoU": 0.8, "TP": 16, "FP": 4, "FN": 0, "TN": 20, "n_pred": 20, "n_ref": 16}
    assert [Path(case["prediction_file"]).name for case in found["metric_per_case"]] == ["a.nii.gz", "b.nii.gz"]
    assert found["mean"]["1"]["Dice"] == pytest.approx((32 / 36 + 1) / 2)
    assert found["mean"]["2"]["Dice"] == 1  # case b, which has no label 2, is left out
    assert found["mean"]["2"]["TP"] == 4  # but counts are averaged over both
    assert found["foreground_mean"]["Dice"] == pytest.approx(((32 / 36 + 1) / 2 + 1) / 2)


def test_real_predictions_by_plain_arithmetic(shared: Path) -> None:
    folder = shared / "nnunet_model_tiny"
    table = evaluate(folder / "predictions_tta", folder / "labels")
    assert list(table["label"].unique()) == ["Anterior", "Posterior"]
    for _, each in table.iterrows():
        arrays = [
            np.asarray(nib.load(folder / side / f"{each['case']}.nii.gz").dataobj) == each["value"]
            for side in ("predictions_tta", "labels")
        ]
        assert each["dice"] == 2 * (arrays[0] & arrays[1]).sum() / (arrays[0].sum() + arrays[1].sum())


def test_real_mask_stored_as_almost_one(shared: Path) -> None:
    folder = shared / "data" / "hostile" / "float_labels_brats"
    path = next(path for path in sorted(folder.rglob("*.nii.gz")) if "brainmask" in path.name)
    assert evaluate(path, path)["dice"].tolist() == [1.0]


def test_work_can_travel_to_other_processes(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = evaluate(*folders)

    def through_pickle(function: Any, cases: Sequence[Any], **options: Any) -> Any:
        again = pickle.loads(pickle.dumps(function))
        outcomes = map_cases(lambda case: pickle.dumps(again(pickle.loads(pickle.dumps(case)))), cases, **options)
        return [replace(outcome, value=outcome.value and pickle.loads(outcome.value)) for outcome in outcomes]

    monkeypatch.setattr(comparison, "map_cases", through_pickle)
    pd.testing.assert_frame_equal(evaluate(*folders), wanted)


def test_progress_counts_cases(folders: tuple[Path, Path]) -> None:
    told: list[tuple[float, float, str]] = []
    evaluate(*folders, labels={"one": 1}, progress=lambda *news: told.append(news))
    assert told == [(0, 2, "comparing masks"), (1, 2, "comparing masks"), (2, 2, "comparing masks")]


def test_metrics_on_request_are_columns_of_table_summary_and_files(tmp_path: Path) -> None:
    save(bar((1, 0, 8)), tmp_path / "reference" / "a.nii.gz")
    save(bar((1, 0, 6)), tmp_path / "predicted" / "a.nii.gz")
    asked = ("surface_dice_2mm", "lesion_f1")
    result = evaluate_folders(tmp_path / "predicted", tmp_path / "reference", metrics=asked)
    assert list(result.table.columns) == [*COLUMNS[:-1], *asked, "error"]
    assert result.table.lesion_f1.tolist() == [1]
    summary = summarize(result.table).set_index("metric")
    assert summary.loc["lesion_f1", "mean"] == 1
    write_tables(result, tmp_path / "out")
    stored = pd.read_parquet(tmp_path / "out" / "metrics.parquet")
    assert list(stored.columns) == list(result.table.columns)
    assert stored.dice.tolist() == result.table.dice.tolist()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"][-2:] == list(asked)
    with pytest.raises(UsageError, match="not known"):
        evaluate(tmp_path / "predicted", tmp_path / "reference", metrics=["nonsense"])


def test_a_prediction_on_another_grid_is_brought_over_only_on_request(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = (rng.random((4, 5, 6)) > 0.5).astype(np.uint8)
    affine = np.diag((*SPACING, 1.0))
    save(mask, tmp_path / "reference" / "a.nii.gz", affine)
    flipped = affine.copy()
    flipped[0, 0], flipped[0, 3] = -SPACING[0], SPACING[0] * 5
    save(mask[:, :, ::-1], tmp_path / "predicted" / "a.nii.gz", flipped)  # the same mask, stored the other way round
    refused = evaluate_folders(tmp_path / "predicted", tmp_path / "reference")
    assert "--resample-to reference" in refused.failures["a"]
    result = evaluate_folders(tmp_path / "predicted", tmp_path / "reference", resample_to="reference")
    assert result.table.dice.tolist() == [1]
    assert result.resampled == ("a",)
    assert any("another grid" in warning for warning in result.warnings)
    with pytest.raises(UsageError, match="reference"):
        evaluate(tmp_path / "predicted", tmp_path / "reference", resample_to="prediction")  # type: ignore[arg-type]


def test_finer_and_shifted_masks_land_where_they_belong() -> None:
    mask = LabelVolume(bar((3, 2, 5)), Geometry.from_spacing((2, 2, 10), (0.5, 1.0, 2.0)))
    fine = LabelVolume(np.repeat(mask.array, 2, axis=2), mask.geometry.resized((2, 2, 20)))
    assert np.array_equal(onto_grid(fine, mask.geometry).array, mask.array)
    assert np.array_equal(onto_grid(mask, fine.geometry).array, fine.array)
    shifted = Geometry((2, 2, 10), mask.geometry.affine + np.eye(4)[:, [0] * 4] * [0, 0, 0, 4.0])  # 2 voxels along x
    assert np.array_equal(onto_grid(mask, shifted).array, bar((3, 0, 3)))
    assert (onto_grid(mask, shifted, outside=7).array[:, :, 8:] == 7).all()
