"""Memory and time of a prediction, told before it is made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch

from medseg import io
from medseg.io import Header
from medseg.prediction.cases import Job
from medseg.prediction.member import Member, Placement
from medseg.prediction.memory import Need, require_memory
from medseg.prediction.outputs import Wishes
from medseg.prediction.predictor import Predictor
from medseg.progress import Progress, silent

# Reading, resampling, deciding and writing, a voxel and channel of the scan, on two cores: benchmarks.inference.
SECONDS_A_VOXEL = 1.2e-7


@dataclass(frozen=True)
class Estimate:
    """What predicting a case will take: bounds of memory, and a time that a busy machine will exceed."""

    case: str
    need: Need
    seconds: float


def estimate_cases(
    predictor: Predictor, jobs: Sequence[Job], wishes: Wishes, *, progress: Progress = silent
) -> tuple[Estimate, ...]:
    """For each case, from its header, and from how long this machine takes for a window.

    Raises:
        MemoryNeedError: a case does not fit into the memory that is allowed.
        DataError: a header cannot be read.
    """
    speeds: dict[int, float] = {}
    predictor.scans = max(1, len(jobs))
    estimates = []
    for number, job in enumerate(jobs):
        header = io.probe(job.images[0])
        need = require_memory(predictor, header, str(job.images[0]), wishes.wanted(predictor))
        estimates.append(Estimate(job.case, need, _seconds(predictor, header, speeds)))
        progress(number + 1, len(jobs), "estimating")
    return tuple(estimates)


def _seconds(predictor: Predictor, header: Header, speeds: dict[int, float]) -> float:
    """Of all stages; ``speeds`` remembers the seconds of a window for each member."""
    header = replace(header, channels=len(predictor.plan.channels))
    total = prod(header.shape) * SECONDS_A_VOXEL
    for member, placement in zip(predictor.members, predictor.placements, strict=True):
        if id(member) not in speeds:
            speeds[id(member)] = _seconds_a_window(member, placement)
        total += member.windows(member.prepared_shape(header.geometry)) * speeds[id(member)]
    return total + sum(_seconds(stage, header, speeds) for stage in predictor.previous if stage is not None)


def _seconds_a_window(member: Member, placement: Placement) -> float:
    """The second of two batches: the first one warms up."""
    batch = torch.zeros(placement.together, member.inputs, *member.configuration.patch_size, device=member.device)
    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        with torch.inference_mode():
            float(member.window_logits(batch).sum())
        seconds = time.monotonic() - began
    return seconds / placement.together
