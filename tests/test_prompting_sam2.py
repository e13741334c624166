"""SAM 2 and MedSAM2: the same logits as the original code and transformers, checkpoints that are refused, volumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sam2_examples as examples
import sam_examples
import torch
from PIL import Image
from sam2_examples import BOX, CORRECTION, FIRST, FRAMES, GONE, PEER_ANSWERS, POINTS, SEEN, SIZE

from medseg.errors import ModelError, UsageError
from medseg.prompting import Box, MaskPrompt, Point, Scribble, load
from medseg.prompting.sam.weights import load_sam
from medseg.prompting.sam2 import following
from medseg.prompting.sam2.engine import shown_on
from medseg.prompting.sam2.following import Shown, follow
from medseg.prompting.sam2.memory import MOST_PROMPTED, nearest, remember, with_memory
from medseg.prompting.sam2.network import Answer, Features, decode, encode, given_mask, pixels, without_memory
from medseg.prompting.sam2.weights import from_original, is_sam2, load_sam2, renamed_tensors
from medseg.prompting.slices.prompts import SlicePrompts
from medseg.prompting.slices.propagation import StoppingRule
from medseg.prompting.slices.seeds import slice_axis
from medseg.volume import Geometry, Volume

pytest.importorskip("transformers", reason="SAM 2 needs transformers: pip install 'medseg[prompting]'")
KINDS = ("box", "point", "points", "both", "mask")
NEVER = StoppingRule(overlap=0.0, growth=float("inf"))
NOTHING = SlicePrompts()


def tensors_of(shapes: Mapping[str, tuple[int, ...]], score: float = SEEN) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in examples.random_tensors(shapes, score).items()}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """SAM 2.1 tiny in its original form, with random weights."""
    return tensors_of(examples.peer_shapes())


@pytest.fixture(scope="module")
def network(tensors: dict[str, torch.Tensor]) -> Any:
    return from_original(tensors, "tiny", SIZE)


@pytest.fixture(scope="module")
def gone(tensors: dict[str, torch.Tensor]) -> Any:
    """The same, but it sees the object nowhere."""
    bias = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    return from_original(tensors | {bias: torch.full((1,), GONE)}, "tiny", SIZE)


@pytest.fixture(scope="module")
def checkpoint(tensors: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": tensors}, path)
    return path


@pytest.fixture(scope="module")
def folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a Hugging Face folder, which sees pictures of 128 pixels."""
    path = tmp_path_factory.mktemp("sam2") / "tiny"
    network.save_pretrained(path)
    return path


@cache
def encoded(network: Any) -> list[Features]:
    frames = torch.from_numpy(examples.frame_values(network.config.image_size))
    return [Features.of(encode(network, frame[None]), network.device) for frame in frames]


def shown(kind: str, size: int = SIZE) -> Shown:
    """What ``peer_sam2`` shows under this name."""
    x0, y0, x1, y1 = (int(value * size) for value in BOX)
    points = tuple((y * size - 0.5, x * size - 0.5, bool(inside)) for x, y, inside in POINTS)
    return {
        "box": Shown(SlicePrompts((y0, x0, y1, x1))),
        "point": Shown(SlicePrompts(None, points[:1])),
        "points": Shown(SlicePrompts(None, points)),
        "both": Shown(SlicePrompts((y0, x0, y1, x1), points)),
        "mask": Shown(NOTHING, examples.mask_values(size)),
    }[kind]


@dataclass
class Followed:
    mask: np.ndarray
    answers: dict[int, Answer]

    def logits(self, slices: range) -> np.ndarray:
        return np.stack([self.answers[index].logits[0, 0].numpy() for index in slices])


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Followed]:
    """:func:`follow` on the frames of the examples, with no rule but a given one, and the network's last answers."""

    def run(network: Any, given: Mapping[int, str], corrections: Any = None, **options: Any) -> Followed:
        features = encoded(network)
        answers: dict[int, Answer] = {}

        def recorded(function: Callable[..., Answer]) -> Callable[..., Answer]:
            def call(network: Any, here: Features, *rest: Any) -> Answer:
                index = next(i for i, other in enumerate(features) if other is here)
                answers[index] = function(network, here, *rest)
                return answers[index]

            return call

        monkeypatch.setattr(following, "decode", recorded(decode))
        monkeypatch.setattr(following, "given_mask", recorded(given_mask))
        size = network.config.image_size
        mask = follow(
            network,
            features.__getitem__,
            {index: shown(kind, size) for index, kind in given.items()},
            corrections or {},
            (FRAMES, size, size),
            **{"rule": NEVER, "gone_after": FRAMES, **options},
        )
        return Followed(mask, answers)

    return run


