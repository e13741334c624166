"""The benchmark of equal minutes: recorded parts, tables of them, and nnU-Net's raw form of pictures."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import ladder
from benchmarks.ladder_table import Part, load_parts, save_part, tables
from benchmarks.nnunet_raw import read_back, write_raw
from medseg import io
from medseg.dataset import Dataset
from medseg.splits import Split

PART = Part(
    dataset="hippocampus",
    program="medseg",
    seed=0,
    old=False,
    minutes=10.0,
    processor="A processor",
    version="medseg 1",
    torch="2.13.0",
    threads=2,
    training_cases=160,
    cases=40,
    iterations=700,
    batch=2,
    patch=(40, 56, 40),
    seconds={"training": 600.0},
    mirroring=None,
    dice={"Anterior": 0.9, "Posterior": None},
    surface_dice={"Anterior": 0.95, "Posterior": 0.95},
    mean_dice=0.9,
    mean_surface_dice=0.95,
)


def part(dataset: str, program: str, dice: float, surface: float, **changes: object) -> Part:
    """A part with these means."""
    named = {"dataset": dataset, "program": program, "mean_dice": dice, "mean_surface_dice": surface}
    return dataclasses.replace(PART, **named, **changes)


def test_parts_come_back_and_one_of_the_same_key_replaces(tmp_path: Path) -> None:
    path = tmp_path / "results" / "ladder.json"
    assert load_parts(path) == []
    others = [
        dataclasses.replace(PART, **change)
        for change in ({"seed": 1}, {"old": True}, {"minutes": 5.0}, {"processor": "B"}, {"program": "nnunet"})
    ]
    for each in (PART, *others):
        save_part(path, each)
    assert load_parts(path) == [PART, *others]
    again = dataclasses.replace(PART, mean_dice=0.8)
    save_part(path, again)
    assert load_parts(path) == [*others, again]


def test_the_difference_is_to_the_better_peer_and_the_mean_is_over_whole_rows() -> None:
    parts = [
        part("hippocampus", "medseg", 0.90, 0.95),
        part("hippocampus", "medseg", 0.80, 0.95, seed=1),
        part("hippocampus", "nnunet", 0.10, 0.99),
        part("hippocampus", "nnunet-kind", 0.80, 0.90),
        part("cells", "medseg", 0.70, 0.50),
        part("cells", "nnunet", 0.90, 0.40),
        part("cells", "nnunet-kind", 0.80, 0.40),
        part("sts", "medseg", 0.20, 0.20),
    ]
    lines = tables(parts, ["cells", "hippocampus", "sts", "cord"]).splitlines()
    assert lines[0] == "10 minutes, A processor, 2 threads"
    assert lines[2:8] == [
        "| Dice | held out | medseg | nnunet | nnunet-kind | difference |",
        "|---|---|---|---|---|---|",
        "| cells | 40 | 0.700 | 0.900 | 0.800 | -0.200 |",
        "| hippocampus | 40 | 0.850 | 0.100 | 0.800 | +0.050 |",
        "| sts | 40 | 0.200 |  |  |  |",
        "| mean of 2 whole rows | | 0.775 | 0.500 | 0.800 | -0.075 |",
    ]
    assert lines[9].startswith("| surface Dice |")
    assert lines[12] == "| hippocampus | 40 | 0.950 | 0.990 | 0.900 | -0.040 |"


def test_an_old_processor_and_another_time_have_tables_of_their_own() -> None:
    parts = [PART, dataclasses.replace(PART, old=True), dataclasses.replace(PART, minutes=5.0)]
    heads = [line for line in tables(parts, ["hippocampus"]).splitlines() if re.search(r"\d minutes,", line)]
    assert heads == [
        "5 minutes, A processor, 2 threads",
        "10 minutes, A processor, 2 threads",
        "10 minutes, A processor as a processor without AVX-512 (ONEDNN_MAX_CPU_ISA=AVX2, fp32), 2 threads",
    ]


def test_a_prediction_without_mirroring_is_said() -> None:
    told = tables([PART, part("hippocampus", "nnunet", 0.1, 0.1, mirroring=False)], ["hippocampus"])
    assert told.endswith("would have taken too long: nnunet on hippocampus.")
    assert "without mirroring" not in tables([PART], ["hippocampus"])


def test_parts_that_are_recorded_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(tmp_path / "shared" / "data" / "wbc_cells")
    ran: list[str] = []

    def fake(task: ladder.Task) -> ladder.Trained:
        ran.append(task.program)
        assert [case.name for case in task.held_out] == list(task.splits[0].validation)
        if task.program == "nnunet-kind":
            raise RuntimeError("no luck")
        return ladder.Trained("v", "t", 3, 2, (8, 8), {"training": 1.0}, None, data / "labelsTr")

    monkeypatch.setattr(ladder, "train_own", fake)
    monkeypatch.setattr(ladder, "train_peer", fake)
    command = ["ladder", "--datasets", "cells", "--minutes", "1", "--peer-python", "python"]
    for option, name in (("--shared", "shared"), ("--folder", "made"), ("--results", "ladder.json")):
        command += [option, str(tmp_path / name)]
    monkeypatch.setattr(sys, "argv", command)
    for expected in (["medseg", "nnunet", "nnunet-kind"], ["nnunet-kind"]):
        ran.clear()
        with pytest.raises(SystemExit, match="failed: cells nnunet-kind"):
            ladder.main()
        assert ran == expected
    assert [(p.program, p.mean_dice, p.mean_surface_dice) for p in load_parts(tmp_path / "ladder.json")] == [
        ("medseg", 1.0, 1.0),
        ("nnunet", 1.0, 1.0),
    ]
    assert "| cells | 1 | 1.000 | 1.000 |  |  |" in capsys.readouterr().out


def pictures(folder: Path) -> Path:
    """Five colour pictures with the labels 0, 128 and 255, and with opaque alpha."""
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(5):
        colours = rng.integers(0, 255, (6, 9, 4), np.uint8)
        colours[..., 3] = 255
        Image.fromarray(colours).save(folder / "imagesTr" / f"cell_{number}.png")
        mask = np.repeat(np.array([0, 128, 255], np.uint8), 3)[None].repeat(6, axis=0)
        Image.fromarray(mask).save(folder / "labelsTr" / f"cell_{number}.png")
    return folder


def test_pictures_go_to_nnunets_form_and_masks_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pictures(tmp_path / "cells")
    manifest = Path(__file__).parents[1] / "data_manifests" / "wbc_cells.yaml"
    dataset = Dataset.open(manifest, root=folder)
    raw = tmp_path / "raw"
    write_raw(dataset, raw, [Split(("cell_0",), ("cell_1",))])
    document = json.loads((raw / "dataset.json").read_text())
    assert document["labels"] == {"background": 0, "cytoplasm": 1, "nucleus": 2}
    assert (document["file_ending"], document["numTraining"]) == (".png", 5)
    assert json.loads((raw / "splits.json").read_text()) == [{"train": ["cell_0"], "val": ["cell_1"]}]
    colours = np.asarray(Image.open(raw / "imagesTr" / "cell_3_0000.png"))
    assert np.array_equal(colours, np.asarray(Image.open(folder / "imagesTr" / "cell_3.png"))[..., :3])
    assert np.unique(np.asarray(Image.open(raw / "labelsTr" / "cell_3.png"))).tolist() == [0, 1, 2]
    back = read_back(dataset, raw / "labelsTr", tmp_path / "back")
    for case in dataset.cases:
        assert case.label is not None
        found, wanted = io.read_labels(back / f"{case.name}.png"), io.read_labels(case.label)
        assert np.array_equal(found.array, wanted.array)


def test_every_row_is_a_dataset_with_both_sides_of_fold_0(shared: Path) -> None:
    for row in ladder.ROWS.values():
        manifest = ladder.ROOT / "data_manifests" / f"{row.manifest}.yaml"
        dataset = Dataset.open(manifest, root=shared / row.folder)
        fold = ladder.splits_of(dataset, None if row.splits is None else shared / row.splits)[0]
        names = {case.name for case in dataset.cases}
        assert set(fold.train) | set(fold.validation) == names
        assert not set(fold.train) & set(fold.validation)
        assert min(len(fold.train), len(fold.validation)) >= 2
