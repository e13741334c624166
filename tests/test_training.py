"""Training: recipes by hand, batches, and runs that are killed and go on."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import LABELS, small_plan

from medseg.atomic import PARTIAL_PREFIX
from medseg.augmentation import AugmentationPolicy
from medseg.device import deterministic_algorithms
from medseg.errors import ModelError, StorageError, TrainingDivergedError
from medseg.labels import LabelSet
from medseg.model import load_tensors, load_weights, save_tensors
from medseg.preprocessing import locate_foreground
from medseg.training import loop, recipe
from medseg.training.sampling import InMemoryCase, draw_batch, validation_patches
from medseg.training.starting import Length

CPU = torch.device("cpu")


def blob_cases(count: int, shape=(10, 12, 11), labels: LabelSet = LABELS) -> list[InMemoryCase]:
    """Bright boxes (label 1) and dark boxes (label 2) on noise."""
    cases = []
    for number in range(count):
        random = np.random.default_rng(number)
        image = random.normal(0, 0.3, (1, *shape)).astype(np.float32)
        indices = np.zeros(shape, np.int16)
        for label, brightness in ((1, 2.0), (2, -2.0)):
            z, y, x = random.integers(0, 5, 3)
            indices[z : z + 4, y : y + 5, x : x + 4] = label
            image[0, z : z + 4, y : y + 5, x : x + 4] = brightness
        cases.append(InMemoryCase(image, indices, locate_foreground(indices, labels)))
    return cases


def make_trainer(iterations: int = 12, seed: int = 3, precision: str = "fp32") -> loop.Trainer:
    plan = small_plan()
    chosen = recipe.recipe_for_iterations(iterations, batch_size=2)
    run = loop.Run(1, "3d_fullres", 0, seed, precision, chosen)  # type: ignore[arg-type]
    return loop.Trainer(plan, plan.configurations[0], blob_cases(5), blob_cases(3), run, CPU)


def final_weights(folder) -> dict[str, torch.Tensor]:
    return load_tensors(folder / loop.WEIGHTS_FILE)[0]


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_learning_rate_warms_up_and_ends_near_zero():
    chosen = recipe.recipe_for_iterations(1000, 2)
    rates = [chosen.learning_rate_at(i) for i in range(1000)]
    assert rates[0] < rates[10] < rates[chosen.warmup_iterations]
    assert set(rates[chosen.warmup_iterations : 501]) == {chosen.learning_rate}
    assert all(a > b for a, b in itertools.pairwise(rates[500:]))
    assert 0 < rates[-1] < 0.01 * chosen.learning_rate


def test_the_average_covers_the_last_eighth_of_a_run():
    """Weights equal to their step's number: with power 7 their mean is 8/9 of the last one (the integral of x^8)."""
    chosen, average = recipe.recipe_for_iterations(1000, 2), 0.0
    for step in range(1000):
        average += chosen.average_weight(step) * (step - average)
    assert average == pytest.approx(999 * 8 / 9, rel=2e-3)
    assert recipe.recipe_for_iterations(250_000, 2).average_power == 0


def test_long_runs_take_the_peer_s_recipe():
    chosen = recipe.recipe_for_iterations(250_000, 7)
    assert (chosen.optimizer, chosen.learning_rate, chosen.batch_size) == ("sgd", 1e-2, 7)
    assert chosen.learning_rate_at(125_000) == pytest.approx(1e-2 * 0.5**0.9)


def test_a_batch_is_a_function_of_seed_and_iteration():
    cases = blob_cases(4)
    policy = AugmentationPolicy.default((8, 8, 8))
    once = draw_batch(cases, (8, 8, 8), 3, policy, seed=1, iteration=7)
    again = draw_batch(cases, (8, 8, 8), 3, policy, seed=1, iteration=7)
    assert torch.equal(once.images, again.images)
    images, labels = once.augmented((8, 8, 8), CPU)
    assert images.shape == (3, 1, 8, 8, 8)
    assert labels.shape == (3, 8, 8, 8)
    other = draw_batch(cases, (8, 8, 8), 3, policy, seed=1, iteration=8)
    assert once.images.shape != other.images.shape or not torch.equal(once.images, other.images)


def test_every_case_has_its_turn_in_each_round(monkeypatch):
    cases = blob_cases(4)
    marked = [InMemoryCase(np.full_like(case.image, i), case.labels, case.foreground) for i, case in enumerate(cases)]
    policy = AugmentationPolicy.default((4, 4, 4))
    seen = [float(draw_batch(marked, (4, 4, 4), 1, policy, 0, i).images.max()) for i in range(8)]
    assert sorted(seen[:4]) == sorted(seen[4:]) == [0, 1, 2, 3]


