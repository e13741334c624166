"""Prompts and sessions: coordinates, what is refused, undo, several objects, saving and replaying."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from examples import oblique_geometry
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from medseg import volume
from medseg.errors import DocumentError, UsageError
from medseg.progress import Progress
from medseg.prompting.engine import Answer
from medseg.prompting.prompts import Box, MaskPrompt, Point, Prompt, Scribble, Text, load_steps, locate, save_steps
from medseg.prompting.session import Session
from medseg.volume import Geometry, Volume

GRID = Geometry.from_spacing((6, 8, 10), (2.0, 1.0, 0.5), (5.0, 6.0, 7.0))


class Painter:
    """An engine that fills boxes and masks, sets points, and adds what was there."""

    name = "painter"
    takes_text = False

    def set_image(self, volume: Volume, *, case: str, progress: Progress) -> None:
        self.shape = volume.geometry.shape

    def segment(self, prompts: Sequence[Prompt], previous: np.ndarray | None, progress: Progress) -> Answer:
        mask = np.zeros(self.shape, bool) if previous is None else previous.copy()
        for prompt in prompts:
            match prompt:
                case Box():
                    mask[prompt.voxels.slices] = True
                case MaskPrompt():
                    mask |= prompt.array
                case Point():
                    mask[tuple(round(value) for value in prompt.at)] = prompt.positive
        return Answer(mask, 0.5)


def session(grid: Geometry = GRID) -> Session:
    opened = Session(Painter())
    opened.set_image(Volume(np.zeros((1, *grid.shape), np.float32), grid))
    return opened


def test_masks_lie_on_the_grid_of_the_image_and_undo_goes_back():
    opened = session()
    assert not opened.mask.array.any()
    one = opened.add(Box((1, 2, 3), (2, 4, 6)))
    assert one.array.sum() == 6
    assert one.geometry is opened.image.geometry
    assert one.labels == {"object 1": 1}
    two = opened.add(Point((4, 4, 4)))
    assert two.array.sum() == 7
    np.testing.assert_array_equal(opened.undo().array, one.array)
    assert not opened.undo().array.any()
    with pytest.raises(UsageError, match="nothing to undo"):
        opened.undo()


def test_several_objects_and_who_wins():
    opened = session()
    mask = opened.add(Box((0, 0, 0), (2, 2, 2)), Box((1, 1, 1), (3, 3, 3), object=2))
    assert (mask.array == 1).sum() == 7
    assert (mask.array == 2).sum() == 8
    mask = opened.add(Point((5, 5, 5)))  # the first object again: now it was changed last
    assert (mask.array == 1).sum() == 9
    assert mask.labels == {"object 1": 1, "object 2": 2}
    assert opened.undo().array[1, 1, 1] == 2


def test_negative_boxes_and_masks_are_left_out_whatever_the_engine_says():
    opened = session()
    mask = opened.add(Box((0, 0, 0), (3, 3, 3)), Box((0, 0, 0), (1, 8, 10), positive=False))
    assert mask.array.sum() == 18
    corner = np.zeros(GRID.shape, bool)
    corner[1, 0, 0] = True
    assert opened.add(MaskPrompt.of(corner, positive=False)).array.sum() == 17
    with pytest.raises(UsageError, match="all its prompts are negative"):
        opened.add(Point((1, 1, 1), object=2, positive=False))
    assert opened.mask.array.sum() == 17
    assert len(opened.steps) == 2


def test_a_session_is_saved_and_replayed(tmp_path: Path):
    first = session()
    given = np.zeros(GRID.shape, bool)
    given[2:4, 3:5, ::2] = True
    first.add(MaskPrompt.of(given), Box((0, 0, 0), (1, 2, 3), object=2))
    first.add(Point((5, 7, 9), positive=True))
    first.add(Scribble(((0, 0, 0), (1, 1, 1)), positive=False))
    first.save(tmp_path / "prompts.json")
    second = session()
    np.testing.assert_array_equal(second.replay(tmp_path / "prompts.json").array, first.mask.array)
    assert second.steps == first.steps


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (3, 4, 5)))
def test_masks_survive_their_runs(mask: np.ndarray):
    np.testing.assert_array_equal(MaskPrompt.of(mask).array, mask)


def test_millimetres_and_voxels_are_the_same_place():
    # x runs along the last axis: 5 + 0.5 x, then y 6 + y, z 7 + 2 z
    assert locate(Point((6.5, 8.0, 11.0), space="mm"), GRID) == Point((2.0, 2.0, 3.0))
    box = locate(Box((5.5, 7.0, 8.5), (6.6, 9.0, 13.0), space="mm"), GRID)
    assert box == Box((1, 1, 1), (4, 4, 4))
    grid = oblique_geometry((9, 12, 10), (3.0, 1.0, 1.0), "LPS", 12)
    inside = locate(Point(tuple(grid.to_mm((4, 5, 6))), space="mm"), grid)
    np.testing.assert_allclose(inside.at, (4, 5, 6), atol=1e-9)


def test_words_are_kept_as_they_are_but_for_spaces(tmp_path: Path):
    prompt = Text(" Left \n kidney", object=2)
    assert prompt == Text("Left kidney", 2)
    assert locate(prompt, GRID) == prompt
    save_steps([[prompt]], tmp_path / "prompts.json")
    assert load_steps(tmp_path / "prompts.json") == ((prompt,),)


def test_a_box_of_the_package_is_a_prompt_too():
    assert session().add(volume.Box((1, 2, 3), (2, 4, 6))).array.sum() == 6


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Box((0, 0, 0), (7, 2, 2)), "box: it reaches outside of the image of 6 x 8 x 10 voxels .* along z from 0 to 7"),
        (Box((-1, 0, 0), (2, 2, 2)), "along z from -1"),
        (Box((2, 2, 2), (2, 4, 4)), "box: it is empty along z: from 2 up to, without, 2; a single slice s is s to s"),
        (Box((2, 2, 2), (4, 1, 4)), "empty along y"),
        (Box((0.5, 0, 0), (2, 2, 2)), "whole numbers"),
        (Box((9, 9, 9), (8, 10, 10), space="mm"), "empty"),
        (Point((6, 0, 0)), r"point: \(6.0, 0.0, 0.0\) \(z, y, x\) lies outside of the image of 6 x 8 x 10"),
        (Point((100, 100, 100), space="mm"), r"mm \(x, y, z\) lies outside"),
        (Scribble(((0, 0, 0), (0, 0, 99))), "scribble: .* lies outside"),
        (MaskPrompt.of(np.ones((2, 2, 2))), "mask: expected the image's 6 x 8 x 10 voxels"),
        (MaskPrompt.of(np.zeros((6, 8, 10))), "mask: it is empty"),
        (Point((0, 0, 0), object=0), "numbered from 1"),
        (Text("liver"), "text 'liver': the engine painter takes no text; sam3 does"),
    ],
)
def test_prompts_that_are_refused(prompt: Prompt, message: str):
    opened = session()
    with pytest.raises(UsageError, match=message) as caught:
        opened.add(prompt)
    assert "\n" not in str(caught.value)
    assert not opened.steps


def test_prompts_that_make_no_sense():
    with pytest.raises(UsageError, match="text: it is empty"):
        Text(" ")
    with pytest.raises(UsageError, match="three finite"):
        Point((1, 2, float("nan")))
    with pytest.raises(UsageError, match="three finite"):
        Box((1, 2), (3, 4))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="two or more"):
        Scribble(((0, 0, 0),))
    with pytest.raises(UsageError, match="add up"):
        MaskPrompt((2, 2, 2), (3, 4))
    with pytest.raises(UsageError, match="no prompt"):
        session().add()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected .*version"),
        ('{"version": 2, "steps": []}', "expected .*version"),
        ('{"version": 1, "steps": [3]}', r"steps\[0\]: expected a list"),
        (
            '{"version": 1, "steps": [[{"kind": "ball"}]]}',
            r"steps\[0\]\[0\]: expected a prompt whose kind is one of box",
        ),
        ('{"version": 1, "steps": [[{"kind": "point"}]]}', "'at' is missing"),
        ('{"version": 1, "steps": [[{"kind": "point", "at": [1, 2]}]]}', "expected a list of 3"),
        ('{"version": 1, "steps": [[{"kind": "point", "at": [1, 2, 3], "spce": "mm"}]]}', "did you mean 'space'"),
        ("nonsense", "not valid JSON"),
    ],
)
def test_documents_that_hold_no_prompts(tmp_path: Path, text: str, message: str):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(DocumentError, match=message) as caught:
        load_steps(path)
    assert str(path) in str(caught.value)


def test_a_document_by_hand(tmp_path: Path):
    path = tmp_path / "prompts.json"
    document = {"version": 1, "steps": [[{"kind": "box", "start": [0, 0, 0], "stop": [1, 2, 3]}]]}
    path.write_text(json.dumps(document))
    assert load_steps(path) == ((Box((0, 0, 0), (1, 2, 3)),),)
    save_steps(load_steps(path), path)
    assert load_steps(path) == ((Box((0, 0, 0), (1, 2, 3)),),)


def test_what_the_model_expects_of_each_object():
    opened = session()
    assert opened.expected_dice == {}
    opened.add(Box((0, 0, 0), (2, 2, 2)), Box((3, 3, 3), (4, 4, 4), object=7))
    assert opened.expected_dice == {1: 0.5, 7: 0.5}
    opened.undo()
    assert opened.expected_dice == {}
