"""What computes a network: the interface that every engine has."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from medseg.device import Precision


class EngineNetwork(Protocol):
    """A network as an engine computes it."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, ...) of windows (B, C, ...) float32, of any number of windows; the caller's to change."""
        ...

    def release(self) -> None:
        """Give back the memory of feature maps that is kept for the next windows."""
        ...


class Engine(Protocol):
    """A way to compute networks.

    Attributes:
        name: as on the command line.
        package: how pip installs what it needs; empty if nothing.
    """

    name: str
    package: str

    def installed(self) -> bool:
        """Whether it can be used here; it is not loaded for that."""
        ...

    def version(self) -> str:
        """Its name and version, for records."""
        ...

    def computes(self, device: torch.device, precision: Precision) -> bool:
        """Whether it computes on that device in that precision."""
        ...

    def open(self, network: nn.Module, window: tuple[int, ...], threads: int) -> EngineNetwork:
        """A network in evaluation mode, ready for windows of one shape (C, ...).

        Raises:
            UsageError: a network of a kind that the engine does not know.
        """
        ...

    def held_bytes(self, parameter_bytes: int) -> int:
        """Upper bound of the memory that an opened network takes beside its weights, without feature maps."""
        ...

    def windows_at_once(self, together: int) -> int:
        """Of how many windows it holds the feature maps while it computes a batch of so many."""
        ...
