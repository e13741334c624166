"""Model choice on held-out cases: masks made by hand, decisions known beforehand, and those of nnU-Net's own code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from examples import LABELS, small_configuration, small_plan

from medseg import splits
from medseg.cli import run
from medseg.dataset import CaseRef, Dataset
from medseg.errors import CasesFailedError, UsageError
from medseg.labels import LabelSet
from medseg.planning.plan import Configuration
from medseg.postprocessing import BestDocument, Step
from medseg.selection import choose_best
from medseg.splits import Split
from medseg.workspace import Workspace

SHAPE = (8, 12, 14)
CASES = [f"case_{number:02d}" for number in range(20)]


def named(name: str) -> Configuration:
    return replace(small_configuration(), name=name)


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.T, np.eye(4)), path)


def reference(number: int) -> np.ndarray:
    """Two blocks that touch, of sizes that differ a little from case to case."""
    array = np.zeros(SHAPE, np.uint8)
    array[2:6, 3:9, 2:6] = 1
    array[2:6, 3:9, 6 : 9 + number % 3] = 2
    return array


def workspace(root: Path, *names: str, labels: LabelSet = LABELS) -> Workspace:
    """A planned workspace of twenty cases in two folds, whose masks stand beside."""
    cases = []
    for number, name in enumerate(CASES):
        save(reference(number), root / "labels" / f"{name}.nii.gz")
        cases.append(CaseRef(name, (root / "images" / f"{name}.nii.gz",), root / "labels" / f"{name}.nii.gz"))
        save(reference(number), cases[-1].images[0])
    made = Workspace(root / "w")
    made.root.mkdir()
    Dataset("blocks", ("channel 0",), labels, tuple(cases)).save(made.dataset_path)
    plan = small_plan(labels=labels)
    replace(plan, configurations=tuple(map(named, names))).save(made.plan_path)
    halves = CASES[::2], CASES[1::2]
    splits.save_splits((Split(halves[1], halves[0]), Split(halves[0], halves[1])), made.splits_path)
    return made


def predicted(made: Workspace, configuration: str, case: str) -> Path:
    fold = CASES.index(case) % 2
    return made.model_folder(configuration) / f"fold_{fold}" / "validation" / f"{case}.nii.gz"


def predict(made: Workspace, configuration: str, change) -> None:
    """Write every held-out mask: the reference, changed by a function of array and number."""
    for number, case in enumerate(CASES):
        array = reference(number)
        change(array, number)
        save(array, predicted(made, configuration, case))


def clean(array: np.ndarray, number: int) -> None:
    array[2, 3, 2 : 2 + number % 4] = 0


def specks(array: np.ndarray, number: int) -> None:
    """A few voxels of label 1 far away, in every case."""
    clean(array, number)
    array[0, 11, 12:14] = 1


@pytest.mark.parametrize("rule", ["noise", "nnunet"])
def test_the_better_configuration_is_chosen(tmp_path: Path, rule: str) -> None:
    made = workspace(tmp_path, "2d", "3d_fullres")

    def poor(array: np.ndarray, number: int) -> None:
        array[2, :, :] = 0
        array[:, 3, 2 + number % 3] = 0

    predict(made, "2d", poor)
    predict(made, "3d_fullres", clean)
    best = choose_best(made, rule)  # type: ignore[arg-type]
    assert best.configurations == ("3d_fullres",)
    assert best.steps == ()
    assert best.folds == (0, 1)
    assert [candidate.configurations for candidate in best.candidates] == [("2d",), ("3d_fullres",)]
    assert BestDocument.load(made.root) == best
    assert any("probabilities" in reason for reason in best.because)


@pytest.mark.parametrize(("rule", "step"), [("noise", None), ("nnunet", Step("largest_component", (1, 2)))])
def test_specks_everywhere_are_taken_away_by_either_rule(tmp_path: Path, rule: str, step: Step | None) -> None:
    made = workspace(tmp_path, "3d_fullres")
    predict(made, "3d_fullres", specks)
    best = choose_best(made, rule)  # type: ignore[arg-type]
    assert len(best.steps) == 1
    assert step is None or best.steps == (step,)


def test_a_speck_in_one_case_is_noise_except_for_nnunets_rule(tmp_path: Path) -> None:
    made = workspace(tmp_path, "3d_fullres")
    predict(made, "3d_fullres", lambda array, number: specks(array, number) if number == 3 else clean(array, number))
    assert choose_best(made).steps == ()
    assert choose_best(made, "nnunet").steps == (Step("largest_component", (1, 2)),)


def test_a_step_that_lowers_a_label_is_left_out(tmp_path: Path) -> None:
    made = workspace(tmp_path, "3d_fullres")

    def apart(array: np.ndarray, number: int) -> None:
        array[:, :, 6] = 0  # the labels no longer touch: the largest of both would take one away
        array[0, 11, 12:14] = 1

    predict(made, "3d_fullres", apart)
    best = choose_best(made, "nnunet")
    assert best.steps == (Step("largest_component", (1,)),)
    assert Step("largest_component", (1, 2)) not in choose_best(made).steps


def test_holes_are_filled_where_that_helps(tmp_path: Path) -> None:
    made = workspace(tmp_path, "3d_fullres")

    def holes(array: np.ndarray, number: int) -> None:
        array[3:5, 5:7, 3:5] = 0

    predict(made, "3d_fullres", holes)
    assert choose_best(made).steps == (Step("fill_holes", (1,)),)


def test_a_pair_is_chosen_only_where_it_is_better_beyond_noise(tmp_path: Path) -> None:
    made = workspace(tmp_path, "2d", "3d_fullres")
    rng = np.random.default_rng(0)
    for names, spread in ((("2d", "3d_fullres"), 1.0),):
        for name in names:
            for number, case in enumerate(CASES):
                truth = reference(number)
                logits = np.stack([truth == value for value in range(3)]) * 2.0 + spread * rng.standard_normal(
                    (3, *SHAPE)
                )
                probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
                path = predicted(made, name, case)
                save(probabilities.argmax(axis=0).astype(np.uint8), path)
                np.savez_compressed(path.with_name(f"{case}.npz"), probabilities=probabilities.astype(np.float32))
    best = choose_best(made)
    assert best.configurations == ("2d", "3d_fullres")
    assert choose_best(made, "nnunet").configurations == ("2d", "3d_fullres")
    for case in CASES:  # the second repeats the first: their mean is no better
        for ending in ("nii.gz", "npz"):
            source = predicted(made, "2d", case).with_name(f"{case}.{ending}")
            predicted(made, "3d_fullres", case).with_name(f"{case}.{ending}").write_bytes(source.read_bytes())
    assert choose_best(made).configurations == ("2d",)
    assert choose_best(made, "nnunet").configurations == ("2d",)


def test_regions_are_decided_as_regions(tmp_path: Path) -> None:
    labels = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))
    made = workspace(tmp_path, "3d_fullres", labels=labels)
    predict(made, "3d_fullres", specks)
    assert choose_best(made, "nnunet").steps == (Step("largest_component", (1, 2)),)


def test_only_folds_that_all_have_count_and_none_is_an_error(tmp_path: Path) -> None:
    made = workspace(tmp_path, "2d", "3d_fullres")
    with pytest.raises(UsageError, match="medseg train -w"):
        choose_best(made)
    predict(made, "2d", clean)
    for case in CASES[::2]:
        save(reference(0), predicted(made, "3d_fullres", case))
    assert choose_best(made).folds == (0,)


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    made = workspace(tmp_path, "3d_fullres")
    predict(made, "3d_fullres", clean)
    predicted(made, "3d_fullres", "case_03").write_bytes(b"no mask")
    with pytest.raises(CasesFailedError, match="case_03"):
        choose_best(made)
    assert not (made.root / "best.json").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = workspace(tmp_path, "3d_fullres")
    predict(made, "3d_fullres", specks)
    assert run(["best", "-w", str(made.root), "--rule", "nnunet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["values"] == [1, 2]
    assert run(["best", "-w", str(made.root)]) == 0
    assert "best: 3d_fullres; after it: " in capsys.readouterr().out
    assert run(["best", "-w", str(tmp_path / "nowhere")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_decisions_are_those_of_nnunets_own_code(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    postprocessing = pytest.importorskip(
        "nnunetv2.postprocessing.remove_connected_components", reason="nnunetv2 is not installed"
    )
    made = workspace(tmp_path, "3d_fullres")
    rng = np.random.default_rng(seed)

    def messy(array: np.ndarray, number: int) -> None:
        for _ in range(rng.integers(0, 4)):
            z, y, x = (rng.integers(0, size - 2) for size in SHAPE)
            array[z : z + 2, y : y + 2, x : x + 2] = rng.integers(0, 3)
        if seed % 2:
            array[:, :, 6] = 0

    predict(made, "3d_fullres", messy)
    together = tmp_path / "together"
    for case in CASES:
        save(np.asarray(nib.load(predicted(made, "3d_fullres", case)).dataobj).T, together / f"{case}.nii.gz")
    expected = decided_by_nnunet(postprocessing, together, tmp_path / "labels")
    steps = choose_best(made, "nnunet").steps
    assert [step.values for step in steps] == expected
    assert {step.kind for step in steps} <= {"largest_component"}


def decided_by_nnunet(postprocessing, predictions: Path, references: Path) -> list[tuple[int, ...]]:
    """The label values whose largest component nnU-Net keeps, in order."""
    dataset = {
        "labels": {"background": 0, "left": 1, "right": 2},
        "file_ending": ".nii.gz",
        "channel_names": {"0": "MR"},
    }
    plans = {
        "image_reader_writer": "NibabelIO",
        "label_manager": "LabelManager",
        "configurations": {},
        "dataset_name": "Dataset001_blocks",
        "plans_name": "nnUNetPlans",
    }
    _, arguments = postprocessing.determine_postprocessing(
        str(predictions), str(references), plans, dataset, num_processes=1, keep_postprocessed_files=False
    )
    kept = [argument["labels_or_regions"] for argument in arguments]
    return [tuple(value) if isinstance(value, list) else (int(value),) for value in kept]
