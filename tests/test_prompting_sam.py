"""SAM and MedSAM: the same logits as segment-anything and transformers, checkpoints that are refused, volumes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam_examples import BOX, PEER_ANSWERS, POINTS, SIZE, peer_shapes, picture_values, random_tensors

from medseg.errors import DataError, ModelError, UsageError
from medseg.progress import silent
from medseg.prompting import Box, MaskPrompt, Point, Scribble, Text, load
from medseg.prompting.sam.engine import SamEngine
from medseg.prompting.sam.network import embed, low_resolution_logits, pixels, slice_logits
from medseg.prompting.sam.weights import load_sam
from medseg.prompting.slices import embeddings
from medseg.prompting.slices.prompts import SlicePrompts
from medseg.prompting.slices.seeds import seeds_of, slice_axis
from medseg.prompting.slices.windows import Window, window_of
from medseg.volume import Geometry, Volume

pytest.importorskip("transformers", reason="SAM needs transformers: pip install 'medseg[prompting]'")
AS_SEGMENT_ANYTHING = {
    "box": SlicePrompts((BOX[1], BOX[0], BOX[3], BOX[2])),  # type: ignore[arg-type]
    "points": SlicePrompts(None, tuple((y, x, bool(inside)) for x, y, inside in POINTS)),
    "both": SlicePrompts(
        (BOX[1], BOX[0], BOX[3], BOX[2]),  # type: ignore[arg-type]
        tuple((y, x, bool(inside)) for x, y, inside in POINTS),
    ),
}


def original(folder: Path, name: str = "medsam_vit_b.pth") -> Path:
    """The small network's checkpoint in its original form."""
    torch.save({key: torch.from_numpy(value) for key, value in random_tensors(peer_shapes()).items()}, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return original(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> Any:
    return load_sam(checkpoint)[0]


def volume(shape: tuple[int, int, int] = (5, 20, 24), channels: int = 1) -> Volume:
    array = np.random.default_rng(0).normal(100, 30, (channels, *shape)).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape, (3.0, 1.0, 1.0)))


@pytest.mark.parametrize("given", AS_SEGMENT_ANYTHING)
def test_logits_are_those_of_segment_anything(network: Any, given: str) -> None:
    embedding = embed(network, torch.from_numpy(picture_values(SIZE)))
    found = low_resolution_logits(network, embedding, AS_SEGMENT_ANYTHING[given], (SIZE, SIZE), "medsam")
    with np.load(PEER_ANSWERS) as stored:
        expected = stored[given]
    assert expected.std() > 0.05
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3 * expected.std())


def test_logits_are_those_of_transformers_from_its_own_folder(network: Any, tmp_path: Path) -> None:
    from transformers import SamModel

    network.save_pretrained(tmp_path / "folder")
    again, digest = load_sam(tmp_path / "folder")
    assert len(digest) == 64
    values = torch.from_numpy(picture_values(SIZE))
    theirs = SamModel.from_pretrained(tmp_path / "folder", local_files_only=True).eval()
    with torch.no_grad():
        expected = theirs(pixel_values=values, input_boxes=torch.tensor([[BOX]]), multimask_output=False).pred_masks
    for own in (network, again):
        found = low_resolution_logits(own, embed(own, values), AS_SEGMENT_ANYTHING["box"], (SIZE, SIZE), "medsam")
        torch.testing.assert_close(found[None], expected, atol=1e-5, rtol=1e-4)


def test_pixels_of_both_styles() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    stretched = pixels(picture, 64, "medsam")
    assert stretched.shape == (1, 3, 64, 64)
    assert (float(stretched.min()), float(stretched.max())) == (0.0, 1.0)
    padded = pixels(picture, 64, "sam")
    assert padded.shape == (1, 3, 64, 64)
    assert not padded[:, :, 48:].any()
    np.testing.assert_allclose(padded[0, 0, 0, 0], (picture[0, 0, 0] - 123.675) / 58.395, rtol=1e-5)


@pytest.mark.parametrize("style", ["medsam", "sam"])
def test_logits_return_to_the_slice(style: Any) -> None:
    low = torch.zeros(1, 1, 16, 16)
    low[..., :8, :8] = 1
    wide = slice_logits(low, (32, 64), 64, style)
    assert wide.shape == (32, 64)
    height = 16 if style == "medsam" else 32  # the upper half of the stretched slice, or all of the padded one
    np.testing.assert_array_equal(wide[:, :28] > 0.5, np.arange(32)[:, None].repeat(28, 1) < height)
    assert (wide[:, 36:] < 0.5).all()


