"""Held-out cases under a deadline."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

import pytest
from examples import tiny_workspace

from medseg.crossvalidation import train
from medseg.crossvalidation.held_out import Deadline, validate_fold
from medseg.workspace import Workspace


@pytest.fixture(scope="module")
def fold(tmp_path_factory) -> Path:
    """A workspace with fold 0 trained for a step."""
    workspace = tiny_workspace(tmp_path_factory.mktemp("held_out"))
    train(workspace, fold=0, iterations=1, device="cpu", precision="fp32")
    return workspace.root


@pytest.fixture
def unmeasured(fold, tmp_path) -> Workspace:
    """The same with no held-out case predicted."""
    copy = Workspace.open(shutil.copytree(fold, tmp_path / "workspace"))
    shutil.rmtree(copy.model_folder("3d_fullres") / "fold_0/validation")
    return copy


def measured(workspace: Workspace, **options) -> list[str] | None:
    configuration = workspace.plan.configuration()
    evaluation = validate_fold(workspace, configuration, 0, device="cpu", precision="fp32", **options)
    return None if evaluation is None else sorted(set(evaluation.table["case"]))


def test_after_the_deadline_one_case_is_measured_and_later_the_rest(unmeasured):
    folder = unmeasured.model_folder("3d_fullres") / "fold_0/validation"
    held_out = sorted(unmeasured.split(0).validation)
    past = time.monotonic() - 1
    first = measured(unmeasured, deadline=past)
    assert first is not None
    assert len(first) == 1
    masks = {path: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}
    assert [path.name for path in masks] == [f"{first[0]}.nii.gz"]
    assert measured(unmeasured) == held_out
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in masks.items())
    assert measured(unmeasured, deadline=past) == held_out  # what is there counts, however late it is


def test_before_the_deadline_all_are_measured(unmeasured):
    assert measured(unmeasured, deadline=time.monotonic() + 3600) == sorted(unmeasured.split(0).validation)


@pytest.mark.parametrize("deadline", [math.inf, 0.0])
def test_who_stops_it_gets_nothing(unmeasured, deadline):
    assert measured(unmeasured, deadline=deadline, should_stop=lambda: True) is None


def test_a_deadline_lets_one_case_pass():
    late = Deadline(time.monotonic() - 1, lambda: False)
    assert (late(), late.passed) == (False, False)
    assert (late(), late.passed) == (True, True)


def test_a_deadline_to_come_stops_nothing():
    early = Deadline(time.monotonic() + 3600, lambda: False)
    assert not any(early() for _ in range(3))
    assert not early.passed


def test_a_user_who_stops_is_not_a_deadline():
    stopped = Deadline(time.monotonic() - 1, lambda: True)
    assert stopped()
    assert stopped()
    assert not stopped.passed
