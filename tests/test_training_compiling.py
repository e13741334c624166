"""torch.compile: tried where it may pay, left where it fails or takes too long."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from test_training import CPU, make_trainer

from medseg.training import compiling
from medseg.training.recipe import LONG_RUN_ITERATIONS, recipe_for_iterations
from medseg.training.run import Run

CUDA = torch.device("cuda")
LONG = Run(1, "3d_fullres", 0, 0, "bf16", recipe_for_iterations(LONG_RUN_ITERATIONS, 2))


def failing(_):
    raise RuntimeError("no compiler found\nand much more about it")


def test_it_is_tried_in_long_runs_on_gpus_alone():
    assert compiling.is_worth_compiling(LONG, CUDA)
    assert not compiling.is_worth_compiling(LONG, CPU)
    assert not compiling.is_worth_compiling(replace(LONG, deterministic=True), CUDA)
    assert not compiling.is_worth_compiling(replace(LONG, recipe=recipe_for_iterations(1000, 2)), CUDA)
    frozen = replace(LONG.recipe, frozen_iterations=10)
    assert not compiling.is_worth_compiling(replace(LONG, recipe=frozen), CUDA)


def attempt(caplog, seconds: float = 60.0):
    network = make_trainer().network
    with caplog.at_level("INFO", logger="medseg"):
        found, forward = compiling.compiled(network, torch.zeros(2, 1, 8, 8, 8), "fp32", seconds)
    return network, found, forward, [record.getMessage() for record in caplog.records]


def test_a_failure_is_one_line_and_leaves_the_network_as_it_was(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", failing)
    network, found, forward, lines = attempt(caplog)
    assert found is network
    assert forward is None
    assert lines == ["torch.compile failed (RuntimeError: no compiler found); training goes on without it"]


def test_what_takes_too_long_is_not_waited_for(monkeypatch, caplog):
    release = threading.Event()
    monkeypatch.setattr(torch, "compile", lambda forward: release.wait(60) and forward)
    network, found, forward, lines = attempt(caplog, seconds=0.05)
    release.set()
    assert found is network
    assert forward is None
    assert len(lines) == 1
    assert "not done after 0 s" in lines[0]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_success_gives_the_same_weights_without_gradients(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", lambda forward: forward)
    network, found, forward, lines = attempt(caplog)
    assert forward == found.forward_scales
    assert not lines
    for name, value in network.state_dict().items():
        assert torch.equal(value, found.state_dict()[name])
    assert all(parameter.grad is None for parameter in found.parameters())


@pytest.mark.parametrize("works", [True, False])
def test_a_trainer_takes_the_same_steps_with_either(monkeypatch, works):
    plain = make_trainer()
    monkeypatch.setattr("medseg.training.trainer.is_worth_compiling", lambda *_: True)
    monkeypatch.setattr(torch, "compile", (lambda forward: forward) if works else failing)
    other = make_trainer()
    assert (other.compiled is not None) == works
    for iteration in range(3):
        assert torch.equal(plain.step(iteration), other.step(iteration))