def test_the_last_third_of_a_batch_shows_foreground():
    shape = (6, 30, 30)
    indices = np.zeros(shape, np.int16)
    indices[3, 20, 25] = 2
    case = InMemoryCase(np.zeros((1, *shape), np.float32), indices, locate_foreground(indices, LABELS))
    policy = AugmentationPolicy.default((4, 8, 8))
    for iteration in range(10):
        batch = draw_batch([case], (4, 8, 8), 3, policy, 0, iteration)
        assert (batch.labels[2] == 2).any()


def test_two_dimensional_batches_are_slices():
    policy = AugmentationPolicy.default((8, 8))
    images, labels = draw_batch(blob_cases(2), (8, 8), 4, policy, 0, 0).augmented((8, 8), CPU)
    assert images.shape == (4, 1, 8, 8)
    assert labels.shape == (4, 8, 8)
    images, labels = validation_patches(blob_cases(5), (8, 8), limit=3)
    assert images.shape == (3, 1, 8, 8)


def test_it_learns_and_keeps_a_record(tmp_path):
    trainer = make_trainer(iterations=150)
    assert loop.train_network(trainer, tmp_path)
    rows = list(csv.DictReader((tmp_path / "progress.csv").read_text().splitlines()))
    assert int(rows[-1]["iteration"]) == 150
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert float(rows[-1]["mean_dice"]) > 0.8
    assert not (tmp_path / loop.CHECKPOINT_FILE).exists()


