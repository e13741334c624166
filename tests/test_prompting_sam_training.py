"""Fine-tuning of SAM: what it is shown, that it learns, goes on bit for bit, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg import cli, io
from medseg.dataset import Dataset
from medseg.errors import CasesFailedError, UsageError
from medseg.progress import silent
from medseg.prompting import Box, load
from medseg.prompting.sam.samples import LOOSE_SHARE, SliceCase, batch_of, cut, draw
from medseg.prompting.sam.trainer import LEARN, Learn, SamRun, SamTrainer, mask_loss
from medseg.prompting.sam.training import finetune_sam
from medseg.prompting.sam.weights import load_sam
from medseg.splits import Split
from medseg.volume import Geometry, LabelVolume, Volume

pytest.importorskip("transformers", reason="SAM needs transformers: pip install 'medseg[prompting]'")
GRID = Geometry.from_spacing((20, 4, 24), (1.0, 3.0, 1.0))  # the second axis is the coarsest
SPLIT = Split(("c0", "c1", "c2"), ("c3",))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Bright rectangles of two classes on a dark ground."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(4):
        random = np.random.default_rng(i)
        mask = np.zeros(GRID.shape, np.uint8)
        z, x = random.integers(1, 5, 2)
        mask[z : z + 6, 1:, x : x + 7], mask[z + 8 : z + 13, :3, x + 9 : x + 15] = 2, 5
        image = np.where(mask > 0, 200, 50) + random.normal(0, 10, GRID.shape)
        io.write(Volume(image[None].astype(np.float32), GRID), folder / "images" / f"c{i}.nii.gz")
        io.write(LabelVolume(mask, GRID), folder / "labels" / f"c{i}.nii.gz")
    (folder / "d.yaml").write_text(
        "name: d\nchannels: [MR]\nlabels: {one: 2, two: 5}\nimages: 'images/{case}.nii.gz'\n"
        "label: 'labels/{case}.nii.gz'\n"
    )
    return Dataset.open(folder / "d.yaml")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest SAM that is one, untrained."""
    from benchmarks.finetune_sam import small_sam

    folder = tmp_path_factory.mktemp("weights") / "small"
    small_sam(64, 32, 2, seed=0).save_pretrained(folder)
    return folder


def test_slices_lie_across_the_coarsest_axis(dataset: Dataset, tmp_path: Path):
    cases = cut(dataset.cases, dataset.labels, dataset.channels, tmp_path, silent)
    assert cases[0].picture.shape == (1, 4, 20, 24)
    assert {name: found.tolist() for name, found in cases[0].slices.items()} == {"one": [1, 2, 3], "two": [0, 1, 2]}
    drawn = [draw(cases, np.random.default_rng(i)) for i in range(100)]
    assert {(sample.case, sample.label) for sample in drawn} == {(i, name) for i in range(4) for name in ("one", "two")}


@pytest.mark.parametrize("style", ["medsam", "sam"])
def test_boxes_lie_loosely_around_masks(dataset: Dataset, tmp_path: Path, style: Any):
    cases: tuple[SliceCase, ...] = cut(dataset.cases, dataset.labels, dataset.channels, tmp_path, silent)
    random = np.random.default_rng(1)
    samples = [draw(cases, random) for _ in range(12)]
    images, boxes, masks = batch_of(cases, samples, dataset.labels, 240, style, random)
    assert images.shape == (12, 3, 240, 240)
    assert masks.shape == (12, 1, 240, 240)
    for sample, (box,), (mask,) in zip(samples, boxes.numpy(), masks.numpy(), strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        outwards = (box - tight) * (-1, -1, 1, 1)
        assert (outwards >= -1e-3).all()
        assert (outwards <= LOOSE_SHARE * 240 + 1e-3).all()
        width, height = (240 / 24, 240 / 20) if style == "medsam" else (10, 10)
        size = {"one": (6, 7), "two": (5, 6)}[sample.label]
        assert mask.sum() == pytest.approx(size[0] * height * size[1] * width)


def test_loss_with_a_pencil():
    sure, unsure = torch.tensor([[[[50.0, -50.0]]]]), torch.zeros(1, 1, 1, 2)
    truth = torch.tensor([[[[True, False]]]])
    assert float(mask_loss(sure, truth)) == pytest.approx(0, abs=1e-4)
    # Dice: 2 * 0.5 / (0.25 + 0.25 + 1); cross-entropy: log 2
    assert float(mask_loss(unsure, truth)) == pytest.approx(1 - 1 / 1.5 + np.log(2), abs=1e-4)


def test_it_learns_and_is_a_checkpoint_like_every_other(dataset: Dataset, checkpoint: Path, tmp_path: Path):
    history = finetune_sam(
        dataset, SPLIT, checkpoint, tmp_path / "out", iterations=60, learning_rate=1e-3, device="cpu"
    )
    assert history is not None
    assert history[0].iteration == 0
    assert history[-1].iteration == 60
    assert history[-1].validation_loss < 0.8 * history[0].validation_loss
    assert history[-1].mean_dice > history[0].mean_dice
    assert (tmp_path / "out" / "progress.png").is_file()
    assert not (tmp_path / "out" / "slices").exists()
    before, after = load_sam(checkpoint)[0].state_dict(), load_sam(tmp_path / "out")[0].state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"vision_encoder", "mask_decoder"}
    session = load(tmp_path / "out", "cpu", engine="medsam")
    session.set_image(io.read(dataset.cases[3].images[0]))
    mask = session.add(Box((2, 2, 2), (10, 3, 10))).array
    assert set(np.flatnonzero(mask.any((0, 2)))) <= {0, 1, 2, 3}
    again = finetune_sam(dataset, SPLIT, checkpoint, tmp_path / "out", iterations=60, learning_rate=1e-3, device="cpu")
    assert again is not None  # done already: read from its files
    assert [row.iteration for row in again] == [row.iteration for row in history]
    assert again[-1].mean_dice == pytest.approx(history[-1].mean_dice, rel=1e-4)
    with pytest.raises(UsageError, match="other settings"):
        finetune_sam(dataset, SPLIT, checkpoint, tmp_path / "out", iterations=61, device="cpu")