def test_windows_are_those_of_medsam() -> None:
    grid = Geometry.from_spacing((2, 10, 10), (1, 1, 1))
    ct = np.linspace(-1000, 1000, 200).reshape(1, 2, 10, 10)
    assert window_of(Volume(ct, grid), "ct") == Window(-160.0, 240.0)
    mr = np.concatenate([np.zeros(100), np.arange(1, 101)]).reshape(1, 2, 10, 10)
    low, high = np.percentile(np.arange(1, 101), (0.5, 99.5))
    assert window_of(Volume(mr, grid), "mr") == Window(float(low), float(high))
    assert Window(0, 10).apply(np.array([-5.0, 0, 5, 10, 50])).tolist() == [0, 0, 127, 255, 255]
    with pytest.raises(UsageError, match="rising"):
        Window(3, 3)
    with pytest.raises(DataError, match="NaN"):
        window_of(Volume(np.full((1, 2, 10, 10), np.nan), grid), "scan")


def test_a_session_gives_masks_on_the_grid_of_the_image(checkpoint: Path, tmp_path: Path) -> None:
    session = load(checkpoint, "cpu", cache=tmp_path / "cache")
    assert session.engine.name == "medsam"
    image = volume()
    session.set_image(image)
    calls = []
    mask = session.add(Box((2, 4, 4), (3, 12, 14)), progress=lambda *state: calls.append(state))
    assert mask.array.shape == image.geometry.shape
    assert calls
    mask.geometry.require_equal(image.geometry, "mask", "image")
    files = list((tmp_path / "cache").iterdir())
    assert files
    for file in files:
        file.write_bytes(b"damaged")
    again = load(checkpoint, "cpu", cache=tmp_path / "cache")
    again.set_image(image)
    np.testing.assert_array_equal(again.add(Box((2, 4, 4), (3, 12, 14))).array, mask.array)
    assert all(file.stat().st_size > 1000 for file in files)


def test_embeddings_are_computed_once(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.prompting.sam import engine as sam

    computed = []
    monkeypatch.setattr(sam, "embed", lambda net, values: computed.append(1) or embed(net, values))
    for _ in range(2):  # another engine, the same folder
        engine = SamEngine(network, "digest", torch.device("cpu"), "sam", tmp_path)
        engine.set_image(volume(), case="scan", progress=silent)
        for _ in range(2):
            engine.segment_slice(0, 1, SlicePrompts((2, 2, 9, 9)))
    assert len(computed) == 1


def test_embeddings_in_memory_have_their_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "KEPT_BYTES", 24)  # two of them
    cache, computed = embeddings.EmbeddingCache("weights", None), []

    def embedding(value: int) -> dict[str, torch.Tensor]:
        computed.append(value)
        return {"fine": torch.full((2,), float(value)), "coarse": torch.zeros(1)}

    for value in (1, 2, 1, 3, 1, 2):
        found = cache.get(np.full((2, 2), value, np.uint8), lambda value=value: embedding(value))
        assert found["fine"].tolist() == [value, value]
    assert computed == [1, 2, 3, 2]


def test_prompts_on_slices() -> None:
    shape = (9, 20, 20)
    seeds, limits = seeds_of([Box((2, 0, 4), (3, 4, 8)), Box((6, 4, 4), (7, 8, 12))], 0, shape)
    assert limits is None
    assert [seeds[i].box for i in range(2, 7)] == [
        (0, 4, 4, 8),
        (1, 4, 5, 9),
        (2, 4, 6, 10),
        (3, 4, 7, 11),
        (4, 4, 8, 12),
    ]
    seeds, limits = seeds_of([Box((1, 2, 3), (6, 8, 9)), Point((4, 5, 6), positive=False)], 0, shape)
    assert limits == (1, 6)
    assert seeds == {3: SlicePrompts((2, 3, 8, 9)), 4: SlicePrompts(None, ((5.0, 6.0, False),))}
    for outer, index in ((-0.5, 0), (19.5, 19)):  # the outer faces belong to the image
        assert list(seeds_of([Point((5, outer, 6))], 1, (20, 9, 20))[0]) == [index]
    seeds, _ = seeds_of([Scribble(((4, 10, 4), (4, 10, 16)))], 0, shape)
    assert seeds == {4: SlicePrompts((5, 4, 16, 17))}  # 12 long, and 9 wide


