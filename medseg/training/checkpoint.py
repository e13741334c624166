"""The state of an unfinished training run in one file: tensors as safetensors, the rest as JSON in its header.

A checkpoint is written whole or not at all, so a killed run finds the last good one. The random state needs no room:
every batch is drawn from a generator seeded by the run's seed and the iteration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from medseg import documents
from medseg.errors import DocumentError, ModelError
from medseg.model import load_tensors, load_weights, save_tensors
from medseg.training.history import HistoryRow
from medseg.training.pace import Check


@dataclass(frozen=True)
class RunState:
    """What a checkpoint holds besides tensors.

    Attributes:
        iteration: iterations done.
        seconds: training time so far, over all starts.
        loss_scale: of the gradient scaler, for half precision.
        checks: looks at the clock so far, for a run with a budget; they fix the learning rate and the length.
    """

    version: Literal[1]
    iteration: int
    seconds: float
    loss_scale: float
    history: tuple[HistoryRow, ...]
    checks: tuple[Check, ...] = ()


def save_checkpoint(
    path: Path,
    state: RunState,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Sequence[torch.Tensor] = (),
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        average: of each of the network's parameters over past steps, where the recipe averages them.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{index}": value for index, value in enumerate(average)}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entries.items() if value is not None}
    save_tensors(path, tensors, {"state": documents.to_json(state)})


def load_checkpoint(
    path: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, average: Sequence[torch.Tensor] = ()
) -> RunState:
    """Restore network, optimiser and averaged weights from a checkpoint and return the rest of the state.

    Raises:
        ModelError: the file is damaged or does not fit the network; the message says how to begin anew.
    """
    tensors, facts = load_tensors(path)
    try:
        state = documents.from_json(RunState, facts.get("state"), where=str(path))
        load_weights(network, _with_prefix(tensors, "network."), where=str(path))
    except (DocumentError, ModelError) as error:
        raise ModelError(f"{error}; begin anew with --restart") from error
    for index, value in enumerate(average):
        found = tensors.get(f"average.{index}")
        if found is None or found.shape != value.shape:
            raise ModelError(f"{path}: the averaged weights do not fit the network; begin anew with --restart")
        value.copy_(found)
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _with_prefix(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def _with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
