"""From cross-validation to a choice, and from the choice to masks, on a workspace of small phantoms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label

from medseg import documents
from medseg.cli import run
from medseg.crossvalidation import predict_held_out
from medseg.errors import UsageError
from medseg.io import read_labels
from medseg.postprocessing import BestDocument, Step, apply
from medseg.prediction import choice_of, load_predictor
from medseg.selection import choose_best
from medseg.workspace import Workspace


@pytest.fixture
def workspace(trained: Path) -> Workspace:
    opened = Workspace.open(trained / "workspace")
    (opened.root / "best.json").unlink(missing_ok=True)
    return opened


def decide(workspace: Workspace, configurations: tuple[str, ...], *steps: Step) -> BestDocument:
    best = BestDocument(1, "noise", configurations, steps, (0, 1), (), ())
    best.save(workspace.root / "best.json")
    return best


def test_pairs_are_compared_once_probabilities_are_there(workspace: Workspace) -> None:
    for path in workspace.root.glob("models/*/fold_*/validation/*.npz"):
        path.unlink()
    alone = choose_best(workspace, "nnunet")
    assert len(alone.candidates) == 2
    predict_held_out(workspace, device="cpu", precision="fp32")
    best = choose_best(workspace, "nnunet")
    assert [candidate.configurations for candidate in best.candidates] == [
        ("2d",),
        ("3d_fullres",),
        ("2d", "3d_fullres"),
    ]
    assert best.configurations == max(best.candidates, key=lambda candidate: candidate.dice).configurations
    files = list(workspace.model_folder("2d").glob("fold_*/validation/*.npz"))
    stamps = [path.stat().st_mtime_ns for path in files]
    predict_held_out(workspace, device="cpu", precision="fp32")
    assert len(files) == 4
    assert stamps == [path.stat().st_mtime_ns for path in files]


def test_predict_follows_what_was_chosen(trained: Path, workspace: Workspace, capsys: pytest.CaptureFixture) -> None:
    step = Step("largest_component", (1, 2, 3))
    decide(workspace, ("2d", "3d_fullres"), step)
    scans = trained / "dataset" / "imagesTs"
    out = trained / "followed"
    arguments = ["predict", str(scans), "-o", str(out), "-w", str(workspace.root), "--device", "cpu"]
    assert run([*arguments, "--precision", "fp32"]) == 0
    said = capsys.readouterr().out
    assert "predicted with 2d + 3d_fullres, then largest component for 1, 2, 3, as " in said
    predictor = load_predictor(
        [workspace.model_folder("2d"), workspace.model_folder("3d_fullres")], None, "cpu", "fp32"
    )
    scan = next(iter(scans.iterdir()))
    before = predictor.predict(scan)
    mask = read_labels(next(out.glob("*.nii.gz")))
    np.testing.assert_array_equal(mask.array, apply((step,), before).array)
    assert label(before.array > 0, np.ones((3, 3, 3)))[1] > label(mask.array > 0, np.ones((3, 3, 3)))[1] == 1
    # with other steps the mask is made anew; with the same it is kept
    decide(workspace, ("2d", "3d_fullres"))
    assert run([*arguments, "--precision", "fp32", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["steps"] == []
    assert [Path(model).name for model in document["models"]] == ["2d", "3d_fullres"]
    np.testing.assert_array_equal(read_labels(next(out.glob("*.nii.gz"))).array, before.array)


def test_a_named_configuration_comes_before_the_choice(workspace: Workspace) -> None:
    assert [model.name for model in choice_of(workspace).models] == ["3d_fullres"]
    decide(workspace, ("2d",), Step("fill_holes", (1,)))
    assert [model.name for model in choice_of(workspace).models] == ["2d"]
    assert choice_of(workspace).steps == (Step("fill_holes", (1,)),)
    named = choice_of(workspace, "3d_fullres")
    assert ([model.name for model in named.models], named.steps, named.followed) == (["3d_fullres"], (), None)


def test_a_choice_that_the_plan_no_longer_has_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture) -> None:
    decide(workspace, ("3d_lowres",))
    with pytest.raises(UsageError, match="medseg best"):
        choice_of(workspace)
    (workspace.root / "best.json").write_text("{")
    assert run(["predict", "x.nii", "-o", "y.nii", "-w", str(workspace.root)]) == 2
    assert "best.json" in capsys.readouterr().err
    assert run(["predict", "x.nii", "-o", "y.nii", "-m", "model", "-c", "2d"]) == 2


def test_the_command_predicts_what_it_lacks(workspace: Workspace, capsys: pytest.CaptureFixture) -> None:
    for path in workspace.model_folder("2d").glob("fold_*/validation/*.npz"):
        path.unlink()
    assert run(["best", "-w", str(workspace.root), "--device", "cpu", "--precision", "fp32", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["candidates"]) == 3
    assert documents.load(BestDocument, workspace.root / "best.json").folds == (0, 1)
