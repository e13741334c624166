"""SAM 3: concepts and boxes as transformers finds them, text in sessions and on the command line, what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sam3_examples import (
    BEGUN,
    PEER_ANSWERS,
    SIZE,
    TOKENS,
    configuration,
    peer_shapes,
    random_tensors,
    square_values,
    vocabulary,
    write_folder,
)
from sam3_examples import BOX as SQUARE_BOX
from sam3_examples import POINTS as SQUARE_POINTS
from torch.nn import functional

from medseg import cli, io
from medseg.errors import ModelError, UsageError
from medseg.prompting import Box, MaskPrompt, Point, Session, Text, load
from medseg.prompting.sam3 import engine as sam3_engine
from medseg.prompting.sam3 import network as sam3_network
from medseg.prompting.sam3.engine import Sam3Engine
from medseg.prompting.sam3.exemplars import roi_align
from medseg.prompting.sam3.network import Concept, embed, instances, pixels, read, tracked_logits, union
from medseg.prompting.sam3.weights import Sam3, from_original, is_sam3, load_sam3
from medseg.prompting.slices.pictures import Pictures
from medseg.prompting.slices.prompts import SlicePrompts
from medseg.volume import Geometry, Volume

pytest.importorskip("transformers", reason="SAM 3 needs transformers: pip install 'medseg[prompting]'")
SHAPE = (20, 24)
SLICES = 7
BOX = (4, 6, 12, 18)  # y0, x0, y1, x1
POINTS = ((5.0, 7.0, True), (15.0, 20.0, False))
# To the small network one of these is on most slices of noise, the other on one.
COMMON, RARE = "liver", "tumor"
COMMON_ON, RARE_ON = [0, 2, 3, 5, 6], [2]
IN_SQUARE = (int(SQUARE_BOX[1]), int(SQUARE_BOX[0]), int(SQUARE_BOX[3]), int(SQUARE_BOX[2]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("sam3") / "sam3")


@pytest.fixture(scope="module")
def sam3(folder: Path) -> Sam3:
    return load_sam3(folder)


def volume() -> Volume:
    shape = (SLICES, *SHAPE)
    array = np.random.default_rng(1).normal(100, 30, (1, *shape)).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape, (3.0, 1.0, 1.0)))


def opened(sam3: Sam3, image: Volume, cache: Path | None = None) -> tuple[Session, Sam3Engine]:
    """A session with a volume, and its engine."""
    engine = Sam3Engine(sam3, torch.device("cpu"), cache)
    session = Session(engine)
    session.set_image(image)
    return session, engine


def picture(index: int = 2) -> np.ndarray:
    """A slice as the network sees it."""
    return Pictures.of(volume(), None, "scan").slice(0, index)


def tokens(sam3: Sam3, text: str) -> Any:
    """As transformers' Sam3Processor asks for them."""
    return sam3.tokenizer(text, padding="max_length", max_length=12, return_tensors="pt")


def test_pixels_go_from_minus_one_to_one() -> None:
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 15:] = 255
    values = pixels(picture, SIZE)
    assert values.shape == (1, 3, SIZE, SIZE)
    assert (float(values.min()), float(values.max())) == (-1.0, 1.0)
    assert (values[..., :20] == -1).all()
    assert torch.equal(values, ((values + 1) * 127.5).round() / 127.5 - 1)  # whole bytes


@pytest.fixture(scope="module")
def original() -> Any:
    """The small network from the original's names."""
    from transformers import Sam3VideoConfig

    tensors = {name: torch.from_numpy(value) for name, value in random_tensors(peer_shapes()).items()}
    return from_original(tensors, "sam3.pt", Sam3VideoConfig.from_dict(configuration()))