@pytest.mark.parametrize("stops", [(1,), (4, 9)])
def test_a_stopped_run_ends_with_the_same_bits(tmp_path, stops):
    loop.train_network(make_trainer(), tmp_path / "whole")
    for steps in np.diff((0, *stops)):
        asked = iter(range(1, 100))
        stopped = not loop.train_network(
            make_trainer(), tmp_path / "parts", should_stop=lambda a=asked, n=steps: next(a) >= n
        )
        assert stopped
    assert loop.train_network(make_trainer(), tmp_path / "parts")
    assert_same_bits(final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts"))


def test_what_is_written_is_the_average(tmp_path):
    """Computed anew beside the run, from the weights after each step."""
    trainer = make_trainer(iterations=4)
    power, seen = trainer.run.recipe.average_power, []
    assert power > 0
    step = trainer.step

    def watched(iteration, schedule=None):
        loss = step(iteration, schedule)
        seen.append({name: value.detach().clone() for name, value in trainer.network.named_parameters()})
        return loss

    trainer.step = watched
    loop.train_network(trainer, tmp_path)
    written, mean = final_weights(tmp_path), dict(seen[0])
    for number, weights in enumerate(seen[1:], 2):
        part = 1 - (1 - 1 / number) ** (1 + power)
        mean = {name: value + part * (weights[name] - value) for name, value in mean.items()}
    for name, value in mean.items():
        torch.testing.assert_close(written[name], value, atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(written[name], value) for name, value in seen[-1].items())
    for name, value in trainer.network.named_parameters():  # training could go on where it was
        assert torch.equal(value, seen[-1][name])


def test_weights_are_averaged_only_while_they_are_looked_at():
    trainer = make_trainer(iterations=4)
    for iteration in range(3):
        trainer.step(iteration)
    own = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    with pytest.raises(ZeroDivisionError), trainer.averaged():
        assert all(torch.equal(*pair) for pair in zip(trainer.network.parameters(), trainer.average, strict=True))
        assert any(not torch.equal(value, own[name]) for name, value in trainer.network.named_parameters())
        raise ZeroDivisionError
    assert_same_bits(own, trainer.network.state_dict())
    trainer.validate()
    assert_same_bits(own, trainer.network.state_dict())


def test_a_long_run_keeps_its_last_weights(tmp_path):
    plan, cases = small_plan(), blob_cases(3)
    chosen = replace(recipe.recipe_for_iterations(recipe.LONG_RUN_ITERATIONS, 2), iterations=2)
    trainer = loop.Trainer(
        plan, plan.configurations[0], cases, cases, loop.Run(1, "3d_fullres", 0, 0, "fp32", chosen), CPU
    )
    assert trainer.average == []
    loop.train_network(trainer, tmp_path)
    assert_same_bits(dict(trainer.network.state_dict()), final_weights(tmp_path))


@pytest.mark.parametrize("damage", ["missing", "of another shape"])
def test_a_damaged_average_says_how_to_begin_anew(tmp_path, damage):
    asked = iter(range(1, 100))
    assert not loop.train_network(make_trainer(), tmp_path, should_stop=lambda: next(asked) >= 3)
    tensors, facts = load_tensors(tmp_path / loop.CHECKPOINT_FILE)
    assert "average.0" in tensors
    if damage == "missing":
        del tensors["average.0"]
    else:
        tensors["average.0"] = tensors["average.0"].flatten()
    save_tensors(tmp_path / loop.CHECKPOINT_FILE, tensors, facts)
    with pytest.raises(ModelError, match=r"averaged weights do not fit.*--restart"):
        loop.train_network(make_trainer(), tmp_path)


def test_another_seed_gives_other_weights(tmp_path):
    loop.train_network(make_trainer(2, seed=1), tmp_path / "a")
    loop.train_network(make_trainer(2, seed=2), tmp_path / "b")
    a, b = final_weights(tmp_path / "a"), final_weights(tmp_path / "b")
    assert any(not torch.equal(value, b[name]) for name, value in a.items())


def test_a_damaged_checkpoint_says_how_to_begin_anew(tmp_path):
    (tmp_path / loop.CHECKPOINT_FILE).write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors"):
        loop.train_network(make_trainer(), tmp_path)


def test_a_diverged_run_says_so(tmp_path):
    trainer = make_trainer()
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(math.nan)
    with pytest.raises(TrainingDivergedError, match="loss is nan"):
        loop.train_network(trainer, tmp_path)


def test_weights_that_do_not_fit_are_named():
    network = make_trainer().network
    tensors = dict(network.state_dict())
    name = next(iter(tensors))
    with pytest.raises(ModelError, match=f"{name} is missing"):
        load_weights(network, {k: v for k, v in tensors.items() if k != name}, "here")
    with pytest.raises(ModelError, match="stranger has no place"):
        load_weights(network, {**tensors, "stranger": torch.zeros(1)}, "here")
    with pytest.raises(ModelError, match=f"{name} expected"):
        load_weights(network, {**tensors, name: torch.zeros(1)}, "here")


def test_the_log_says_how_fast_it_is_and_what_data_cost(tmp_path, caplog):
    with caplog.at_level("INFO", logger="medseg"):
        loop.train_network(make_trainer(iterations=4), tmp_path)
    lines = [record.getMessage() for record in caplog.records if "an iteration" in record.getMessage()]
    assert len(lines) == 4
    assert all("samples a second" in line and "% of the time for data" in line for line in lines)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond so many bytes, as where a disk is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    loop.train_network(make_trainer(), tmp_path / "whole")
    folder = tmp_path / "full"
    asked = iter(range(1, 100))
    assert not loop.train_network(make_trainer(), folder, should_stop=lambda: next(asked) >= 5)
    before = (folder / loop.CHECKPOINT_FILE).read_bytes()
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with largest_file(len(before) // 2), pytest.raises(StorageError, match=loop.CHECKPOINT_FILE):
        loop.train_network(make_trainer(), folder)
    assert (folder / loop.CHECKPOINT_FILE).read_bytes() == before
    assert not list(folder.glob(f"{PARTIAL_PREFIX}*"))
    assert loop.train_network(make_trainer(), folder)
    assert_same_bits(final_weights(tmp_path / "whole"), final_weights(folder))


def test_determinism_is_asked_for_only_while_it_is_wanted():
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        make_trainer().step(0)
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_checkpoint_is_due_after_a_minute_or_two_per_cent_of_a_short_run():
    """The step to come and the writing are part of what a kill costs."""
    timer = loop.CheckpointTimer(written=100.0)
    assert not timer.is_due(159.0, step=1.0, run=36_000.0)
    assert timer.is_due(159.1, step=1.0, run=36_000.0)
    assert not timer.is_due(111.0, step=1.0, run=600.0)  # 12 s
    assert timer.is_due(111.1, step=1.0, run=600.0)


def test_writing_checkpoints_takes_at_most_two_per_cent_of_the_time():
    timer = loop.CheckpointTimer(written=100.0).after_writing(110.0, 110.5)
    assert timer == loop.CheckpointTimer(written=110.0, writing=0.5)
    assert not timer.is_due(110.0 + 25.0 - 1.6, step=1.0, run=600.0)
    assert timer.is_due(110.0 + 25.0 - 1.4, step=1.0, run=600.0)
    slow = loop.CheckpointTimer(written=0.0, writing=5.0)  # a minute counts more than that
    assert slow.is_due(54.1, step=1.0, run=600.0)


def test_a_cpu_is_not_asked_for_weeks():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert Length().on(cpu) == Length(budget_seconds="auto")
    assert Length().on(gpu).steps == 250_000
    for asked in (Length(epochs=3), Length(iterations=5), Length(budget_seconds=60.0)):
        assert asked.on(cpu) == asked.on(gpu) == asked