def differences(network: Any, gone: Any, followed: Callable[..., Followed], answers: Path) -> dict[str, float]:
    """By how much logits differ from the original code's at most, where these spread by one."""
    size = network.config.image_size
    features = encoded(network)[FIRST]
    found: dict[str, np.ndarray] = {}
    for kind in KINDS:
        there = shown(kind, size)
        answer = following._answer_to(network, features, there, (size, size))
        found[kind] = answer.logits[0, 0].numpy()
    for name, given in {
        "from_box": {FIRST: "box"},
        "from_mask": {FIRST: "mask"},
        "from_two": {0: "box", 4: "mask"},
    }.items():
        both = followed(network, given)
        found[f"{name}_up"] = both.logits(range(min(given), FRAMES))
        if name != "from_two":
            found[f"{name}_down"] = both.logits(range(min(given) + 1))
    frame, (x, y, inside) = CORRECTION
    points = SlicePrompts(None, ((y * size - 0.5, x * size - 0.5, bool(inside)),))
    found["correction"] = followed(network, {FIRST: "box"}, {frame: points}).logits(range(frame, frame + 1))[0]
    scores = followed(gone, {FIRST: "mask"}).answers
    found["gone"] = np.array([float(scores[index].score) for index in range(FIRST, FRAMES)])
    with np.load(answers) as stored:
        assert min(stored[name].std() for name in found) > 1
        return {name: float(np.abs(v - stored[name]).max() / stored[name].std()) for name, v in found.items()}


def test_answers_are_those_of_the_original(network: Any, gone: Any, followed: Callable[..., Followed]) -> None:
    found = differences(network, gone, followed, PEER_ANSWERS)
    assert {name for name in found if name in KINDS} == set(KINDS)
    assert max(found[kind] for kind in KINDS) < 1e-5
    assert max(found.values()) < 1e-3, found  # memories are rounded to bfloat16


