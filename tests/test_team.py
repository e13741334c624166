"""Several processes do what one with the whole batch does; two of them run here, over gloo."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import LABELS, small_configuration, small_plan
from test_training import CPU, assert_same_bits, blob_cases, final_weights

from medseg.augmentation import AugmentationPolicy
from medseg.dataset import CaseRef
from medseg.errors import UsageError
from medseg.labels import LabelSet
from medseg.training import loop, recipe
from medseg.training.sampling import draw_batch
from medseg.training.team import ALONE, Team, join_team, leave_team

PROCESSES = 2
KINDS = ("plain", "scribbles of some classes, Dice of the batch")


def trainer_of(kind: str, team: Team) -> loop.Trainer:
    # Not AdamW: biases before a normalisation have no gradient but rounding, which it would scale up.
    chosen = dataclasses.replace(recipe.recipe_for_iterations(4, batch_size=4), optimizer="sgd", learning_rate=0.05)
    run = loop.Run(1, "3d_fullres", 0, 3, "fp32", chosen)
    if kind == "plain":
        plan = small_plan()
        return loop.Trainer(plan, plan.configurations[0], blob_cases(5), blob_cases(3), run, CPU, team=team)
    configuration = dataclasses.replace(small_configuration(), batch_dice=True)
    labels = LabelSet(LABELS.classes, ignore=3)
    plan = small_plan(configuration, labels)
    cases = blob_cases(5)
    for number, case in enumerate(cases):
        case.labels[number:5] = 3
    refs = [CaseRef(str(i), (), annotated=(labels.names[0],) if i % 2 else None) for i in range(5)]
    return loop.Trainer(plan, configuration, cases, (), run, CPU, partial=refs, team=team)


def train_in_team(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(PROCESSES),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    team = join_team()
    for kind in KINDS:
        assert loop.train_network(trainer_of(kind, team), folder / kind)
    # Asked to stop, one of them stops both; the leader's checkpoint is where both go on.
    trainer = trainer_of("plain", team)
    assert not loop.train_network(trainer, folder / "stopped", should_stop=lambda: not team.leads)
    team.wait()
    assert loop.train_network(trainer_of("plain", team), folder / "stopped")
    assert team.as_leader(float(rank)) == 0
    leave_team()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_train_as_one_with_their_batches_together(tmp_path):
    if not torch.distributed.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    torch.multiprocessing.spawn(train_in_team, (free_port(), tmp_path / "two"), nprocs=PROCESSES)
    for kind in KINDS:
        assert loop.train_network(trainer_of(kind, ALONE), tmp_path / "one" / kind)
        one, two = final_weights(tmp_path / "one" / kind), final_weights(tmp_path / "two" / kind)
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3, msg=f"{kind}: {name}")
    assert_same_bits(final_weights(tmp_path / "two" / "plain"), final_weights(tmp_path / "two" / "stopped"))


def test_shares_are_the_batch():
    cases = blob_cases(5)
    policy = AugmentationPolicy.default((8, 8, 8))
    whole = draw_batch(cases, (8, 8, 8), 6, policy, 1, 2)
    images, labels = whole.augmented((8, 8, 8), CPU)
    for rank in range(3):
        share = Team(rank, 3).share(6)
        part = draw_batch(cases, (8, 8, 8), 6, policy, 1, 2, share=share)
        assert part.cases == whole.cases[share]
        own_images, own_labels = part.augmented((8, 8, 8), CPU)
        np.testing.assert_allclose(own_images, images[share], atol=1e-5)
        assert torch.equal(own_labels, labels[share])


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UsageError, match="batch 7 cannot be divided among 2"):
        Team(0, 2).share(7)


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_team() == ALONE
    assert ALONE.share(7) == slice(0, 7)
    assert ALONE.device_name("auto") == "auto"
    assert ALONE.any(True)
