"""Cases that are not annotated for every class: nothing is taught, and nothing measured, where nobody looked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from examples import small_plan
from test_training import CPU, blob_cases

from medseg import crossvalidation, io
from medseg.augmentation import AugmentationPolicy
from medseg.dataset import CaseRef, Dataset, load_case
from medseg.errors import DocumentError, LabelError, UsageError
from medseg.labels import LabelSet
from medseg.laterality import Mirroring
from medseg.training import loop, recipe
from medseg.training.losses import DiceCrossEntropy, hard_dice_counts
from medseg.training.partial import unannotated_classes
from medseg.training.sampling import InMemoryCase, draw_batch
from medseg.training.starting import Length, run_under_way
from medseg.volume import Geometry, LabelVolume, Volume
from medseg.workspace import Workspace, plan_workspace

# Declared in another order than that of the values, so that classes and channels differ.
LABELS = LabelSet({"b": (2,), "a": (1,)})
REGIONS = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))


def batch(labels: LabelSet, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, labels.output_count, 3, 4, 5, generator=generator)
    return logits, torch.randint(0, 3, (2, 3, 4, 5), generator=generator).short()


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_with_everything_annotated_the_loss_is_the_usual_one(labels, batch_dice):
    loss = DiceCrossEntropy(labels, batch_dice)
    logits, target = batch(labels)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    torch.testing.assert_close(loss(logits, target, nothing), loss(logits, target))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_a_class_that_nobody_looked_for_is_as_good_as_background(batch_dice):
    """With b unannotated the loss is that of a network of two outputs: background or b, and a."""
    logits, target = batch(LABELS)
    target[target == 2] = 0
    merged = torch.stack([torch.logsumexp(logits[:, [0, 2]], 1), logits[:, 1]], 1)
    expected = DiceCrossEntropy(LabelSet({"a": (1,)}), batch_dice)(merged, target)
    found = DiceCrossEntropy(LABELS, batch_dice)(logits, target, torch.tensor([[True, False]] * 2))
    torch.testing.assert_close(found, expected)


def test_one_voxel_by_hand():
    """Three equal logits, background in the mask, b not annotated: cross-entropy -ln 2/3; a has no overlap, 1 - 0."""
    labels = replace(LABELS, classes={"a": (1,), "b": (2,)})
    target = torch.zeros(1, 1, 1, 1).short()
    found = DiceCrossEntropy(labels, batch_dice=False)(
        torch.zeros(1, 3, 1, 1, 1), target, torch.tensor([[False, True]])
    )
    assert float(found) == pytest.approx(-np.log(2 / 3) + 1, abs=1e-4)


def test_regions_that_nobody_looked_for_have_no_gradient():
    logits, target = batch(REGIONS)
    logits.requires_grad_()
    DiceCrossEntropy(REGIONS, batch_dice=False)(
        logits, target, torch.tensor([[False, True], [False, False]])
    ).backward()
    assert logits.grad is not None
    assert not logits.grad[0, 1].any()
    assert logits.grad[0, 0].any()
    assert logits.grad[1].any()


def test_dice_of_unannotated_classes_is_not_counted():
    target = torch.tensor([[[0, 1, 2, 2]], [[0, 1, 1, 0]]]).short()
    logits = torch.nn.functional.one_hot(torch.tensor([[[2, 1, 2, 2]], [[2, 2, 1, 0]]]), 3).movedim(-1, 1).float()
    hidden = torch.tensor([[False, False], [True, False]])  # b (first) was not looked for in the second sample
    assert hard_dice_counts(logits, target, LABELS, hidden).tolist() == [[2, 3, 2], [2, 2, 3]]


def test_what_is_annotated_changes_places_in_a_mirrored_patient():
    labels = LabelSet({"left": (1,), "right": (2,), "liver": (3,)})
    cases = [CaseRef("a", (), annotated=("left", "liver")), CaseRef("b", ())]
    table = unannotated_classes(labels, cases, Mirroring((0, 1, 2), 2, (("left", "right"),)))
    assert table is not None
    mirror = torch.tensor([[True, True, False], [False, False, True], [False, False, True]])
    assert table.of((0, 0, 1), mirror).tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert unannotated_classes(labels, [CaseRef("b", ())], Mirroring(())) is None


def train_blobs(folder: Path, cases: list[InMemoryCase], annotated: list[tuple[str, ...] | None]) -> dict:
    """Weights after training on cases, each annotated for the given classes, and Dice on cases that show all."""
    plan = small_plan(labels=LabelSet({"one": (1,), "two": (2,)}, mirror_pairs=()))
    run = loop.Run(1, "3d_fullres", 0, 0, "fp32", recipe.recipe_for_iterations(150, 2))
    refs = [CaseRef(str(i), (), annotated=names) for i, names in enumerate(annotated)]
    trainer = loop.Trainer(plan, plan.configurations[0], cases, blob_cases(4), run, CPU, partial=refs)
    assert loop.train_network(trainer, folder)
    return dict(zip(plan.labels.names, trainer.validate()[1], strict=True))


def test_two_half_annotated_halves_teach_both_classes(tmp_path):
    halves, annotated = [], []
    for number, case in enumerate(blob_cases(6)):
        shown = 1 + number % 2
        labels = np.where(case.labels == shown, case.labels, 0).astype(np.int16)
        locations = [case.foreground[i] if i + 1 == shown else case.foreground[i][:0] for i in range(2)]
        halves.append(InMemoryCase(case.image, labels, locations))
        annotated.append(("one",) if shown == 1 else ("two",))
    dice = train_blobs(tmp_path, halves, annotated)
    assert min(dice.values()) > 0.8, dice


def test_rare_classes_are_shown_as_often_as_common_ones():
    common, rare = blob_cases(10), blob_cases(11)[10]
    only_one = [InMemoryCase(c.image, np.minimum(c.labels, 1), [c.foreground[0], c.foreground[1][:0]]) for c in common]
    policy = AugmentationPolicy.default((4, 4, 4))

    def share(balance: bool) -> float:
        forced = [draw_batch([*only_one, rare], (4, 4, 4), 3, policy, 0, i, balance).cases[2] for i in range(400)]
        return forced.count(10) / 400

    assert share(False) == pytest.approx(1 / 11, abs=0.04)
    assert share(True) == pytest.approx(1 / 2 + 1 / 22, abs=0.08)


# --- from end to end


GRID = Geometry.from_spacing((10, 14, 14), (1.0, 1.0, 1.0))


def write_dataset(folder: Path, labels: dict[str, int], change, **content: object) -> Path:
    """Six scans with a bright and a dark box; ``change`` says what of their masks is written."""
    for number, case in enumerate(blob_cases(6, shape=(10, 14, 14))):
        name = f"case_{number}"
        mask = change(number, case.labels.astype(np.uint8))
        io.write(Volume(case.image, GRID), folder / f"imagesTr/{name}_0000.nii.gz")
        io.write(LabelVolume(mask, GRID, {}), folder / f"labelsTr/{name}.nii.gz")
    document = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz", **content}
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


HALF = {f"case_{number}": ["one"] if number % 2 == 0 else ["two"] for number in range(6)}


def half(number: int, mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 1 + number % 2, mask, 0).astype(np.uint8)


def test_a_partly_annotated_dataset_from_end_to_end(tmp_path):
    classes = {"background": 0, "one": 1, "two": 2}
    folder = write_dataset(tmp_path / "data", classes, half, annotated=HALF)
    dataset = Dataset.open(folder)
    assert [case.annotated for case in dataset.cases] == [("one",), ("two",)] * 3
    workspace = plan_workspace(dataset, tmp_path / "w")
    assert Workspace.open(tmp_path / "w").dataset == dataset
    result = crossvalidation.train(workspace, "3d_fullres", 0, iterations=3, device="cpu", balance_classes=True)
    assert result is not None
    table = pd.read_csv(result.folder / "validation/metrics.csv")
    assert {(case, label) for case, label in zip(table["case"], table["label"], strict=True)} == {
        (case, HALF[case][0]) for case in workspace.split(0).validation
    }
    with pytest.raises(UsageError, match=r"with balance_classes True was begun"):
        run_under_way(result.folder, Length(), seed=None, balance_classes=False)


def test_annotations_that_make_no_sense(tmp_path):
    classes = {"background": 0, "one": 1, "two": 2}
    folder = write_dataset(tmp_path / "data", classes, half, annotated=HALF)
    document = json.loads((folder / "dataset.json").read_text())
    for wrong, message in (
        ({"case_9": ["one"]}, "there is no case 'case_9'"),
        ({"case_0": ["three"]}, r"case_0: annotated: expected some of \['one', 'two'\], found \['three'\]"),
        ({"case_0": []}, "case_0: annotated"),
        ({"case_0": "one"}, "expected case names with lists"),
    ):
        (folder / "dataset.json").write_text(json.dumps({**document, "annotated": wrong}))
        with pytest.raises(DocumentError, match=message):
            Dataset.open(folder)
    (folder / "dataset.json").write_text(json.dumps({**document, "annotated": {"case_0": ["two"]}}))
    dataset = Dataset.open(folder)
    with pytest.raises(LabelError, match=r"case_0: .*annotated for two, but holds the values \[1\]"):
        load_case(dataset.cases[0], dataset.labels, dataset.channels)


def test_a_manifest_says_what_is_annotated_and_what_is_left_and_right(tmp_path):
    classes = {"background": 0, "one": 1, "two": 2}
    write_dataset(tmp_path, classes, half)
    text = """