def test_the_axis_of_slices() -> None:
    spacing = (1.0, 2.0, 2.0)
    assert slice_axis([Point((1, 1, 1))], spacing) == 1
    assert slice_axis([Box((1, 1, 1), (2, 5, 5))], spacing) == 0
    assert slice_axis([Scribble(((3, 5, 2), (6, 9, 2)))], spacing) == 2
    with pytest.raises(UsageError, match="different axes"):
        slice_axis([Box((1, 1, 1), (2, 5, 5)), Box((1, 1, 1), (5, 2, 5))], spacing)


def test_a_mask_is_refined_where_it_is(checkpoint: Path) -> None:
    session = load(checkpoint, "cpu", engine="sam")
    session.set_image(volume())
    given = np.zeros((5, 20, 24), bool)
    given[1:3, 4:8, 4:9] = True
    given[2, 12:16, 12:18] = True
    mask = session.add(MaskPrompt.of(given))
    assert not mask.array[[0, 3, 4]].any()


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load(path, "cpu", **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "sam.pth"
    torch.save({"weight": Malice(tmp_path / "sentinel")}, path, _use_new_zipfile_serialization=zipped)
    assert "asks to run posix.system" in refusal(path)
    assert not (tmp_path / "sentinel").exists()


def test_checkpoints_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    assert "medsam_vit_b.pth" in refusal(tmp_path / "nothing.pth")
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(checkpoint.read_bytes()[:-1000])
    assert "damaged" in refusal(damaged)
    tensors = torch.load(checkpoint, weights_only=True)
    other = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(3)}, other)
    assert "not SAM's architecture" in refusal(other)
    torch.save({key: value for key, value in tensors.items() if "iou_token" not in key}, other)
    assert "iou_token.weight is missing" in refusal(other)
    torch.save(tensors | {"adapter.weight": torch.zeros(3)}, other)
    assert "adapter.weight has no place" in refusal(other)
    torch.save(tensors | {"mask_decoder.iou_token.weight": torch.zeros(1, 3)}, other)
    assert "expected (1, 256), found (1, 3)" in refusal(other)
    torch.save([torch.zeros(2)], other)
    assert "named tensors" in refusal(other)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "config.json" in refusal(folder)
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "config.json").write_text('{"model_type": "detr"}')
    assert "found 'detr'" in refusal(folder)
    (folder / "config.json").write_text('{"model_type": "sam"}')
    assert "not read as SAM" in refusal(folder)


def test_a_fine_tuned_checkpoint_keeps_its_network_beside_the_optimizer(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"model": torch.load(checkpoint, weights_only=True), "epoch": 3}, tmp_path / "sam.pth")
    assert load(tmp_path / "sam.pth", "cpu").engine.name == "sam"


def test_wrong_usage(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected one of auto, unet, medsam, sam"):
        load(checkpoint, engine="sam9")
    session = load(checkpoint, "cpu")
    with pytest.raises(UsageError, match="set_image"):
        session.add(Point((0, 0, 0)))
    session.set_image(volume())
    with pytest.raises(UsageError, match="the engine medsam takes no text; sam3 does"):
        session.add(Text("liver"))
    with pytest.raises(DataError, match="1 or 3 channels"):
        session.set_image(volume(channels=2))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'medseg\[prompting\]'"):
        load(checkpoint, "cpu")


@pytest.mark.skipif("MEDSAM_CHECKPOINT" not in os.environ, reason="MEDSAM_CHECKPOINT names no checkpoint of MedSAM")
def test_real_weights_find_a_disc() -> None:
    session = load(os.environ["MEDSAM_CHECKPOINT"], "cpu", engine="medsam")
    y, x = np.mgrid[:128, :128]
    disc = (y - 64) ** 2 + (x - 60) ** 2 < 30**2
    array = (np.where(disc, 160, 60) + np.random.default_rng(0).normal(0, 8, disc.shape))[None, None]
    session.set_image(Volume(array, Geometry.from_spacing((1, 128, 128), (1, 1, 1))))
    found = session.add(Box((0, 32, 28), (1, 96, 92))).array[0] > 0
    assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.9