def learning(network: Any, dataset: Dataset, learn: Learn) -> dict[str, int]:
    """Numbers that learn, by part of the network."""
    SamTrainer(network, SamRun(2, "", (), (), "medsam", learn, 1, 1, 1e-3, 0), dataset.labels)
    counts: dict[str, int] = {}
    for name, value in network.named_parameters():
        if value.requires_grad:
            counts[name.split(".")[0]] = counts.get(name.split(".")[0], 0) + value.numel()
    return counts


def test_how_much_learns(dataset: Dataset, checkpoint: Path):
    counts = {learn: learning(load_sam(checkpoint)[0], dataset, learn) for learn in LEARN}
    decoder, encoder = counts["all"]["mask_decoder"], counts["all"]["vision_encoder"]
    # Two blocks of 32 features; of each queries and values, of each of them two matrices of 4 x 32.
    assert counts == {
        "all": {"mask_decoder": decoder, "vision_encoder": encoder},
        "lora": {"mask_decoder": decoder, "vision_encoder": 2 * 2 * 2 * 4 * 32},
        "decoder": {"mask_decoder": decoder},
    }
    assert encoder > 10 * counts["lora"]["vision_encoder"]


@pytest.mark.parametrize("learn", ["lora", "decoder"])
def test_a_stopped_run_goes_on_bit_for_bit(dataset: Dataset, checkpoint: Path, tmp_path: Path, learn: Learn):
    def tuned(folder: str, stop_at: int | None = None) -> bool:
        steps = iter(range(100))
        stop = (lambda: False) if stop_at is None else (lambda: next(steps) >= stop_at)
        out = tmp_path / folder
        done = finetune_sam(dataset, SPLIT, checkpoint, out, iterations=6, learn=learn, device="cpu", should_stop=stop)
        return done is not None

    assert tuned("whole")
    assert not tuned("parts", stop_at=2)
    assert (tmp_path / "parts" / "checkpoint.safetensors").is_file()
    assert tuned("parts")
    whole, parts = (load_sam(tmp_path / folder)[0].state_dict() for folder in ("whole", "parts"))
    before = load_sam(checkpoint)[0].state_dict()
    assert list(whole) == list(before)  # a folder like every other
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
        if name.endswith("attn.qkv.weight") and name.startswith("vision_encoder") and learn == "lora":
            queries, keys, values = (value - before[name]).split(32)
            assert not keys.any(), name
            assert queries.any() or values.any(), name
        else:
            assert name.startswith("mask_decoder") or torch.equal(value, before[name]), name


def test_bad_input(dataset: Dataset, checkpoint: Path, tmp_path: Path, capsys: Any):
    data = dataset.cases[0].images[0].parents[1] / "d.yaml"

    def refused(*words: object) -> str:
        capsys.readouterr()
        assert cli.run(["finetune-sam", *map(str, words)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    weights = ("--checkpoint", checkpoint, "-o", tmp_path / "o")
    assert "nowhere: no such file or folder" in refused(tmp_path / "nowhere", *weights)
    assert "there are folds 0-3" in refused(data, *weights, "--fold", 9)
    assert "--engine unet: expected" in refused(data, *weights, "--engine", "unet")
    assert "--learn nothing: expected one of all, lora, decoder" in refused(data, *weights, "--learn", "nothing")
    assert "medseg weights get sam-vit-b" in refused(data, "--checkpoint", "sam-vit-b", "-o", tmp_path / "o")
    assert "--learning-rate" in refused(data, *weights, "--learning-rate", 0)
    assert "not read as a checkpoint" in refused(data, "--checkpoint", data, "-o", tmp_path / "o")
    assert not (tmp_path / "o").exists()
    empty = Dataset("d", ("a", "b"), dataset.labels, dataset.cases)
    with pytest.raises(CasesFailedError, match="expected 2 channels"):
        finetune_sam(empty, SPLIT, checkpoint, tmp_path / "o", iterations=1, device="cpu")


def test_from_the_command_line(dataset: Dataset, checkpoint: Path, tmp_path: Path, capsys: Any):
    data = dataset.cases[0].images[0].parents[1] / "d.yaml"
    words = [
        "finetune-sam",
        data,
        "--checkpoint",
        checkpoint,
        "-o",
        tmp_path / "o",
        "--iterations",
        2,
        "--device",
        "cpu",
        "--learn",
        "lora",
    ]
    assert cli.run(list(map(str, words))) == 0
    assert "Dice on held-out slices" in capsys.readouterr().out