name: Boxes
channels: [T1]
labels: {one: 1, two: 2}
images: imagesTr/{case}_0000.nii.gz
label: labelsTr/{case}.nii.gz
mirror_pairs: [[one, two]]
annotated: {case_0: [one], case_1: [two]}
cases: [{name: case_0}, {name: case_1}, {name: case_2, annotated: [one]}, {name: case_4}]
"""
    (tmp_path / "m.yaml").write_text(text)
    dataset = Dataset.open(tmp_path / "m.yaml")
    assert [case.annotated for case in dataset.cases] == [("one",), ("two",), ("one",), None]
    assert dataset.labels.mirror_pairs == (("one", "two"),)
    dataset.save(tmp_path / "again.json")
    assert Dataset.load(tmp_path / "again.json") == dataset


def test_scribbles_from_end_to_end(tmp_path):
    """A few annotated planes a case, all else ignored, teach about as well as whole masks."""

    def scribbles(number: int, mask: np.ndarray) -> np.ndarray:
        found = np.full_like(mask, 3)
        found[:, 4::4] = mask[:, 4::4]
        return found

    classes = {"background": 0, "one": 1, "two": 2, "ignore": 3}
    dataset = Dataset.open(write_dataset(tmp_path / "data", classes, scribbles))
    assert dataset.labels.ignore == 3
    workspace = plan_workspace(dataset, tmp_path / "w")
    result = crossvalidation.train(workspace, "3d_fullres", 0, iterations=200, device="cpu", precision="fp32")
    assert result is not None
    assert result.evaluation.table["error"].eq("").all()
    names = workspace.split(0).validation
    dice = []
    for name in names:
        found = io.read_labels(result.folder / f"validation/{name}.nii.gz").array
        assert found.max() <= 2  # nobody is told "ignore"
        whole = blob_cases(6, shape=(10, 14, 14))[int(name[-1])].labels
        dice.append(2 * np.sum((found == whole) & (whole > 0)) / (np.sum(found > 0) + np.sum(whole > 0)))
    assert np.mean(dice) > 0.7, dice
