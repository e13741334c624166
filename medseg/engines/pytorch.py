"""PyTorch as the engine: everywhere, in every precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from medseg.device import Precision
from medseg.engines.engine import EngineNetwork


@dataclass(frozen=True)
class PyTorchNetwork:
    """The network itself."""

    network: nn.Module

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(batch)

    def release(self) -> None:
        """Nothing is kept."""


class PyTorch:
    """The engine that is always there."""

    name = "torch"
    package = ""

    def installed(self) -> bool:
        return True

    def version(self) -> str:
        return f"torch {torch.__version__}"

    def computes(self, device: torch.device, precision: Precision) -> bool:  # noqa: ARG002
        return True

    def open(self, network: nn.Module, window: tuple[int, ...], threads: int) -> EngineNetwork:  # noqa: ARG002
        return PyTorchNetwork(network)

    def held_bytes(self, parameter_bytes: int) -> int:  # noqa: ARG002
        return 0

    def windows_at_once(self, together: int) -> int:
        return together
