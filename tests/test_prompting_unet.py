"""The promptable U-Net: its plan, its training, and masks on the image's own grid whatever that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from examples import LABELS, oblique_geometry, small_configuration, small_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import assert_same_bits, blob_cases, final_weights

from medseg import documents, networks
from medseg.errors import DataError, ModelError
from medseg.labels import LabelSet
from medseg.model import MODEL_FILE, WEIGHTS_FILE, FoldFacts, ModelDocument, fold_folder, load_model, save_tensors
from medseg.planning.plan import Decision, Plan
from medseg.prediction.member import Member
from medseg.preprocessing import prepare
from medseg.prompting import Box, MaskPrompt, Point, Scribble, load
from medseg.prompting.grid import tight_box
from medseg.prompting.unet.channels import PROMPT_CHANNELS
from medseg.prompting.unet.engine import expected_dice
from medseg.prompting.unet.placement import box_on_prepared, mask_on_prepared, on_image, points_on_prepared
from medseg.prompting.unet.promptable import object_patch, promptable_plan, scan_plan
from medseg.prompting.unet.training import PromptableTrainer
from medseg.training import loop, recipe
from medseg.volume import Box as VoxelBox
from medseg.volume import Geometry, Volume

CPU = torch.device("cpu")
NO_EXTENTS = np.zeros((0, 3))


def write_promptable(folder: Path, plan: Plan | None = None) -> Path:
    """A model folder of a promptable network with random weights."""
    plan = plan or small_plan()
    changed, configuration = promptable_plan(plan, plan.configurations[0], NO_EXTENTS)
    network = networks.build(configuration.network, len(changed.channels), changed.labels.output_count)
    documents.save(ModelDocument(1, changed, configuration.name), folder / MODEL_FILE)
    facts = documents.to_json(FoldFacts((0, 1, 2), "fp32", 1, 1.0, 0))
    save_tensors(fold_folder(folder, 0) / WEIGHTS_FILE, network.state_dict(), {"fold": facts})
    return folder


def scan(geometry: Geometry, channels: int = 1) -> Volume:
    array = np.random.default_rng(0).normal(1, 0.1, (channels, *geometry.shape)).astype(np.float32)
    return Volume(array, geometry)


def answering(monkeypatch: pytest.MonkeyPatch, channel: int) -> None:
    """Let every network answer with one of its input channels: object where that is above one half."""

    def logits(self: Member, batch: torch.Tensor) -> torch.Tensor:
        lead = batch[:, channel : channel + 1] - 0.5
        return torch.cat([-lead / 2, lead / 2], 1)

    monkeypatch.setattr(Member, "window_logits", logits)


def test_any_plan_becomes_promptable_and_its_scan_stays_what_it_was():
    plan = small_plan(small_configuration(channels=2))
    changed, configuration = promptable_plan(plan, plan.configurations[0], NO_EXTENTS)
    assert changed.channels == ("channel 0", "channel 1", *PROMPT_CHANNELS)
    assert changed.labels.output_count == 2
    assert configuration.name == "3d_fullres_promptable"
    again = documents.from_json(Plan, documents.to_json(changed))
    back, base = scan_plan(again, again.configurations[0])
    assert back.channels == plan.channels
    assert base.normalization == plan.configurations[0].normalization
    ignoring = small_plan(labels=LabelSet({"left": (1,)}, ignore=9))
    assert promptable_plan(ignoring, ignoring.configurations[0], NO_EXTENTS)[0].labels.ignore_index == 2
    with pytest.raises(ModelError, match="medseg train --promptable"):
        scan_plan(plan, plan.configurations[0])


def test_a_patch_holds_an_object_and_what_is_around_it():
    plan = small_plan(small_configuration(patch_size=(32, 64, 64)))
    configuration = plan.configurations[0]  # coarsest voxels of 2, at least 4 of them
    extents = np.array([[2, 20, 100]] * 19 + [[30, 20, 100]])
    patch, because = object_patch(extents[:19], configuration)
    assert patch == (8, 26, 64)  # the least; 1.25 * 20 = 25; the plan's own
    assert "2 x 20 x 100 voxels" in because
    assert object_patch(extents, configuration)[0] == (8, 26, 64)  # one in twenty may be larger
    assert object_patch(NO_EXTENTS, configuration)[0] == (32, 64, 64)
    assert object_patch(extents, small_configuration(patch_size=(64, 32)))[0] == (26, 32)
    decided = replace(configuration, decisions=(Decision("patch_size", "32 x 64 x 64 voxels", "it fits"),))
    made = promptable_plan(plan, decided, extents)[1]
    assert made.decisions == (Decision("patch_size", "8 x 26 x 64 voxels", object_patch(extents, decided)[1]),)


def test_the_first_answer_is_a_mask_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def logits(self: Member, batch: torch.Tensor) -> torch.Tensor:
        seen.append(float(batch[:, 4].sum()))
        lead = batch[:, 3:4] - 0.5  # the box
        return torch.cat([-lead / 2, lead / 2], 1)

    monkeypatch.setattr(Member, "window_logits", logits)
    session = load(write_promptable(tmp_path), "cpu")
    session.set_image(scan(Geometry.from_spacing((8, 8, 8), (1.0, 1.0, 1.0))))
    session.add(Box((2, 2, 2), (5, 5, 5)))
    assert seen == [0, 27]
    session.add(Point((3, 3, 3)))
    assert seen == [0, 27, 27]  # a correction mends what there is, once


def test_expected_dice_with_a_pencil():
    lead = np.log(np.array([[0.9, 0.6], [0.3, 0.2]]) / np.array([[0.1, 0.4], [0.7, 0.8]]))
    assert expected_dice(lead.astype(np.float32)) == pytest.approx(2 * 1.5 / (2 + 2.0))
    assert expected_dice(np.full((2, 2), -3.0)) == 0


GRIDS = [
    Geometry.from_spacing((9, 14, 12), (1.0, 1.0, 1.0)),
    Geometry.from_spacing((9, 30, 26), (2.0, 0.5, 0.5)),
    oblique_geometry((30, 14, 9), (0.5, 1.0, 2.0), "LPS", 6),
    oblique_geometry((12, 20, 17), (1.5, 0.8, 0.9), "SAL", 4),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_a_box_returns_to_its_own_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: Geometry):
    answering(monkeypatch, 3)
    session = load(write_promptable(tmp_path), "cpu")
    session.set_image(scan(grid))
    start = tuple(size // 3 for size in grid.shape)
    stop = tuple(size // 3 + max(2, size // 3) for size in grid.shape)
    mask = session.add(Box(start, stop))
    mask.geometry.require_equal(grid, "mask", "image")
    expected = np.zeros(grid.shape, bool)
    expected[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    # Coarser voxels of the plan may move a face by half of one of theirs.
    spare = [int(np.ceil(0.5 / spacing)) if spacing != 1 else 0 for spacing in grid.spacing_mm]
    differs = np.argwhere((mask.array > 0) != expected)
    for index in differs:
        faces = [
            min(abs(i - a), abs(i - (a - 1)), abs(i - b), abs(i - (b - 1)))
            for i, a, b in zip(index, start, stop, strict=True)
        ]
        assert any(face < room for face, room in zip(faces, spare, strict=True)), index
    assert (mask.array > 0).sum() > 0.5 * expected.sum()


@pytest.mark.parametrize("grid", GRIDS)
def test_a_point_returns_to_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: Geometry):
    answering(monkeypatch, 1)
    session = load(write_promptable(tmp_path), "cpu")
    session.set_image(scan(grid))
    at = tuple(float(size // 3) for size in grid.shape)
    found = np.argwhere(session.add(Point(at)).array)
    apart = np.linalg.norm(grid.to_mm(found) - grid.to_mm(at), axis=1)
    assert len(found)
    assert apart.max() < 4.0
    assert np.linalg.norm(grid.to_mm(found.mean(0)) - grid.to_mm(at)) < 1.0


def test_masks_and_lines_reach_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    answering(monkeypatch, 4)
    session = load(write_promptable(tmp_path), "cpu")
    grid = GRIDS[0]
    session.set_image(scan(grid))
    given_mask = np.zeros(grid.shape, bool)
    given_mask[2:5, 3:9, 2:8] = True
    np.testing.assert_array_equal(session.add(MaskPrompt.of(given_mask)).array, given_mask)
    np.testing.assert_array_equal(session.add(Point((3, 5, 5))).array, given_mask)  # the mask so far
    more = np.zeros(grid.shape, bool)
    more[6:8, 3:5, 3:5] = True
    np.testing.assert_array_equal(session.add(MaskPrompt.of(more)).array > 0, given_mask | more)
    answering(monkeypatch, 2)
    session.set_image(scan(grid))
    line = session.add(Box((2, 2, 2), (4, 4, 4)), Scribble(((4, 2, 2), (4, 2, 9)), positive=False)).array
    assert line[4, 2, 2:10].all()


def test_a_region_grows_until_the_object_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    answering(monkeypatch, 0)  # bright is object
    grid = Geometry.from_spacing((10, 12, 60), (1.0, 1.0, 1.0))
    array = np.full((1, *grid.shape), 0.1, np.float32)
    array[0, 3:6, 4:8, 5:50] = 1
    session = load(write_promptable(tmp_path), "cpu")
    session.set_image(Volume(array, grid))
    assert session.add(Point((4, 5, 10))).array.sum() == 3 * 4 * 45


def test_an_image_of_other_channels_is_refused(tmp_path: Path):
    session = load(write_promptable(tmp_path), "cpu")
    with pytest.raises(DataError, match="scan: expected 1 channels"):
        session.set_image(scan(GRIDS[0], channels=2))


def test_models_that_take_no_prompts_are_refused(tmp_path: Path):
    plan = small_plan()
    documents.save(ModelDocument(1, plan, "3d_fullres"), tmp_path / MODEL_FILE)
    network = networks.build(plan.configurations[0].network, 1, 3)
    facts = documents.to_json(FoldFacts((), "fp32", 1, 1.0, 0))
    save_tensors(fold_folder(tmp_path, 0) / WEIGHTS_FILE, network.state_dict(), {"fold": facts})
    with pytest.raises(ModelError, match="takes no prompts"):
        load(tmp_path, "cpu")


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(range(len(GRIDS))), st.integers(0, 10_000))
def test_placement_there_and_back(number: int, seed: int):
    grid, random = GRIDS[number], np.random.default_rng(seed)
    plan = small_plan()
    trace = prepare(scan(grid), plan, plan.configurations[0], case="scan").trace
    point = random.uniform(0, np.array(grid.shape) - 1)
    back = trace.source.to_index(trace.geometry.to_mm(points_on_prepared([point.tolist()], trace)[0]))
    outside = np.maximum(np.abs(back - point) * grid.spacing_mm, 0).max()
    assert outside <= 0.5  # only what lies in the outer half of an edge voxel moves
    start = random.integers(0, np.array(grid.shape) - 1)
    stop = random.integers(start + 1, np.array(grid.shape) + 1)
    box = VoxelBox(tuple(start.tolist()), tuple(stop.tolist()))
    low, high = box_on_prepared(box, trace)
    assert all(0 <= a < b <= size for a, b, size in zip(low, high, trace.shape, strict=True))
    if grid is GRIDS[0]:
        mask = np.zeros(grid.shape, bool)
        mask[box.slices] = True
        there = mask_on_prepared(mask, trace)
        assert there[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].all()
        assert there.sum() == mask.sum()
        whole = VoxelBox((0, 0, 0), trace.shape)
        np.testing.assert_array_equal(on_image(np.where(there, 1.0, -1.0).astype(np.float32), whole, trace), mask)


def make_trainer(iterations: int = 12, labels: LabelSet = LABELS, dimensions: int = 3) -> PromptableTrainer:
    plan = small_plan(small_configuration((1.0,) * dimensions, (8,) * dimensions), labels=labels)
    chosen = replace(recipe.recipe_for_iterations(iterations, batch_size=2), epoch_iterations=4)
    run = loop.Run(1, "3d_fullres_promptable", 0, 3, "fp32", chosen)
    cases = blob_cases(5, labels=labels)
    return PromptableTrainer(plan, plan.configurations[0], cases, blob_cases(3, labels=labels), run, CPU)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_batches_show_one_object_and_are_the_same_each_time(dimensions: int):
    trainer = make_trainer(dimensions=dimensions)
    for iteration in range(6):
        images, target, _ = trainer.draw(iteration)
        again, target_again, _ = trainer.draw(iteration)
        assert images.shape == (2, 5, *(8,) * dimensions)
        assert torch.equal(images, again)
        assert torch.equal(target, target_again)
        assert set(target.unique().tolist()) <= {0, 1}
        for sample, wanted in zip(images, target, strict=True):
            assert sample[1:].any()
            if wanted.any():
                assert sample[1:4:2].any()  # a point inside, or a box


def test_voxels_that_nobody_annotated_stay_so():
    trainer = make_trainer(labels=LabelSet({"left": (1,)}, ignore=2))
    seen: set[int] = set()
    for iteration in range(8):
        seen |= set(trainer.draw(iteration)[1].unique().tolist())
    assert seen == {0, 1, 2}


def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path):
    assert loop.train_network(make_trainer(), tmp_path / "whole")
    steps = iter(range(100))
    assert not loop.train_network(make_trainer(), tmp_path / "parts", should_stop=lambda: next(steps) == 4)
    assert loop.train_network(make_trainer(), tmp_path / "parts")
    assert_same_bits(final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts"))


def test_it_learns_to_segment_what_the_prompt_is_in(tmp_path: Path):
    trainer = make_trainer(160)
    losses: list[Any] = [float(trainer.step(i)) for i in range(160)]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
    changed = trainer.document_plan
    documents.save(ModelDocument(1, changed, changed.configurations[0].name), tmp_path / MODEL_FILE)
    facts = documents.to_json(FoldFacts((), "fp32", 1, 1.0, 0))
    save_tensors(fold_folder(tmp_path, 0) / WEIGHTS_FILE, trainer.network.state_dict(), {"fold": facts})
    assert load_model(tmp_path).plan == changed
    session = load(tmp_path, "cpu")
    scores = []
    for case in blob_cases(9)[5:]:
        session.set_image(Volume(case.image, Geometry.from_spacing(case.shape, (1.0, 1.0, 1.0))))
        for label in (1, 2):
            reference = case.labels == label
            found = session.add(Box(*tight_box(reference), object=label)).array == label
            scores.append(2 * (found & reference).sum() / (found.sum() + reference.sum()))
    assert np.mean(scores) > 0.65
