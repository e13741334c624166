"""The workspace: what is kept, what is made anew, what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from medseg import store, workspace
from medseg.dataset import Dataset
from medseg.errors import CasesFailedError, DataError, UsageError
from medseg.phantoms import PhantomKind, write_dataset
from medseg.workspace import Workspace, plan_workspace, preprocess

TINY = PhantomKind(finest_mm=(9.0, 7.0, 7.0), coarsest_mm=(11.0, 8.0, 8.0))


@pytest.fixture
def data(tmp_path) -> Path:
    return write_dataset(tmp_path / "data", training=5, test=0, kind=TINY)


def test_the_second_plan_reads_no_scan(data, tmp_path, monkeypatch):
    plan_workspace(Dataset.open(data), tmp_path / "w")
    monkeypatch.setattr(workspace, "fingerprint_dataset", lambda *_, **__: pytest.fail("scans were read again"))
    again = plan_workspace(Dataset.open(data), tmp_path / "w", preset="resenc-m")
    assert again.plan.preset == "resenc-m"


def test_a_changed_scan_is_read_again(data, tmp_path):
    plan_workspace(Dataset.open(data), tmp_path / "w")
    first = (tmp_path / "w/fingerprint.json").read_text()
    shutil.copy(data / "imagesTr/phantom_001.nii.gz", data / "imagesTr/phantom_000.nii.gz")
    shutil.copy(data / "labelsTr/phantom_001.nii.gz", data / "labelsTr/phantom_000.nii.gz")
    plan_workspace(Dataset.open(data), tmp_path / "w")
    assert (tmp_path / "w/fingerprint.json").read_text() != first


def test_another_dataset_needs_another_workspace(data, tmp_path):
    plan_workspace(Dataset.open(data), tmp_path / "w")
    other = write_dataset(tmp_path / "other", training=5, test=0, kind=TINY)
    document = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**document, "name": "Other"}))
    with pytest.raises(UsageError, match="holds the dataset Phantoms, not Other"):
        plan_workspace(Dataset.open(other), tmp_path / "w")


def test_a_bad_case_stops_planning_and_nothing_is_written(data, tmp_path):
    whole = (data / "imagesTr/phantom_002.nii.gz").read_bytes()
    (data / "imagesTr/phantom_002.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises((CasesFailedError, DataError), match="phantom_002"):
        plan_workspace(Dataset.open(data), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_given_splits_are_checked(data, tmp_path):
    names = [f"phantom_{i:03d}" for i in range(5)]
    good = [{"train": names[:4], "val": names[4:]}]
    (tmp_path / "splits.json").write_text(json.dumps(good))
    made = plan_workspace(Dataset.open(data), tmp_path / "w", splits_file=tmp_path / "splits.json")
    assert made.split(0).validation == ("phantom_004",)
    with pytest.raises(UsageError, match=r"--fold 1: .* has folds 0-0"):
        made.split(1)
    (tmp_path / "splits.json").write_text(json.dumps([{"train": names, "val": ["stranger"]}]))
    with pytest.raises(Exception, match="stranger"):
        plan_workspace(Dataset.open(data), tmp_path / "w", splits_file=tmp_path / "splits.json")


def test_only_what_changed_is_prepared_again(data, tmp_path):
    made = plan_workspace(Dataset.open(data), tmp_path / "w")
    configuration = made.plan.configuration("3d_fullres")
    preprocess(made, configuration)
    folder = made.preprocessed_folder(made.plan.configuration("3d_fullres"))
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(stamps) == 5
    (folder / "phantom_001" / "case.json").write_text("{")
    image = data / "imagesTr/phantom_003.nii.gz"
    os.utime(image, ns=(image.stat().st_atime_ns, image.stat().st_mtime_ns + 10**9))
    preprocess(made, configuration)
    changed = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns != stamps[path.name]}
    assert changed == {"phantom_001", "phantom_003"}
    assert store.open_case(folder, "phantom_001").channels == 1


def test_a_workspace_can_be_moved(data, tmp_path):
    plan_workspace(Dataset.open(data), tmp_path / "w")
    shutil.move(tmp_path / "w", tmp_path / "elsewhere")
    moved = Workspace.open(tmp_path / "elsewhere")
    assert len(moved.dataset.cases) == 5
    assert moved.splits


def test_a_folder_without_a_plan_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="medseg plan DATASET -w"):
        Workspace.open(tmp_path)
