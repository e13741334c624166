"""Several processes that train one network, as torchrun starts them: each takes its share of every batch.

Gradients are averaged after every backward pass and what losses pool over a batch is summed over processes, so that a
step is the one that a single process would make of the whole batch. The first process leads: only it writes files, and
what depends on the clock or on signals is as it says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from medseg.errors import UsageError

# How long one process waits for another, which may have to prepare a large dataset first.
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Team:
    """The processes of one run, seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes and decides."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """The samples of a batch that are this process's own.

        Raises:
            UsageError: the batch cannot be divided equally.
        """
        if batch_size % self.size:
            raise UsageError(
                f"a run with batch {batch_size} cannot be divided among {self.size} processes;"
                f" start as many as divide {batch_size}, or begin anew with --restart"
            )
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def device_name(self, name: str) -> str:
        """The device that this process should take when asked for one of that name: each one its own GPU."""
        own_gpu = self.size > 1 and torch.cuda.is_available() and name in ("auto", "cuda")
        return f"cuda:{self.local_rank}" if own_gpu else name

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over processes, with its gradient."""
        return values if self.size == 1 else _Total.apply(values)

    def average_gradients(self, network: torch.nn.Module) -> None:
        """Put the mean over processes in the place of every gradient."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(together)
        together /= self.size
        parts = together.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any of the processes."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found)

    def as_leader(self, value: float) -> float:
        """The leader's value."""
        if self.size == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(found, 0)
        return float(found)

    def wait(self) -> None:
        """Until all processes have come here."""
        self.any(False)


ALONE = Team()


class _Total(torch.autograd.Function):
    """A sum over processes. What each of them makes of it comes back as gradient, summed likewise."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - torch's signature
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return _summed(gradient)


def _summed(values: torch.Tensor) -> torch.Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def started_by_torchrun() -> bool:
    """Whether this process is one of several that train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def join_team() -> Team:
    """This process's team, if torchrun has started it as one of several; call it once, before training."""
    if not started_by_torchrun():
        return ALONE
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    return Team(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def leave_team() -> None:
    """End what :func:`join_team` has begun."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
