"""Where prepared cases stay while a network is trained: in the GPU's memory, in the machine's, or on disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import psutil
import torch

from medseg import store
from medseg.planning.plan import Configuration
from medseg.store import StoredCase
from medseg.training.sampling import CPU, InMemoryCase, PatchSource
from medseg.training.team import ALONE, Team
from medseg.workspace import Workspace

# Prepared cases are held in memory while they take at most this part of what is free; else patches come from disk.
MEMORY_SHARE = 0.5

Place = Literal["device", "memory", "disk"]

log = logging.getLogger(__name__)


def place_of_cases(needed: int, device_room: int | None, memory_free: int, processes: int = 1) -> Place:
    """Where cases of so many bytes should stay.

    Args:
        device_room: bytes of the GPU that training leaves; None without a GPU of its own memory.
        memory_free: free bytes of the machine.
        processes: how many hold the cases, each on a GPU of its own, in one machine.
    """
    if device_room is not None and needed <= device_room:
        return "device"
    return "memory" if needed * processes <= MEMORY_SHARE * memory_free else "disk"


def device_room(free: int, memory_gb: float | None) -> int:
    """Bytes that cases may take of a GPU's free ones: what is left beside a training as the plan sizes it.

    Args:
        memory_gb: memory of the GPU that the plan was made for; where that is not known, half of what is free is left.
    """
    return int(free / 2 if memory_gb is None else max(0.0, free - memory_gb * 1e9))


def open_cases(
    workspace: Workspace,
    configuration: Configuration,
    names: Sequence[str],
    team: Team = ALONE,
    device: torch.device = CPU,
) -> list[PatchSource]:
    """Prepared cases for training on a device, where they fit best; the log says where that is.

    Raises:
        FileUnreadableError: a case is missing or damaged; names the command that mends it.
    """
    stored = stored_cases(workspace, configuration, names)
    needed = sum(_bytes(case) for case in stored)
    room = None
    if device.type == "cuda":
        room = device_room(torch.cuda.mem_get_info(device)[0], workspace.plan.memory_gb)
    place = place_of_cases(needed, room, psutil.virtual_memory().available, team.size)
    where = {"device": f"go into the memory of {device}", "memory": "are held in memory", "disk": "stay on disk"}
    log.info("%d prepared cases (%.3g GB) %s", len(stored), needed / 1e9, where[place])
    if place == "disk":
        return [*stored]
    held = (_in_memory(case) for case in stored)
    return [case.on(device) for case in held] if place == "device" else [*held]


def stored_cases(workspace: Workspace, configuration: Configuration, names: Sequence[str]) -> list[StoredCase]:
    """Prepared cases, left on disk."""
    folder = workspace.preprocessed_folder(configuration)
    return [store.open_case(folder, name) for name in names]


def _bytes(case: StoredCase) -> int:
    """Of image, labels and a previous stage's mask in memory."""
    z, y, x = case.shape
    return (4 * case.channels + (2 if case.previous is None else 4)) * z * y * x


def _in_memory(case: StoredCase) -> InMemoryCase:
    foreground = tuple(np.asarray(voxels) for voxels in case.foreground)
    return InMemoryCase(case.read_image(), case.read_labels(), foreground, case.read_previous())
