"""Muon: the orthogonal step, which parameters take it, and what it needs to go on."""

from __future__ import annotations

import copy

import pytest
import torch
from examples import small_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import networks
from medseg.training.optimizers import Muon, build_optimizer, orthogonalized
from medseg.training.recipe import recipe_for_iterations

RATE, DECAY = 1e-2, 1e-2


def small_network(seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return networks.build(small_plan().configurations[0].network, 1, 3, generator=generator)


def with_gradients(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return network


def copies(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def is_hidden_kernel(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim > 2 and not name.startswith("heads.")


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_singular_values_come_near_one_and_vectors_stay(rows, columns, seed, scale):
    matrix = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalized(matrix)
    assert found.shape == matrix.shape
    inside = left.T @ found @ right.T
    seen = values > 0.02 * values.norm()  # five iterations do not lift what is hardly there
    assert inside.diagonal()[seen].min() > 0.6
    assert inside.diagonal().max() < 1.3
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 0.01


def test_an_orthogonal_matrix_with_a_pencil():
    """Two equal singular values begin at 1 / sqrt 2, and so does a rotation of them: they end equal."""
    turned = torch.tensor([[0.0, -3.0], [3.0, 0.0]])
    found = orthogonalized(turned)
    assert found[0, 0] == found[1, 1] == 0
    assert -found[0, 1] == found[1, 0]
    a, b, c = 3.4445, -4.7750, 2.0315
    value = 0.5**0.5
    for _ in range(5):
        value = a * value + b * value**3 + c * value**5
    assert float(found[1, 0]) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 1)])
def test_nothing_stays_nothing(shape):
    assert torch.equal(orthogonalized(torch.zeros(shape)), torch.zeros(shape))


def test_kernels_step_orthogonally_with_the_size_of_adam_s_steps():
    """Momentum 0.95 in Nesterov's form, by hand for two steps; the root mean square of a step is 0.2, about."""
    network = small_network()
    optimizer = Muon(network, RATE, 0.0)
    momentum = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    for seed in range(2):
        before = copies(with_gradients(network, seed))
        optimizer.step()
        for name, parameter in network.named_parameters():
            if is_hidden_kernel(name, parameter):
                change, gradient = (before[name] - parameter).detach().flatten(1), parameter.grad
                momentum[name] = 0.95 * momentum[name] + 0.05 * gradient
                matrix = (0.05 * gradient + 0.95 * momentum[name]).flatten(1)
                expected = RATE * 0.2 * max(matrix.shape) ** 0.5 * orthogonalized(matrix)
                torch.testing.assert_close(change, expected, atol=1e-6, rtol=1e-3)
                assert 0.14 * RATE < float(change.square().mean().sqrt()) < 0.26 * RATE, name


def test_heads_and_norms_take_adam_s_steps():
    ours, theirs = small_network(), small_network()
    mine = Muon(ours, RATE, DECAY)
    others = [p for name, p in theirs.named_parameters() if not is_hidden_kernel(name, p)]
    adam = torch.optim.Adam(others, lr=RATE)
    for seed in range(4):
        with_gradients(ours, seed)
        with_gradients(theirs, seed)
        mine.step()
        adam.step()
    expected = copies(theirs)
    names = [name for name, p in ours.named_parameters() if not is_hidden_kernel(name, p)]
    assert any(name.startswith("heads.") for name in names)
    assert any(p.ndim == 1 and not name.startswith("heads.") for name, p in ours.named_parameters())
    for name in names:
        torch.testing.assert_close(copies(ours)[name], expected[name], atol=1e-6, rtol=1e-5)


def test_only_kernels_decay():
    network = small_network()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = copies(network)
    Muon(network, RATE, DECAY).step()
    for name, parameter in network.named_parameters():
        shrunk = 1 - RATE * DECAY if is_hidden_kernel(name, parameter) else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk)


def test_parameters_without_a_gradient_stay():
    network = with_gradients(small_network())
    names = [name for name, _ in network.named_parameters()]
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))  # biases begin at zero
        if names.index(name) % 2:
            parameter.grad = None
    before = copies(network)
    Muon(network, RATE, DECAY).step()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) == bool(names.index(name) % 2), name


def test_a_small_problem_is_solved():
    """Find the kernel that made an image."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 12, 12)
    wanted = torch.nn.Conv2d(3, 5, 3)(images).detach()
    layer = torch.nn.Conv2d(3, 5, 3)
    optimizer = Muon(layer, RATE, 0.0)
    losses = []
    for step in range(150):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.02 * (1 - step / 150)
        optimizer.zero_grad()
        loss = (layer(images) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]


def test_a_restored_state_goes_on_with_the_same_bits():
    whole = small_network()
    optimizer = build_optimizer(whole, recipe_for_iterations(100, 2))
    assert isinstance(optimizer, Muon)
    for seed in range(3):
        with_gradients(whole, seed)
        optimizer.step()
    parts = copy.deepcopy(whole)
    restored = Muon(parts, RATE, DECAY)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in range(3, 6):
        for network, steps in ((whole, optimizer), (parts, restored)):
            with_gradients(network, seed)
            steps.step()
    for name, value in copies(whole).items():
        assert torch.equal(value, copies(parts)[name]), name
