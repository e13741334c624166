"""Whole journeys on the command line: plan, train, validate, predict and evaluate datasets of every kind.

Each dataset is small and made here. Networks learn for two steps, so what they predict means nothing; the values, the
grid and the file do. What a network that is right would give is checked with logits made from the reference.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medseg import cli, io
from medseg.dataset import Dataset, load_case
from medseg.labels import LabelSet
from medseg.prediction import load_predictor
from medseg.preprocessing import label_planes, prepare, restore

CASES = tuple(f"case_{number}" for number in range(5))
# Rows from left to right, columns from front to back, 2 mm slices, stored upside down.
AFFINE = np.array([[-1.0, 0, 0, 9], [0, 1.0, 0, -4], [0, 0, -2.0, 20], [0, 0, 0, 1]])
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}

Write = Callable[[Path], Path]


@dataclass(frozen=True)
class Journey:
    """A dataset, and what the command line made of it."""

    dataset: Dataset
    folder: Path
    workspace: Path
    model: Path
    scans: Path
    out: Path


def medseg(*arguments: object) -> None:
    assert cli.run(["--debug", *map(str, arguments)]) == 0, arguments


def travel(capsys, folder: Path, *, configuration: str, preset: str = "default") -> Journey:
    """Plan, train fold 0 for two steps, and predict every training scan."""
    workspace, out, scans = folder.parent / "w", folder.parent / "masks", folder / "imagesTr"
    medseg("plan", folder, "-w", workspace, "--preset", preset)
    medseg("train", "-w", workspace, "-c", configuration, "--fold", "0", "--iterations", "2", "--device", "cpu")
    medseg("predict", scans, "-o", out, "-w", workspace, "-c", configuration, "--probabilities", "--device", "cpu")
    capsys.readouterr()
    return Journey(Dataset.open(folder), folder, workspace, workspace / "models" / configuration, scans, out)


def check(capsys, journey: Journey) -> None:
    """What must hold for a dataset of any kind."""
    labels = journey.dataset.labels
    check_progress(journey.model / "fold_0/progress.csv", labels)
    validation = pd.read_csv(journey.model / "fold_0/validation/metrics.csv")
    assert set(validation["label"]) == set(labels.names)
    assert validation["error"].isna().all()
    predictor = load_predictor(journey.model, device="cpu")
    perfect = journey.out.with_name("perfect")
    for case in journey.dataset.cases:
        assert case.label is not None
        path = journey.out / case.label.name
        scan, mask, reference = io.read(case.images), io.read_labels(path), io.read_labels(case.label)
        mask.geometry.require_equal(scan.geometry, "mask", "scan")
        assert mask.array.dtype == labels.dtype
        probabilities = np.load(path.with_name(f"{case.name}.npz"))["probabilities"]
        assert probabilities.shape == (labels.output_count, *scan.geometry.shape)
        # The same decision from the written probabilities, but for voxels on the edge of it.
        assert (decided(probabilities, labels) == mask.array).mean() > 0.999
        # A network that is right gives the reference back, where somebody annotated it.
        image, known = load_case(case, labels, journey.dataset.channels)
        prepared = prepare(image, predictor.plan, predictor.members[0].configuration, known, case=case.name)
        planes = label_planes([right_logits(prepared.labels, labels)], prepared.trace, labels)
        right = restore(planes, prepared.trace, labels)
        expected = reference.array
        if labels.ignore is not None:
            expected = np.where(expected == labels.ignore, labels.background, expected)
        np.testing.assert_array_equal(right.array, expected)
        io.write(right, perfect / case.label.name, like=case.images[0])
    evaluation = evaluate(capsys, perfect, journey.folder / "labelsTr")
    assert set(evaluation["label"]) == set(labels.names)
    assert evaluation["dice"].dropna().eq(1).all()
    assert evaluation["dice"].notna().any()


def evaluate(capsys, predictions: Path, references: Path) -> pd.DataFrame:
    """The table of ``medseg evaluate``, which must succeed."""
    report = predictions.with_name(predictions.name + "_report")
    medseg("evaluate", predictions, references, "-o", report)
    capsys.readouterr()
    return pd.read_csv(report / "metrics.csv")


def decided(probabilities: np.ndarray, labels: LabelSet) -> np.ndarray:
    """File values from probabilities (K, Z, Y, X), written out again from the definition."""
    if not labels.has_regions:
        return np.array((labels.background, *labels.values))[probabilities.argmax(0)]
    values = np.full(probabilities.shape[1:], labels.background)
    for probability, value in zip(probabilities, labels.region_order or (), strict=True):
        values[probability > 0.5] = value
    return values


def right_logits(indices: np.ndarray | None, labels: LabelSet) -> torch.Tensor:
    """Logits (K, Z, Y, X) of a network that knows the reference; background where nobody annotated."""
    assert indices is not None
    if labels.has_regions:
        hit = np.stack([np.isin(indices, covered) for covered in labels.class_indices])
    else:
        known = np.where(indices == labels.ignore_index, 0, indices)
        hit = np.arange(labels.output_count)[:, None, None, None] == known
    return torch.from_numpy(np.where(hit, 10.0, -10.0).astype(np.float32))


def check_progress(path: Path, labels: LabelSet) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert [name for name in rows[0] if name.startswith("dice_")] == [f"dice_{name}" for name in labels.names]
    assert all(None not in row and None not in row.values() for row in rows)


def boxes(seed: int, shape: tuple[int, ...], values: tuple[int, ...]) -> np.ndarray:
    """Boxes inside one another, one a value, at a random place."""
    start = np.random.default_rng(seed).integers(2, 4, len(shape))
    mask = np.zeros(shape, dtype=np.int16)
    for depth, value in enumerate(values):
        mask[tuple(slice(s + depth, n - 2 - depth) for s, n in zip(start, shape, strict=True))] = value
    return mask


def bright(seed: int, mask: np.ndarray, channels: int) -> np.ndarray:
    """An image (channels, ...) whose every value of the mask has a brightness of its own."""
    random = np.random.default_rng((seed, 1))
    order = np.unique(mask, return_inverse=True)[1].reshape(mask.shape)
    return np.stack([40 + 50 * order + random.normal(0, 5, mask.shape) for _ in range(channels)])


def save(array: np.ndarray, path: Path) -> None:
    """Write (X, Y, Z) or (X, Y, Z, C) as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, AFFINE)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def write_nnunet(folder: Path, channels: int, labels: Mapping[str, Any], values: tuple[int, ...], **more: Any) -> Path:
    """An nnU-Net v2 raw folder of small volumes, one file a channel."""
    for seed, case in enumerate(CASES):
        mask = boxes(seed, (18, 16, 12), values)
        save(mask, folder / f"labelsTr/{case}.nii.gz")
        for channel, image in enumerate(bright(seed, mask, channels)):
            save(image.astype(np.float32), folder / f"imagesTr/{case}_{channel:04d}.nii.gz")
    names = {str(channel): f"MR{channel}" for channel in range(channels)}
    document = {"channel_names": names, "labels": labels, "numTraining": len(CASES), "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def write_msd(folder: Path, channels: list[str], labels: Mapping[str, str], ending: str) -> Path:
    """The document of a Decathlon folder whose files are there."""
    training = [{"image": f"./imagesTr/{c}{ending}", "label": f"./labelsTr/{c}{ending}"} for c in CASES]
    modality = {str(number): name for number, name in enumerate(channels)}
    document = {"name": folder.name, "modality": modality, "labels": labels, "training": training}
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def write_pictures(folder: Path, suffix: str = "") -> None:
    """Colour pictures and their 0/255 masks."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for seed, case in enumerate(CASES):
        mask = boxes(seed, (40, 33 + seed), (255,))
        colours = np.moveaxis(bright(seed, mask, 3), 0, -1).clip(0, 255).astype(np.uint8)
        Image.fromarray(colours).save(folder / f"imagesTr/{case}{suffix}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"labelsTr/{case}.png")


def check_pictures(journey: Journey) -> None:
    """Masks are 8-bit grey PNG files with 0 and 255 only, of the size of their pictures."""
    for case in journey.dataset.cases:
        with Image.open(journey.out / f"{case.name}.png") as mask, Image.open(case.images[0]) as picture:
            assert (mask.format, mask.mode, mask.size) == ("PNG", "L", picture.size)
            assert set(np.unique(np.asarray(mask))) <= {0, 255}


def test_colour_pictures(capsys, tmp_path):
    write_pictures(tmp_path / "d")
    folder = write_msd(tmp_path / "d", ["R", "G", "B"], {"0": "background", "255": "nucleus"}, ".png")
    journey = travel(capsys, folder, configuration="2d")
    check(capsys, journey)
    check_pictures(journey)


def test_colour_pictures_in_an_nnunet_folder(capsys, tmp_path):
    """There ``CASE_0000.png`` holds all colours."""
    folder = tmp_path / "d"
    write_pictures(folder, "_0000")
    names = {"0": "R", "1": "G", "2": "B"}
    document = {"channel_names": names, "labels": {"background": 0, "nucleus": 255}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps({**document, "numTraining": len(CASES)}))
    journey = travel(capsys, folder, configuration="2d")
    check(capsys, journey)
    check_pictures(journey)


def test_microscopy(capsys, tmp_path, shared):
    """Corners of real pictures of nuclei."""
    source = shared / "data/dsb2018_nuclei"
    if not source.is_dir():
        pytest.skip("the pictures of nuclei are not among the shared data")
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / "d" / part).mkdir(parents=True)
        for case, path in zip(CASES, sorted((source / part).glob("*.png")), strict=False):
            with Image.open(path) as picture:
                picture.crop((0, 0, 64, 48)).save(tmp_path / "d" / part / f"{case}.png")
    folder = write_msd(tmp_path / "d", ["R", "G", "B"], {"0": "background", "255": "nucleus"}, ".png")
    journey = travel(capsys, folder, configuration="2d")
    check(capsys, journey)
    check_pictures(journey)


def test_slices_of_volumes(capsys, tmp_path):
    folder = write_nnunet(tmp_path / "d", 1, {"background": 0, "organ": 1, "lesion": 2}, (1, 2))
    check(capsys, travel(capsys, folder, configuration="2d"))


def test_residual_encoders(capsys, tmp_path):
    folder = write_nnunet(tmp_path / "d", 1, {"background": 0, "organ": 1}, (1,))
    journey = travel(capsys, folder, configuration="3d_fullres", preset="resenc-m")
    assert load_predictor(journey.model, device="cpu").members[0].configuration.network.family == "residual_unet"
    check(capsys, journey)


def test_overlapping_regions_of_two_channels(capsys, tmp_path):
    folder = write_nnunet(tmp_path / "d", 2, REGIONS, (1, 2, 3), regions_class_order=[1, 2, 3])
    journey = travel(capsys, folder, configuration="3d_fullres")
    assert journey.dataset.labels.region_order == (1, 2, 3)
    check(capsys, journey)
    # A region counts all its values: with the innermost one relabelled, only the innermost region is missed.
    changed = tmp_path / "changed"
    for case in CASES:
        volume = io.read_labels(folder / f"labelsTr/{case}.nii.gz")
        io.write(volume.with_array(np.minimum(volume.array, 2)), changed / f"{case}.nii.gz")
    dice = evaluate(capsys, changed, folder / "labelsTr").groupby("label")["dice"].mean()
    assert dict(dice) == {"whole": 1, "core": 1, "enhancing": 0}


def test_voxels_nobody_annotated_do_not_count(capsys, tmp_path):
    labels = {"background": 0, "organ": 1, "lesion": 2, "ignore": 3}
    folder = write_nnunet(tmp_path / "d", 1, labels, (3, 1, 2))
    journey = travel(capsys, folder, configuration="3d_fullres")
    check(capsys, journey)
    assert all(io.read_labels(journey.out / f"{case}.nii.gz").array.max() <= 2 for case in CASES)
    wrong = tmp_path / "wrong"
    for case in CASES:
        volume = io.read_labels(folder / f"labelsTr/{case}.nii.gz")
        io.write(volume.with_array(np.where(volume.array == 3, 1, volume.array)), wrong / f"{case}.nii.gz")
    assert evaluate(capsys, wrong, folder / "labelsTr")["dice"].eq(1).all()


def test_odd_values_and_channels_on_a_fourth_axis(capsys, tmp_path):
    folder = tmp_path / "d"
    for seed, case in enumerate(CASES):
        mask = boxes(seed, (18, 16, 12), (5, 300, -2))
        save(mask, folder / f"labelsTr/{case}.nii.gz")
        save(np.moveaxis(bright(seed, mask, 2), 0, -1).astype(np.float32), folder / f"imagesTr/{case}.nii.gz")
    labels = {"0": "background", "5": "five", "300": "many", "-2": "owed"}
    journey = travel(capsys, write_msd(folder, ["T1", "T2"], labels, ".nii.gz"), configuration="3d_fullres")
    assert journey.dataset.labels.dtype == np.int16
    check(capsys, journey)
    for case in CASES:
        mask = nib.load(journey.out / f"{case}.nii.gz")
        assert mask.shape == (18, 16, 12)
        np.testing.assert_array_equal(mask.affine, AFFINE)


def add_cascade(plan_path: Path) -> None:
    """A coarse configuration and a second stage after it, as larger scans get them from the rules."""
    plan = json.loads(plan_path.read_text())
    (full,) = [each for each in plan["configurations"] if each["name"] == "3d_fullres"]
    coarse = [2 * spacing for spacing in full["spacing_mm"]]
    plan["configurations"] += [
        {**full, "name": "3d_lowres", "spacing_mm": coarse},
        {**full, "name": "3d_cascade_fullres", "previous_stage": "3d_lowres"},
    ]
    plan_path.write_text(json.dumps(plan))


def test_both_stages_of_a_cascade(capsys, tmp_path):
    folder = write_nnunet(tmp_path / "d", 1, {"background": 0, "organ": 1, "lesion": 2}, (1, 2))
    workspace, scans = tmp_path / "w", folder / "imagesTr"
    medseg("plan", folder, "-w", workspace)
    add_cascade(workspace / "plan.json")
    steps = ("--iterations", "2", "--device", "cpu")
    medseg("train", "-w", workspace, "-c", "3d_lowres", "--fold", "0-3", *steps)
    capsys.readouterr()
    # The second stage learns from masks of cases that the first has not seen, so all of its folds are needed.
    assert cli.run(["train", "-w", str(workspace), "-c", "3d_cascade_fullres", "--fold", "0", *steps]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"first run: medseg train -w {workspace} -c 3d_lowres --fold 4")
    medseg("train", "-w", workspace, "-c", "3d_lowres", "--fold", "4", *steps)
    medseg("train", "-w", workspace, "-c", "3d_cascade_fullres", "--fold", "0", *steps)
    model = workspace / "models/3d_cascade_fullres"
    assert (model / "fold_0/validation/metrics.csv").is_file()
    # The model is self-contained: its first stage travels with it.
    alone = shutil.copytree(model, tmp_path / "alone")
    shutil.rmtree(workspace)
    medseg("predict", scans, "-o", tmp_path / "masks", "-m", alone, "--device", "cpu")
    predictor = load_predictor(alone, device="cpu")
    assert predictor.previous is not None
    for case in CASES:
        scan = io.read(scans / f"{case}_0000.nii.gz")
        mask = io.read_labels(tmp_path / f"masks/{case}.nii.gz")
        mask.geometry.require_equal(scan.geometry, "mask", "scan")
        assert set(np.unique(mask.array)) <= {0, 1, 2}
        np.testing.assert_array_equal(mask.array, predictor.predict(scan).array)