@pytest.mark.parametrize("given", ["text", "example"])
def test_concepts_are_those_of_the_original(original: Any, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = original.detector_model
    words = torch.tensor([TOKENS])
    mask = (words != 0).long()
    concept = Concept(detector.get_text_features(words, mask).pooler_output.detach(), mask)
    embedding = embed(detector, torch.from_numpy(square_values()))
    box = IN_SQUARE if given == "example" else None
    with np.load(PEER_ANSWERS) as stored:
        scores, masks = stored[f"{given}_scores"], stored[f"{given}_masks"]
    assert masks.std() > 1
    for at_least in (-1.0, float(np.median(scores))):
        monkeypatch.setattr(sam3_network, "SCORE", at_least)
        found = instances(detector, embedding, concept, box, (SIZE, SIZE))
        np.testing.assert_allclose(found.numpy(), masks[scores > at_least], atol=3e-4 * masks.std())


@pytest.mark.parametrize("given", ["box", "points", "both", "mask"])
def test_boxes_and_points_are_those_of_the_original(original: Any, given: str) -> None:
    points = tuple((y, x, bool(inside)) for x, y, inside in SQUARE_POINTS)
    prompts = SlicePrompts(IN_SQUARE if given in ("box", "both") else None, () if given == "box" else points)
    begun = torch.from_numpy(BEGUN) if given == "mask" else None
    embedding = embed(original.detector_model, torch.from_numpy(square_values()))
    found = tracked_logits(original, embedding, prompts, (SIZE, SIZE), begun)
    with np.load(PEER_ANSWERS) as stored:
        low = torch.from_numpy(stored[given])[None, None]
    expected = functional.interpolate(low, (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.std())


@pytest.mark.parametrize("boxed", [False, True])
def test_a_concept_is_what_transformers_finds(sam3: Sam3, boxed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.sam3 import modeling_sam3

    def aligned(features: torch.Tensor, boxes: tuple[torch.Tensor, ...], bins: int) -> torch.Tensor:
        height, width = features.shape[-2:]
        x0, y0, x1, y1 = boxes[0][0].tolist()
        return roi_align(features, (x0 / width, y0 / height, x1 / width, y1 / height), bins)

    stand_in = SimpleNamespace(ops=SimpleNamespace(roi_align=aligned))  # this class asks torchvision
    monkeypatch.setattr(modeling_sam3, "torchvision", stand_in, raising=False)
    values, words = pixels(picture(), SIZE), tokens(sam3, COMMON)
    y0, x0, y1, x1 = BOX  # as Sam3Processor gives it: the middle and the size, as parts of the picture's
    exemplar = torch.tensor([[[(x0 + x1) / 48, (y0 + y1) / 40, (x1 - x0) / 24, (y1 - y0) / 20]]])
    # Without a box one to fill up: else this class (transformers 5.23) leaves out a token that Meta's code has.
    label = torch.tensor([[1 if boxed else -10]])
    with torch.no_grad():
        theirs = sam3.detector(pixel_values=values, **words, input_boxes=exemplar, input_boxes_labels=label)
    scores = (theirs.pred_logits.sigmoid() * theirs.presence_logits.sigmoid())[0]
    expected = theirs.pred_masks[0][scores > 0.5]
    assert 0 < len(expected) < len(scores)
    concept = read(sam3.detector, sam3.tokenizer, COMMON)
    found = instances(sam3.detector, embed(sam3.detector, values), concept, BOX if boxed else None, SHAPE)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # As Sam3Processor.post_process_instance_segmentation.
    masks = functional.interpolate(expected.sigmoid()[None], SHAPE, mode="bilinear", align_corners=False)[0] > 0.5
    mask = union(found, SHAPE)
    np.testing.assert_array_equal(mask, masks.any(0).numpy())
    assert 0 < mask.sum() < mask.size


def test_what_lies_in_a_box() -> None:
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij")
    features = torch.stack([rows, columns])[None]
    # From column 2 to 6 and row 1 to 3, two bins: each is the mean of two places a row or column, at halves.
    found = roi_align(features, (2 / 8, 1 / 4, 6 / 8, 3 / 4), 2)
    assert found[0, 0].tolist() == [[1.5, 1.5], [2.5, 2.5]]
    assert found[0, 1].tolist() == [[3.0, 5.0], [3.0, 5.0]]
    # A box is a place long at least, and nothing lies behind the last one.
    assert roi_align(features, (1.0, 0.0, 1.0, 0.25), 1)[0, 1].tolist() == [[0.0]]


def test_where_there_is_no_instance(sam3: Sam3) -> None:
    embedding = embed(sam3.detector, pixels(picture(3), SIZE))
    nothing = instances(sam3.detector, embedding, read(sam3.detector, sam3.tokenizer, RARE), None, SHAPE)
    assert len(nothing) == 0
    assert not union(nothing, SHAPE).any()


def test_voxels_count_above_one_half() -> None:
    logits = torch.full((2, 4, 4), -1.0)
    logits[0, :2], logits[1, :, 3] = 1.0, 1.0
    expected = np.zeros((4, 4), bool)
    expected[:2], expected[:, 3] = True, True
    np.testing.assert_array_equal(union(logits, (4, 4)), expected)


@pytest.mark.parametrize("given", [SlicePrompts(BOX), SlicePrompts(None, POINTS), SlicePrompts(BOX, POINTS)])
def test_boxes_and_points_are_what_the_tracker_of_transformers_makes_of_them(
    folder: Path, sam3: Sam3, given: SlicePrompts
) -> None:
    from transformers import Sam3TrackerModel

    theirs = Sam3TrackerModel.from_pretrained(folder, local_files_only=True).eval()
    values = pixels(picture(), SIZE)
    square: Callable[[float, float], list[float]] = lambda y, x: [x * SIZE / SHAPE[1], y * SIZE / SHAPE[0]]  # noqa: E731
    options: dict[str, Any] = {}
    if given.box:
        options["input_boxes"] = torch.tensor([[square(*given.box[:2]) + square(*given.box[2:])]])
    if given.points:
        at = [square(y + 0.5, x + 0.5) for y, x, _ in given.points]
        options["input_points"] = torch.tensor([[at]]) - 0.5  # the network adds it again
        options["input_labels"] = torch.tensor([[[int(inside) for _, _, inside in given.points]]])
    with torch.no_grad():
        features = theirs.get_image_embeddings(values)
        # What says that there is no memory belongs here, as in Meta's code and in Sam3TrackerVideoModel; this class
        # adds it (transformers 5.23) to a map that it does not use.
        features[-1] = features[-1] + theirs.no_memory_embedding.view(1, -1, 1, 1)
        low = theirs(image_embeddings=features, multimask_output=False, **options).pred_masks[:, 0]
    expected = functional.interpolate(low, SHAPE, mode="bilinear", align_corners=False)[0, 0].numpy()
    assert expected.std() > 0.1
    found = tracked_logits(sam3.whole, embed(sam3.detector, values), given, SHAPE)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_text_is_looked_for_on_every_slice(sam3: Sam3) -> None:
    session, engine = opened(sam3, volume())
    calls = []
    mask = session.add(Text(COMMON), progress=lambda *state: calls.append(state)).array == 1
    assert calls[-1][:2] == (SLICES, SLICES)
    concept = read(sam3.detector, sam3.tokenizer, COMMON)
    for index in range(SLICES):
        found = engine.segment_concepts(0, index, [concept], SlicePrompts())
        assert found.any() == (index in COMMON_ON)
        np.testing.assert_array_equal(mask[index], found)
    both = session.add(Text(RARE, object=2))
    assert both.labels == {"object 1": 1, "object 2": 2}
    assert np.flatnonzero((both.array == 2).any((1, 2))).tolist() == RARE_ON
    np.testing.assert_array_equal(both.array == 1, mask & (both.array != 2))


def test_texts_of_an_object_are_united_and_negative_ones_taken_away(sam3: Sam3) -> None:
    session, _ = opened(sam3, volume())
    common = session.add(Text(COMMON)).array
    rare = session.add(Text(RARE, object=2)).array == 2
    session.undo()
    np.testing.assert_array_equal(session.add(Text(RARE)).array == 1, (common == 1) | rare)
    session.undo()
    np.testing.assert_array_equal(session.add(Text(RARE, positive=False)).array == 1, (common == 1) & ~rare)


def test_a_box_through_slices_says_where_to_look(sam3: Sam3) -> None:
    session, engine = opened(sam3, volume())
    mask = session.add(Text(COMMON), Box((1, *BOX[:2]), (4, *BOX[2:]))).array == 1
    assert np.flatnonzero(mask.any((1, 2))).tolist() == [2, 3]
    concept = [read(sam3.detector, sam3.tokenizer, COMMON)]
    np.testing.assert_array_equal(mask[3], engine.segment_concepts(0, 3, concept, SlicePrompts()))
    np.testing.assert_array_equal(mask[2], engine.segment_concepts(0, 2, concept, SlicePrompts(BOX)))
    assert (mask[2] != engine.segment_concepts(0, 2, concept, SlicePrompts())).any()


def test_points_correct_their_slice(sam3: Sam3) -> None:
    session, _ = opened(sam3, volume())
    before = session.add(Text(COMMON)).array
    after = session.add(Point((2, 5, 7)), Point((2, 15, 20), positive=False)).array
    assert np.flatnonzero((before != after).any((1, 2))).tolist() == [2]
    embedding = embed(sam3.detector, pixels(picture(), SIZE))
    found = instances(sam3.detector, embedding, read(sam3.detector, sam3.tokenizer, COMMON), None, SHAPE)
    begun = (found > 0).any(0)
    corrected = tracked_logits(sam3.whole, embedding, SlicePrompts(None, POINTS), SHAPE, begun) > 0
    np.testing.assert_array_equal(after[2] == 1, corrected)
    assert (corrected != (tracked_logits(sam3.whole, embedding, SlicePrompts(None, POINTS), SHAPE) > 0)).any()
    rare = session.add(Text(RARE, object=2)).array
    np.testing.assert_array_equal(session.add(Point((3, 5, 7), object=2, positive=False)).array, rare)
    assert (session.add(Point((3, 5, 7), object=2)).array[3] == 2).any()


def test_boxes_and_points_without_text_are_propagated(sam3: Sam3) -> None:
    session, engine = opened(sam3, volume())
    mask = session.add(Box((2, *BOX[:2]), (3, *BOX[2:]))).array == 1
    np.testing.assert_array_equal(mask[2], engine.segment_slice(0, 2, SlicePrompts(BOX)))


def test_embeddings_are_computed_once(sam3: Sam3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    monkeypatch.setattr(sam3_engine, "embed", lambda net, values: computed.append(1) or embed(net, values))
    masks = []
    for _ in range(2):  # another engine, the same folder
        session, _ = opened(sam3, volume(), tmp_path)
        masks.append(session.add(Text(COMMON)).array)
        session.add(Text(RARE, object=2))
    assert len(computed) == SLICES
    np.testing.assert_array_equal(*masks)


def test_a_session_with_text_is_saved_and_replayed(sam3: Sam3, tmp_path: Path) -> None:
    session, _ = opened(sam3, volume())
    session.add(Text("  Tumor  cell "))
    mask = session.add(Point((2, 5, 7)))
    session.save(tmp_path / "prompts.json")
    first = json.loads((tmp_path / "prompts.json").read_text())["steps"][0][0]
    assert first == {"text": "Tumor cell", "object": 1, "positive": True, "kind": "text"}
    again, _ = opened(sam3, volume())
    np.testing.assert_array_equal(again.replay(tmp_path / "prompts.json").array, mask.array)
    assert again.steps == session.steps


def test_a_detector_alone_takes_text_and_no_points(tmp_path: Path) -> None:
    session = load(write_folder(tmp_path / "detector", "sam3"), "cpu")
    assert session.engine.name == "sam3"
    session.set_image(volume())
    assert session.add(Text(COMMON)).array.any()
    for prompts in ([Point((1, 5, 7), object=2)], [Point((1, 5, 7))]):
        with pytest.raises(UsageError, match="tracker, which this checkpoint lacks") as caught:
            session.add(*prompts)
        assert "\n" not in str(caught.value)


def test_what_does_not_go_with_text(sam3: Sam3) -> None:
    session, _ = opened(sam3, volume())
    given = np.ones(volume().geometry.shape, bool)
    refused = {
        "it is empty": lambda: Text(" \n"),
        "12 tokens at most, found 13": lambda: session.add(Text("b" * 11)),
        "do not go together": lambda: session.add(Text(COMMON), MaskPrompt.of(given)),
        "outside of the image": lambda: session.add(Text(COMMON), Box((1, 2, 3), (2, 8, 99))),
        "all its prompts are negative": lambda: session.add(Text(COMMON, positive=False)),
    }
    for message, call in refused.items():
        with pytest.raises(UsageError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not session.steps


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def with_sides(detector: dict[str, Any]) -> dict[str, Any]:
    """The detector's configuration with a size for each side."""
    vision = detector["vision_config"]
    backbone = vision["backbone_config"] | {"image_size": [SIZE, SIZE]}
    return detector | {"vision_config": vision | {"backbone_config": backbone}}


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path, "cpu", engine="sam3")
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_checkpoints_that_do_not_fit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sam3"
    shutil.copytree(folder, path)
    (path / "merges.txt").unlink()
    assert "no tokenizer.json here, and no merges.txt" in refusal(path)
    (path / "tokenizer.json").write_text("{}")
    assert "tokenizer cannot be read" in refusal(path)
    (path / "tokenizer.json").unlink()
    shutil.copy(folder / "merges.txt", path)
    words = {token: index for index, token in enumerate(["more", *vocabulary()])}
    (path / "vocab.json").write_text(json.dumps(words))
    assert f"know {len(words) - 1} tokens, the tokenizer {len(words)}" in refusal(path)
    shutil.copy(folder / "vocab.json", path)
    content = json.loads((path / "config.json").read_text())
    for changed, message in (
        ({"model_type": "sam2"}, "expected model_type sam3 or sam3_video in config.json, found 'sam2'"),
        ({"detector_config": 3}, "does not describe SAM 3"),
        ({"detector_config": with_sides(content["detector_config"])}, "image_size for both sides, found [56, 56]"),
        ({"model_type": "sam3", **content["detector_config"]}, "is missing"),
    ):
        (path / "config.json").write_text(json.dumps(content | changed))
        assert message in refusal(path)
    (path / "model.safetensors").write_bytes(b"damaged")
    assert "copy it again" in refusal(path)
    (path / "model.safetensors").unlink()
    assert "no config.json with model.safetensors" in refusal(path)
    torch.save({"layer.weight": torch.zeros(2)}, path / "sam3.pt")
    assert "no tensor of its detector (the first is layer.weight)" in refusal(path / "sam3.pt")
    torch.save({"detector.x": Malice(tmp_path / "sentinel")}, path / "sam3.pt")
    assert "asks to run posix.system" in refusal(path / "sam3.pt")
    assert not (tmp_path / "sentinel").exists()
    torch.save({"detector.x": torch.zeros(2)}, path / "sam3.pt")
    assert is_sam3(path / "sam3.pt")
    torch.save({"detector.x": torch.zeros(2)}, tmp_path / "sam3.pt")
    with pytest.raises(ModelError, match=r"no tokenizer.json here, and no vocab.json"):
        load(tmp_path / "sam3.pt", "cpu")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'medseg\[prompting\]'"):
        load(folder, "cpu")


def test_no_kernel_that_a_configuration_names_is_fetched(sam3: Sam3) -> None:
    assert {module.config._attn_implementation for module in sam3.whole.modules() if hasattr(module, "config")} == {
        "sdpa"
    }


def test_as_transformers_saves_it_anew(sam3: Sam3, folder: Path, tmp_path: Path) -> None:
    sam3.whole.save_pretrained(tmp_path)
    sam3.tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    again = load_sam3(tmp_path)
    assert torch.equal(tokens(again, COMMON)["input_ids"], tokens(sam3, COMMON)["input_ids"])
    theirs, own = again.whole.state_dict(), sam3.whole.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in own.items())


def test_texts_on_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, output, saved = (tmp_path / name for name in ("scan.nii.gz", "mask.nii.gz", "prompts.json"))
    io.write(volume(), image)
    words = ["prompt", str(image), "-o", str(output), "--checkpoint", str(folder), "--device", "cpu"]
    assert cli.run([*words, "--text", RARE, "--text", COMMON, "--save-prompts", str(saved)]) == 0
    assert set(np.unique(io.read_labels(output).array).tolist()) == {0, 1, 2}
    assert [entry["object"] for entry in json.loads(saved.read_text())["steps"][0]] == [1, 2]
    output.unlink()
    for options, message in (
        (("--text", " "), "it is empty"),
        (("--text", COMMON, "--text", RARE, "--point", "1,2,3"), "of several --text"),
    ):
        capsys.readouterr()
        assert cli.run([*words, *options]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("medseg: ")]
        assert len(lines) == 1
        assert message in lines[0]
    assert not output.exists()
