"""``medseg prompt`` and ``medseg train --promptable``, from files to files, and what is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_prompting_unet import GRIDS, answering, scan, write_promptable

from medseg import cli, io
from medseg.phantoms import PhantomKind, write_dataset
from medseg.volume import LabelVolume

TINY = PhantomKind((40.0, 48.0, 48.0), (4.0, 3.0, 3.0), (4.0, 3.0, 3.0))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_promptable(tmp_path / "model")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    io.write(scan(GRIDS[2]), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def prompt(*arguments: object) -> int:
    return cli.run(["prompt", *map(str, arguments), "--device", "cpu"])


def refused(capsys: Any, *arguments: object) -> str:
    """The one line on stderr of a command that ends with code 2."""
    capsys.readouterr()
    assert prompt(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("medseg: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_mask_from_a_box_and_points(tmp_path: Path, model: Path, image: Path, capsys: Any):
    output, saved = tmp_path / "mask.nii.gz", tmp_path / "prompts.json"
    options = ["-o", output, "--checkpoint", model, "--save-prompts", saved]
    assert prompt(image, *options, "--box", "4,2,1,20,9,6", "--point", "6,5,4", "--point", "7,5,4,-", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["engine"] == "unet"
    assert document["mask"] == str(output)
    mask = io.read_labels(output)
    mask.geometry.require_equal(io.read(image).geometry, "mask", "image")
    steps = json.loads(saved.read_text())["steps"]
    assert [entry["kind"] for entry in steps[0]] == ["box", "point", "point"]
    assert [entry["positive"] for entry in steps[0]] == [True, True, False]
    again = tmp_path / "again.nii.gz"
    assert prompt(image, "-o", again, "--checkpoint", model, "--prompts", saved) == 0
    np.testing.assert_array_equal(io.read_labels(again).array, mask.array)
    assert "object 1: " in capsys.readouterr().out


def test_a_mask_to_refine(tmp_path: Path, model: Path, image: Path, monkeypatch: pytest.MonkeyPatch):
    answering(monkeypatch, 4)
    grid = io.read(image).geometry
    given = np.zeros(grid.shape, np.uint8)
    given[4:12, 2:8, 2:6] = 1
    given[20:26, 2:8, 2:6] = 3
    io.write(LabelVolume(given, grid), tmp_path / "given.nii.gz")
    output = tmp_path / "mask.nii.gz"
    assert prompt(image, "-o", output, "--checkpoint", model, "--from-mask", tmp_path / "given.nii.gz") == 0
    found = io.read_labels(output).array
    assert set(np.unique(found).tolist()) == {0, 1, 3}
    assert (found == given).mean() > 0.95


def test_bad_input_is_one_line(tmp_path: Path, model: Path, image: Path, capsys: Any):
    options = (image, "-o", tmp_path / "mask.nii.gz", "--checkpoint", model)
    assert "give --box" in refused(capsys, *options)
    assert "outside of the image of 30 x 14 x 9 voxels" in refused(capsys, *options, "--point", "99,2,3")
    assert "outside of the image" in refused(capsys, *options, "--box", "0,0,0,40,5,5")
    assert "empty along z" in refused(capsys, *options, "--box", "3,0,0,3,5,5")
    assert "--box 1,2: expected 6 numbers" in refused(capsys, *options, "--box", "1,2")
    assert "--point a,b,c: expected 3 numbers" in refused(capsys, *options, "--point", "a,b,c")
    point = ("--point", "3,3,3")
    assert "--engine sam9: expected one of" in refused(capsys, *options, *point, "--engine", "sam9")
    assert "unet takes no text; sam3 does" in refused(capsys, *options, "--text", "liver")
    assert "no such file" in refused(capsys, *options, "--prompts", tmp_path / "no.json")
    assert "--window" in refused(capsys, *options, *point, "--window", "5")
    assert "all its prompts are negative" in refused(capsys, *options, "--point", "3,3,3,-")
    assert ".xyz" in refused(capsys, image, "-o", tmp_path / "mask.xyz", "--checkpoint", model, *point)
    assert "no such checkpoint" in refused(capsys, *options[:3], "--checkpoint", tmp_path / "no.pth", *point)
    other = LabelVolume(np.ones((3, 3, 3), np.uint8), GRIDS[0].resized((3, 3, 3)))
    io.write(other, tmp_path / "other.nii.gz")
    assert "other.nii.gz" in refused(capsys, *options, "--from-mask", tmp_path / "other.nii.gz")
    empty = LabelVolume(np.zeros(GRIDS[2].shape, np.uint8), GRIDS[2])
    io.write(empty, tmp_path / "empty.nii.gz")
    assert "it is empty" in refused(capsys, *options, "--from-mask", tmp_path / "empty.nii.gz")
    assert not (tmp_path / "mask.nii.gz").exists()


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_checkpoints_that_are_refused(tmp_path: Path, image: Path, capsys: Any):
    pytest.importorskip("transformers")
    options = (image, "-o", tmp_path / "mask.nii.gz", "--point", "3,3,3", "--checkpoint", tmp_path / "weights.pth")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    assert "not SAM's architecture" in refused(capsys, *options)
    torch.save({"weight": Malice(tmp_path / "sentinel")}, tmp_path / "weights.pth")
    assert "asks to run posix.system" in refused(capsys, *options)
    assert not (tmp_path / "sentinel").exists()


def test_from_a_dataset_to_a_mask(tmp_path: Path, capsys: Any, monkeypatch: Any):
    dataset = write_dataset(tmp_path / "data", training=5, test=1, kind=TINY)
    workspace = tmp_path / "w"
    assert cli.run(["plan", str(dataset), "-w", str(workspace)]) == 0
    train = ["train", "-w", str(workspace), "--promptable", "--fold", "0", "--iterations", "2", "--device", "cpu"]
    assert cli.run(train) == 0
    model = workspace / "models" / "3d_fullres_promptable"
    assert str(model) in capsys.readouterr().out
    assert (model / "fold_0" / "progress.csv").is_file()
    assert cli.run(train) == 0  # done already
    image = dataset / "imagesTs" / "phantom_005.nii.gz"
    assert prompt(image, "-o", tmp_path / "mask.nii.gz", "--checkpoint", model, "--point", "3,3,3") == 0
    capsys.readouterr()
    assert cli.run([*train, "--balance-classes"]) == 2
    assert "--promptable" in capsys.readouterr().err
    assert cli.run([*train[:-1], "cpu,cpu"]) == 2
    assert "on one --device" in capsys.readouterr().err
    with monkeypatch.context() as several:  # as torchrun tells a process
        several.setenv("WORLD_SIZE", "2")
        several.setenv("RANK", "1")
        assert cli.run(train) == 2
    assert "in one process" in capsys.readouterr().err
    assert cli.run(["predict", str(image), "-o", str(tmp_path / "p.nii.gz"), "-m", str(model)]) == 2