@pytest.mark.slow
@pytest.mark.skipif("SAM2_SOURCES" not in os.environ, reason="SAM2_SOURCES names no folder with sam2's sources")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("sam2.1_hiera_t", 512),  # as MedSAM2 is run
        ("sam2.1_hiera_t", 1024),
        ("sam2_hiera_t", 128),
        ("sam2.1_hiera_s", 128),
        ("sam2.1_hiera_b+", 128),
        ("sam2_hiera_l", 128),
    ],
)
def test_answers_are_those_of_the_original_as_it_runs(
    name: str, size: int, followed: Callable[..., Followed], tmp_path: Path
) -> None:
    script = Path(__file__).with_name("peer_sam2.py")
    environment = {**os.environ, "PYTHONPATH": os.environ["SAM2_SOURCES"]}
    command = [sys.executable, str(script), name, str(size), str(tmp_path / "answers.npz")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    shapes = examples.peer_shapes(tmp_path / "answers.npz")
    networks = [from_original(tensors_of(shapes, score), name, size) for score in (SEEN, GONE)]
    found = differences(networks[0], networks[1], followed, tmp_path / "answers.npz")
    print(name, size, {key: f"{value:.0e}" for key, value in found.items()})  # noqa: T201 - shown with -s
    assert max(found.values()) < 1e-3, found


def of_transformers(network: Any, given: Mapping[int, str], reverse: bool) -> dict[int, np.ndarray]:
    """Logits by frame, of transformers' own session."""
    from transformers import Sam2VideoInferenceSession

    size = network.config.image_size
    frames = torch.from_numpy(examples.frame_values(size))
    session = Sam2VideoInferenceSession(frames, size, size, dtype=torch.float32)
    number = session.obj_id_to_idx(1)
    for frame, kind in given.items():
        there = shown(kind, size).prompts
        y0, x0, y1, x1 = there.box or (0, 0, 0, 0)
        at = [(x0, y0), (x1, y1)] if there.box else []
        labels = [2, 3] if there.box else []
        inputs = {
            "point_coords": torch.tensor([[[*at, *((x, y) for y, x, _ in there.points)]]], dtype=torch.float32),
            "point_labels": torch.tensor([[[*labels, *(int(inside) for *_, inside in there.points)]]]),
        }
        session.add_point_inputs(number, frame, inputs)
        session.obj_with_new_inputs = [1]
        network(session, frame_idx=frame)
    outputs = network.propagate_in_video_iterator(session, reverse=reverse)
    return {output.frame_idx: output.pred_masks[0, 0].numpy() for output in outputs}


@pytest.mark.parametrize("kind", ["box", "point", "points", "both"])
def test_one_slice_is_answered_as_by_transformers(network: Any, kind: str) -> None:
    features = encoded(network)[FIRST]
    answer = decode(network, features, without_memory(network, features), shown(kind).prompts, (SIZE, SIZE))
    expected = of_transformers(network, {FIRST: kind}, reverse=False)[FIRST]
    np.testing.assert_allclose(answer.logits[0, 0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("given", [{FIRST: "box"}, {1: "point", 4: "both"}])
def test_objects_are_followed_as_by_transformers(
    network: Any, followed: Callable[..., Followed], given: dict[int, str]
) -> None:
    found = followed(network, given)
    for reverse in (False, True):
        expected = of_transformers(network, given, reverse)
        assert set(expected) == (set(range(min(given) + 1)) if reverse else set(range(min(given), FRAMES)))
        for index, logits in expected.items():
            np.testing.assert_allclose(found.answers[index].logits[0, 0].numpy(), logits, atol=1e-4)
            whole = torch.nn.functional.interpolate(torch.from_numpy(logits)[None, None], (SIZE, SIZE), mode="bilinear")
            assert (found.mask[index] != (whole[0, 0].numpy() > 0)).mean() < 1e-3


def test_sam_2_of_before_2_1(tensors: dict[str, torch.Tensor], followed: Callable[..., Followed]) -> None:
    new = ("obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias", "no_obj_embed_spatial")
    first = from_original({name: value for name, value in tensors.items() if name not in new}, "tiny", SIZE)
    assert first.occlusion_spatial_embedding_parameter is None
    found = followed(first, {FIRST: "box"})
    expected = of_transformers(first, {FIRST: "box"}, reverse=False)
    np.testing.assert_allclose(found.answers[FRAMES - 1].logits[0, 0].numpy(), expected[FRAMES - 1], atol=1e-4)


def test_both_forms_hold_the_same(checkpoint: Path, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    one, digest = load_sam2(checkpoint, SIZE)
    two, other = load_sam2(folder, 1024)
    assert two.config.image_size == SIZE  # a folder knows
    assert digest != other
    for (name, value), (again, same) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert name == again
        torch.testing.assert_close(value, same, rtol=0, atol=0)
    frame = torch.from_numpy(examples.frame_values(SIZE))[:1]
    torch.testing.assert_close(encode(one, frame), encode(two, frame), rtol=0, atol=0)


def test_renaming_is_a_bijection(network: Any, tensors: dict[str, torch.Tensor]) -> None:
    renamed = renamed_tensors(tensors)
    assert set(renamed) == set(network.state_dict())
    # Four kinds of points become one tensor, the encoding of points two.
    assert len(renamed) == len(tensors) - 3 + 1


@pytest.mark.parametrize(("name", "size"), [("MedSAM2_latest.pt", 512), ("sam2.1_hiera_tiny.pt", 1024)])
def test_what_depends_on_the_size_of_the_square(checkpoint: Path, tmp_path: Path, name: str, size: int) -> None:
    (tmp_path / name).symlink_to(checkpoint)
    engine = load(tmp_path / name, "cpu").engine
    assert engine.name == ("medsam2" if size == 512 else "sam2")
    network = engine._network  # type: ignore[attr-defined]
    assert network.image_size == network.prompt_encoder.input_image_size == size
    assert network.prompt_encoder.image_embedding_size == (size // 16, size // 16)
    assert network.prompt_encoder.mask_input_size == (size // 4, size // 4)
    assert [list(side) for side in network.backbone_feature_sizes] == [[size // s] * 2 for s in (4, 8, 16)]
    assert network.config.memory_attention_rope_feat_sizes == [size // 16] * 2


def test_pixels_are_those_of_the_original() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    values = pixels(picture, SIZE)
    assert values.shape == (1, 3, SIZE, SIZE)
    expected = (picture[5, 7] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(values[0, :, 5, 7], expected, atol=1e-6)
    small = np.asarray(Image.fromarray(picture[:48, :64]).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pixels(picture[:48, :64], SIZE), pixels(small, SIZE))


def test_a_mask_stays_what_it_is_and_is_gone_where_nothing_is_seen(
    gone: Any, followed: Callable[..., Followed]
) -> None:
    found = followed(gone, {FIRST: "mask"}, gone_after=2)
    np.testing.assert_array_equal(found.mask[FIRST], examples.mask_values(SIZE))
    assert not np.delete(found.mask, FIRST, 0).any()
    assert set(found.answers) == {0, 1, 2, 3, 4}  # two slices without it, each way


def test_a_rule_ends_what_jumps(network: Any, followed: Callable[..., Followed]) -> None:
    found = followed(network, {FIRST: "box"}, rule=StoppingRule(overlap=2.0))
    assert set(found.answers) == {1, 2, 3}
    assert found.mask.any((1, 2)).tolist() == [False, False, True, False, False, False]
    # Between slices that show it, there is no end.
    found = followed(network, {1: "box", 4: "box"}, rule=StoppingRule(overlap=2.0))
    assert set(found.answers) == set(range(FRAMES))
    assert found.mask[1:5].any((1, 2)).all()
    assert not found.mask[[0, 5]].any()


def test_limits(network: Any, followed: Callable[..., Followed]) -> None:
    found = followed(network, {FIRST: "box"}, limits=(1, 4))
    assert set(found.answers) == {1, 2, 3}
    assert found.mask.any((1, 2)).tolist() == [False, True, True, True, False, False]


def test_corrections_where_the_object_has_ended(gone: Any, followed: Callable[..., Followed]) -> None:
    outside, inside = SlicePrompts(None, ((5.0, 5.0, False),)), SlicePrompts(None, ((5.0, 5.0, True),))
    assert set(followed(gone, {0: "mask"}, {4: outside}, gone_after=1).answers) == {0, 1}
    assert set(followed(gone, {0: "mask"}, {4: inside}, gone_after=1).answers) == {0, 1, 2, 3, 4}


def test_a_mask_may_have_points(network: Any) -> None:
    features = encoded(network)[FIRST]
    mask, points = shown("mask").mask, shown("points").prompts
    answer = following._answer_to(network, features, Shown(points, mask), (SIZE, SIZE))
    alone = given_mask(network, features, mask)  # type: ignore[arg-type]
    expected = decode(network, features, without_memory(network, features), points, (SIZE, SIZE), alone.logits)
    torch.testing.assert_close(answer.logits, expected.logits)
    assert float((answer.logits - alone.logits).abs().max()) > 1


def test_a_mask_too_thin_for_the_square_is_not_there(network: Any) -> None:
    features = encoded(network)[FIRST]
    mask = np.zeros((2000, 2000), bool)
    mask[7, 9] = True
    answer = given_mask(network, features, mask)
    assert float(answer.score) < 0
    torch.testing.assert_close(answer.pointer, network.no_object_pointer[None])


@pytest.mark.parametrize("step", [1, -1])
def test_the_last_six_and_fifteen_pointers(network: Any, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    features = encoded(network)[FIRST]
    answer = given_mask(network, features, examples.mask_values(SIZE))
    memory = remember(network, features, answer, prompted=True)
    seen: list[list[int]] = []
    for name in ("_build_memory_attention_inputs", "_process_object_pointers"):
        method = getattr(network, name)

        def recorded(first: Any, *rest: Any, method: Any = method) -> Any:
            seen.append([entry if isinstance(entry, int) else entry[0] for entry in first])
            return method(first, *rest)

        monkeypatch.setattr(network, name, recorded)
    before = {30 - step * distance: memory for distance in range(1, 20)}
    with_memory(network, features, 30, step, {30 - step * 20: memory, 30 + step * 3: memory}, before, 60)
    assert seen == [[0, 0, 6, 5, 4, 3, 2, 1], [20, *range(1, 16)]]
    # Of few slices in all, no more pointers than there are slices: it is by their number that ages are measured.
    seen.clear()
    with_memory(network, features, 30, step, {30 - step: memory}, {}, 4)
    with_memory(network, features, 30, step, {30 + step: memory}, before, 4)
    assert seen == [[0], [1], [0, 6, 5, 4, 3, 2, 1], [1, 2, 3]]


def test_of_many_slices_the_nearest_count() -> None:
    assert nearest(range(100), 30) == [26, 27, 28, 29, 30, 31, 32, 33]
    assert nearest((9, 3), 4) == [3, 9]
    assert MOST_PROMPTED == 8


def test_what_shows_and_what_corrects() -> None:
    shape = (9, 20, 20)
    mask = np.zeros(shape, bool)
    mask[6, 2:5, 3:6] = True
    boxes = [Box((2, 0, 4), (3, 4, 8)), Box((4, 4, 4), (7, 8, 12))]
    there, corrections, limits = shown_on([*boxes, Point((3, 5, 6)), Point((5, 1, 2))], 0, shape)
    assert {index: one.prompts for index, one in there.items()} == {
        2: SlicePrompts((0, 4, 4, 8)),
        5: SlicePrompts((4, 4, 8, 12), ((1.0, 2.0, True),)),
    }
    assert corrections == {3: SlicePrompts(None, ((5.0, 6.0, True),))}
    assert limits == (2, 7)
    # Without boxes and masks, the first point inside shows it.
    points = [Point((1, 5, 6), positive=False), Point((7, 5, 6)), Point((3, 5, 6)), Point((7, 1, 1), positive=False)]
    there, corrections, limits = shown_on(points, 0, shape)
    assert there.keys() == {7}
    assert there[7].prompts.points == ((5.0, 6.0, True), (1.0, 1.0, False))
    assert corrections.keys() == {1, 3}
    assert limits is None
    there, corrections, _ = shown_on([MaskPrompt.of(mask), Point((6, 5, 6), positive=False)], 0, shape)
    np.testing.assert_array_equal(there[6].mask, mask[6])
    assert there[6].prompts.points == ((5.0, 6.0, False),)
    assert not corrections


def volume(shape: tuple[int, int, int] = (6, 40, 48), spacing_mm: tuple[float, float, float] = (3, 1, 1)) -> Volume:
    array = np.random.default_rng(0).normal(100, 30, (1, *shape)).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape, spacing_mm))


def test_a_session_replays_and_undoes(folder: Path, tmp_path: Path) -> None:
    session = load(folder, "cpu", cache=tmp_path / "cache")
    assert session.engine.name == "sam2"
    image = volume()
    session.set_image(image)
    calls = []
    box = Box((2, 8, 8), (3, 28, 30))
    first = session.add(box, progress=lambda *state: calls.append(state))
    assert first.array[2].any()
    assert calls
    first.geometry.require_equal(image.geometry, "mask", "image")
    second = session.add(Point((2, 12, 12), positive=False), Point((3, 10, 10)))
    assert (second.array != first.array).any()
    np.testing.assert_array_equal(session.undo().array, first.array)
    other = session.add(Scribble(((4, 20, 10), (4, 20, 30)), object=2))
    assert set(other.labels) == {"object 1", "object 2"}
    files = sorted((tmp_path / "cache").iterdir())
    assert files
    again = load(folder, "cpu", cache=tmp_path / "cache")
    again.set_image(image)
    np.testing.assert_array_equal(again.replay([[box]]).array, first.array)
    assert sorted((tmp_path / "cache").iterdir()) == files


def test_a_mirrored_scan_has_a_mirrored_mask(folder: Path) -> None:
    session = load(folder, "cpu")
    image = volume()
    session.set_image(image)
    mask = session.add(Box((2, 8, 8), (3, 28, 30))).array
    session.set_image(Volume(image.array[:, ::-1].copy(), image.geometry))
    mirrored = session.add(Box((3, 8, 8), (4, 28, 30))).array
    np.testing.assert_array_equal(mirrored, mask[::-1])


def test_slices_lie_across_the_axis_of_flat_prompts(folder: Path) -> None:
    session = load(folder, "cpu")
    image = volume((12, 5, 10), (1, 1, 1))
    session.set_image(image)
    given = np.zeros((12, 5, 10), np.uint8)
    given[3:9, 2, 2:8] = 1
    assert slice_axis([MaskPrompt.of(given)], (1, 1, 1)) == 1
    with pytest.raises(UsageError, match="different axes"):
        slice_axis([MaskPrompt.of(given), Box((3, 0, 0), (4, 5, 9))], (1, 1, 1))
    found = session.add(MaskPrompt.of(given)).array
    np.testing.assert_array_equal(found[:, 2], given[:, 2])


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load(path, "cpu", **options)
    return one_line(caught.value, path)


def one_line(error: Exception, where: object) -> str:
    message = str(error)
    assert "\n" not in message
    assert str(where) in message
    return message


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("engine", ["auto", "sam2"])
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "sam2.pt"
    torch.save({"model": {"image_encoder.trunk.pos_embed": Malice(tmp_path / "sentinel")}}, path)
    assert "asks to run posix.system" in refusal(path, engine=engine)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"maskmem_tpos_enc": None}, "memory_temporal_positional_encoding is missing"),
        ({"image_encoder.trunk.patch_embed.proj.weight": None}, "patch_embed.proj.weight is missing or malformed"),
        ({"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(3)}, "is missing or malformed"),
        ({"image_encoder.trunk.pos_embed": torch.zeros(3)}, "expected (1, 96, 7, 7), found (3,)"),
        ({"sam_prompt_encoder.point_embeddings.2.weight": None}, "prompt_encoder.point_embed.weight is missing"),
        ({"adapter.weight": torch.zeros(3)}, "adapter.weight has no place"),
        (
            {"sam_mask_decoder.iou_token.weight": torch.zeros(1, 3)},
            "mask_decoder.iou_token.weight expected (1, 256), found (1, 3)",
        ),
        ({"image_encoder.trunk.blocks.12.norm1.weight": torch.zeros(1)}, "found 13 of 96"),
    ],
)
def test_tensors_that_do_not_fit(
    tensors: dict[str, torch.Tensor], changes: dict[str, torch.Tensor | None], expected: str
) -> None:
    changed = {name: value for name, value in (tensors | changes).items() if value is not None}
    with pytest.raises(ModelError) as caught:
        from_original(changed, "other.pt", SIZE)
    assert expected in one_line(caught.value, "other.pt")


def test_sam_and_sam_2_are_told_apart(tmp_path: Path) -> None:
    sam = {name: torch.from_numpy(v) for name, v in sam_examples.random_tensors(sam_examples.peer_shapes()).items()}
    torch.save(sam, tmp_path / "sam.pth")
    assert not is_sam2(tmp_path / "sam.pth")
    assert "this is SAM, where SAM 2 is expected" in refusal(tmp_path / "sam.pth", engine="medsam2")
    torch.save({"model": {"image_encoder.trunk.pos_embed": torch.zeros(1, 8, 7, 7)}}, tmp_path / "sam2.pt")
    assert is_sam2(tmp_path / "sam2.pt")
    assert "this is SAM 2, where SAM is expected" in refusal(tmp_path / "sam2.pt", engine="medsam")
    with pytest.raises(ModelError, match="medseg finetune-sam does not"):
        load_sam(tmp_path / "sam2.pt")


def test_folders_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    from transformers import Sam2Config, Sam2Model

    assert is_sam2(folder)
    assert "expected model_type sam in config.json, found 'sam2_video'" in refusal(folder, engine="sam")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    assert "expected model_type sam2_video or sam2 in config.json, found 'sam'" in refusal(tmp_path, engine="sam2")
    (tmp_path / "config.json").write_text('{"model_type": "sam2_video"}')
    assert "not read as SAM 2" in refusal(tmp_path)
    Sam2Model(Sam2Config()).save_pretrained(tmp_path / "pictures")
    assert "SAM 2 for single pictures, saved without its memory" in refusal(tmp_path / "pictures")
    (tmp_path / "pictures" / "config.json").write_text((folder / "config.json").read_text().replace("[", "[null, "))
    for file in folder.glob("*.safetensors"):
        (tmp_path / "pictures" / file.name).unlink()
        (tmp_path / "pictures" / file.name).symlink_to(file)
    assert "config.json does not describe SAM 2" in refusal(tmp_path / "pictures")


def test_a_folder_names_no_kernel_to_be_downloaded(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    named = {"attn_implementation": "kernels-community/flash", "_attn_implementation": "kernels-community/flash"}
    (tmp_path / "config.json").write_text(json.dumps(config | named))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    assert load_sam2(tmp_path, SIZE)[0].config._attn_implementation == "sdpa"


def test_without_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'medseg\[prompting\]'"):
        load(checkpoint, "cpu")
