"""Optimisers of the recipes: SGD as nnU-Net has it, AdamW, and Muon for short runs.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) makes the momentum of a layer's weight matrix orthogonal
before it is applied, so that directions that gradients seldom show are learned as fast as the frequent ones. Kernels
of convolutions are matrices of outputs by everything else. Steps are scaled to the size of Adam's (Liu et al., "Muon is
scalable for LLM training", arXiv 2502.16982), so that one learning rate serves both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medseg.training.recipe import Recipe

MOMENTUM = 0.95
BETAS = (0.9, 0.999)
# Coefficients of the fifth-order iteration that brings singular values near 1, and how often it is applied.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Root mean square of Adam's steps, which orthogonal ones are scaled to.
_ADAM_RMS = 0.2
_FUSED = ("cpu", "cuda")


def build_optimizer(network: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over all parameters, in one kernel where the device has one."""
    fused = all(parameter.device.type in _FUSED for parameter in network.parameters())
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(
                network.parameters(),
                lr=recipe.learning_rate,
                momentum=0.99,
                nesterov=True,
                weight_decay=recipe.weight_decay,
                fused=fused,
            )
        case "adamw":
            return torch.optim.AdamW(
                network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fused
            )
        case "muon":
            return Muon(network, recipe.learning_rate, recipe.weight_decay)


class Muon(torch.optim.Optimizer):
    """Muon for the kernels of hidden layers, Adam for scales, shifts, biases and the heads."""

    def __init__(self, network: torch.nn.Module, learning_rate: float, weight_decay: float) -> None:
        hidden, others = [], []
        for name, parameter in network.named_parameters():
            is_kernel = parameter.ndim > 2 and not name.startswith("heads.")
            (hidden if is_kernel else others).append(parameter)
        groups = [
            {"params": hidden, "orthogonal": True, "weight_decay": weight_decay},
            {"params": others, "orthogonal": False, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step from the gradients; parameters without one stay as they are."""
        for group in self.param_groups:
            update = self._muon if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group["lr"], group["weight_decay"])

    def _muon(self, parameter: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        momentum = self._state(parameter, "momentum")
        momentum.lerp_(gradient, 1 - MOMENTUM)
        matrix = gradient.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's form
        scale = _ADAM_RMS * max(matrix.shape) ** 0.5
        parameter.mul_(1 - rate * decay).add_(orthogonalized(matrix).reshape(gradient.shape), alpha=-rate * scale)

    def _adam(self, parameter: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        mean, square = self._state(parameter, "mean"), self._state(parameter, "square")
        steps = self.state[parameter].setdefault("steps", torch.zeros((), device=parameter.device))
        steps += 1
        mean.lerp_(gradient, 1 - BETAS[0])
        square.lerp_(gradient.square(), 1 - BETAS[1])
        spread = (square / (1 - BETAS[1] ** steps)).sqrt_().add_(1e-8)
        parameter.mul_(1 - rate * decay).sub_(mean / (1 - BETAS[0] ** steps) / spread * rate)

    def _state(self, parameter: Tensor, name: str) -> Tensor:
        entries: dict[str, Any] = self.state[parameter]
        if name not in entries:
            entries[name] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        return entries[name]


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with the same singular vectors and singular values near 1 (0.7 to 1.2), by Newton and Schulz.

    Each iteration multiplies the matrix by a polynomial of its Gram matrix, and these commute: the product of all
    polynomials is worked out on the small Gram matrix (m, m) and applied once, a fifth of the work.
    """
    a, b, c = _QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    gram = x @ x.T
    product = None
    for _ in range(_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor
    assert product is not None
    x = product @ x
    return x if wide is matrix else x.T
