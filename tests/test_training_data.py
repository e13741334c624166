"""Where batches come from: cases in a device's memory, here or on disk, and the next batch read ahead."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import small_plan
from hypothesis import given
from hypothesis import strategies as st
from test_training import CPU, assert_same_bits, blob_cases, final_weights, make_trainer

from medseg.augmentation import AugmentationPolicy, Chance
from medseg.errors import FileUnreadableError
from medseg.training import loop, recipe
from medseg.training.ahead import ReadAhead
from medseg.training.cases import device_room, place_of_cases
from medseg.training.run import Run
from medseg.training.sampling import draw_batch
from medseg.training.trainer import Trainer

GB = 10**9
META = torch.device("meta")


@pytest.mark.parametrize(
    ("needed", "room", "free", "processes", "place"),
    [
        (4 * GB, None, 8 * GB, 1, "memory"),  # half of what is free, no more
        (5 * GB, None, 8 * GB, 1, "disk"),
        (4 * GB, None, 8 * GB, 2, "disk"),  # each process holds its own
        (4 * GB, 4 * GB, 1 * GB, 2, "device"),  # each on its own GPU
        (5 * GB, 4 * GB, 10 * GB, 1, "memory"),
        (5 * GB, 4 * GB, 9 * GB, 1, "disk"),
    ],
)
def test_cases_stay_where_they_fit(needed, room, free, processes, place):
    assert place_of_cases(needed, room, free, processes) == place


def test_a_gpu_keeps_the_memory_that_the_plan_trains_in():
    assert device_room(24 * GB, memory_gb=8.0) == 16 * GB
    assert device_room(6 * GB, memory_gb=8.0) == 0
    assert device_room(24 * GB, memory_gb=None) == 12 * GB


def tensors_of(batch) -> list[torch.Tensor]:
    return [batch.images, batch.labels, *([] if batch.previous is None else [batch.previous])]


@given(seed=st.integers(0, 1000), balanced=st.booleans(), cascade=st.booleans(), flat=st.booleans())
def test_cases_held_as_tensors_give_the_same_batches(seed, balanced, cascade, flat):
    patch = (9, 7) if flat else (6, 9, 7)
    held = [replace(case, previous=np.roll(case.labels, 1)) if cascade else case for case in blob_cases(4)]
    policy = AugmentationPolicy.default(patch)
    batches = [
        draw_batch(cases, patch, 3, policy, seed, 5, balanced, 2 if cascade else 0)
        for cases in (held, [case.on(CPU) for case in held])
    ]
    assert batches[0].cases == batches[1].cases
    for a, b in zip(*map(tensors_of, batches), strict=True):
        assert torch.equal(a, b)


def test_batches_of_cases_on_a_device_are_assembled_there():
    cases = [case.on(META) for case in blob_cases(3)]
    batch = draw_batch(cases, (6, 9, 7), 2, AugmentationPolicy.default((6, 9, 7)), 0, 0)
    assert batch.images.device == batch.labels.device == META


def test_the_next_batch_is_read_before_it_is_asked_for():
    read, begun = [], threading.Event()

    def reading(iteration: int):
        read.append((iteration, threading.current_thread().name))
        if iteration == 5:
            begun.set()
        return iteration

    batches = ReadAhead(reading)  # type: ignore[arg-type]
    assert batches(4) == 4
    assert begun.wait(10)
    assert [batches(i) for i in (5, 6)] == [5, 6]
    assert batches(20) == 20  # elsewhere
    assert [number for number, _ in read][:5] == [4, 5, 6, 7, 20]
    assert len({name for _, name in read}) == 1


def test_what_goes_wrong_while_reading_ahead_is_raised_at_its_step():
    def reading(iteration: int):
        if iteration == 1:
            raise FileUnreadableError("case_7: damaged")
        return iteration

    batches = ReadAhead(reading)  # type: ignore[arg-type]
    assert batches(0) == 0
    with pytest.raises(FileUnreadableError, match="case_7"):
        batches(1)
    assert batches(2) == 2


def test_reading_ahead_changes_no_bit_also_after_a_stop(tmp_path):
    plain = make_trainer()
    plain.batches = plain._read
    loop.train_network(plain, tmp_path / "plain")
    loop.train_network(make_trainer(), tmp_path / "ahead")
    asked = iter(range(1, 100))
    assert not loop.train_network(make_trainer(), tmp_path / "parts", should_stop=lambda: next(asked) >= 5)
    assert loop.train_network(make_trainer(), tmp_path / "parts")
    expected = final_weights(tmp_path / "plain")
    assert_same_bits(expected, final_weights(tmp_path / "ahead"))
    assert_same_bits(expected, final_weights(tmp_path / "parts"))


def test_no_step_reads_a_value_from_its_device():
    """Tensors of the device "meta" hold no values: reading one, which would make a GPU and its host wait, fails."""
    plan = small_plan()
    run = Run(1, "3d_fullres", 0, 3, "fp32", recipe.recipe_for_iterations(12, batch_size=2))
    cases = [case.on(META) for case in blob_cases(5)]
    trainer = Trainer(plan, plan.configurations[0], cases, (), run, META)
    trainer.policy = replace(trainer.policy, noise_sigma=Chance(0.0, 0.0, 0.1))  # "meta" has no generator of noise
    for iteration in range(8):
        assert trainer.step(iteration).device == META
