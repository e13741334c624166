"""The memory contract: what a scan will need is worked out before it is read, and kept below what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import psutil
import torch

from medseg.architecture import feature_map_elements
from medseg.errors import MemoryNeedError
from medseg.footprint import LIBRARY_BYTES, WorkingMemory, scan_bytes, working_memory
from medseg.io import Header
from medseg.networks.memory import give_back_freed_memory
from medseg.prediction.member import Member, Placement
from medseg.prediction.predictor import Predictor

_FLOAT = 4


@dataclass(frozen=True)
class Need:
    """Memory of the process, with what it holds already, and of the GPU while a scan is predicted."""

    ram_bytes: int
    vram_bytes: int


@dataclass(frozen=True)
class Wanted:
    """What is wanted beside the mask: it takes memory."""

    likely: bool = False
    apart: bool = False
    maps: int = 0  # arrays of a byte a voxel


def require_memory(predictor: Predictor, header: Header, where: str, wanted: Wanted) -> Need:
    """Place the predictor's work so that a scan fits into what is allowed, as fast as that leaves it.

    Returns:
        What the scan will need.

    Raises:
        MemoryNeedError: it does not fit; says what the least is.
    """
    settings = predictor.settings
    ram, vram = settings.max_ram_bytes, settings.max_vram_bytes
    predictor.release()
    give_back_freed_memory()
    if ram is not None and psutil.Process().memory_info().rss + _probing_bytes(predictor) > ram:
        predictor.keep_to_pytorch()
    predictor.choose_engines(header.geometry)
    placements, need = _fitting(predictor, header, wanted)
    if placements is None and settings.engine == "auto":  # PyTorch takes less where windows are small
        predictor.keep_to_pytorch()
        give_back_freed_memory()
        placements, need = _fitting(predictor, header, wanted)
    if placements is not None:
        predictor.placements = placements
        return need
    option, limit, bytes_needed = "--max-ram", ram, need.ram_bytes
    if vram is not None and need.vram_bytes > vram:
        option, limit, bytes_needed = "--max-vram", vram, need.vram_bytes
    raise MemoryNeedError(
        f"{where}: predicting needs at least {_gb(bytes_needed)} GB of memory, {option} allows"
        f" {(limit or 0) / 1e9:.2f} GB; give {option} {_gb(bytes_needed)}GB, or crop the scan"
    )


def _fitting(predictor: Predictor, header: Header, wanted: Wanted) -> tuple[tuple[Placement, ...] | None, Need]:
    """The fastest placements within what is allowed, and what they need; without them what the least would."""
    ram, vram = predictor.settings.max_ram_bytes, predictor.settings.max_vram_bytes
    need = Need(0, 0)
    for placements in _placements(predictor):
        need = predicted_need(predictor, header, placements, wanted)
        if (ram is None or need.ram_bytes <= ram) and (vram is None or need.vram_bytes <= vram):
            return placements, need
    return None, need


def _probing_bytes(predictor: Predictor) -> int:
    """Upper bound of what measuring engines takes, one window in each; nothing if there is no choice."""
    total = 0
    for member in predictor.members:
        if member.undecided:
            maps = feature_map_elements(member.configuration.network, member.configuration.patch_size, member.outputs)
            opening = sum(member.unopened_bytes(engine) for engine in member.candidates)
            total += opening + len(member.candidates) * maps * _FLOAT
    return total + sum(_probing_bytes(stage) for stage in predictor.previous if stage is not None)


def predicted_need(predictor: Predictor, header: Header, placements: Sequence[Placement], wanted: Wanted) -> Need:
    """An upper bound of the memory with which a scan can be predicted."""
    header = replace(header, channels=len(predictor.plan.channels))
    voxels = prod(header.shape[1:])
    before = psutil.Process().memory_info().rss
    held = before + scan_bytes(header, predictor.plan) + wanted.maps * voxels + LIBRARY_BYTES
    several = len(predictor.members) > 1
    needs = [
        _member_need(member, placement, header, wanted, several)
        for member, placement in zip(predictor.members, placements, strict=True)
    ]
    together = Need(held + sum(need.ram_bytes for need in needs), sum(need.vram_bytes for need in needs))
    stages = [
        predicted_need(stage, header, stage.placements, Wanted()) for stage in predictor.previous if stage is not None
    ]
    mask = voxels * predictor.plan.labels.dtype.itemsize if stages else 0
    return Need(
        max(together.ram_bytes + mask, *(stage.ram_bytes for stage in stages), 0),
        max(together.vram_bytes, *(stage.vram_bytes for stage in stages), 0),
    )


def _member_need(member: Member, placement: Placement, header: Header, wanted: Wanted, several: bool) -> Need:
    networks = len(member.networks) if wanted.apart else 1
    likely = several or wanted.likely or wanted.apart or wanted.maps > 0
    work: WorkingMemory = working_memory(
        header,
        member.model.plan,
        member.configuration,
        placement.together,
        at_once=member.engine.windows_at_once(placement.together),
        networks=networks,
        likely=likely,
    )
    if member.device.type == "cpu":
        opening = member.unopened_bytes(member.engine)
        return Need(work.planes_bytes + work.sums_bytes + work.windows_bytes + opening, 0)
    on_device = placement.sums_device.type != "cpu"
    return Need(
        work.planes_bytes + (0 if on_device else work.sums_bytes),
        work.windows_bytes + (work.sums_bytes if on_device else 0),
    )


def _placements(predictor: Predictor) -> Iterator[tuple[Placement, ...]]:
    """Ways to do the work, fastest first: with fewer windows at once, then with sums in the computer's memory."""
    best = [member.placement() for member in predictor.members]
    devices = [None] if predictor.device.type == "cpu" else [None, torch.device("cpu")]
    for device in devices:
        together = max(placement.together for placement in best)
        while True:
            yield tuple(
                Placement(min(placement.together, together), device or placement.sums_device) for placement in best
            )
            if together == 1:
                break
            together //= 2


def _gb(count: int) -> str:
    """Rounded up, so that what is advised is enough."""
    return f"{count / 1e9 + 0.005:.2f}"
