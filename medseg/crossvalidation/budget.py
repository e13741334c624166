"""What a budget of time buys on this machine: the speed that was measured, and the network that fits.

The speed is measured once for a machine, a precision and a configuration, and kept in the workspace (``speed.json``),
so that planning and training with one budget, and all folds, come to the same network.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Literal

import psutil
import torch

from medseg import documents
from medseg.dataset import load_case
from medseg.device import Precision, machine_name
from medseg.errors import DocumentError
from medseg.fingerprinting import Fingerprint
from medseg.planning.plan import Configuration
from medseg.planning.sizing import WIDTHS, DatasetSize, Freedom, Sizing, Speed, choose_sizes, duration, suggest_budget
from medseg.preprocessing import prepare
from medseg.progress import Progress, silent
from medseg.training.speed import measure_speed
from medseg.training.trainer import Trainer
from medseg.workspace import Workspace

SPEED_FILE = "speed.json"
# Part of a budget that measuring may take, and a time beyond which widths that were left out are measured after all.
MEASURING_SHARE = 0.03
PATIENCE_S = 15.0
# A training may take so much of the memory that is free.
MEMORY_SHARE = 0.8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speeds:
    """What ``speed.json`` holds: one entry per machine, precision and configuration."""

    version: Literal[1]
    speeds: tuple[Speed, ...] = ()


def size_for_budget(
    workspace: Workspace,
    configuration: Configuration,
    budget_s: float | Literal["auto"],
    device: torch.device,
    precision: Precision,
    *,
    freedom: Freedom = "all",
    held_out: bool = True,
    trainer: type[Trainer] = Trainer,
    name: str | None = None,
    progress: Progress = silent,
) -> Sizing:
    """The network that a budget buys here, and what comes of it; measures the machine's speed where it is not known.

    Args:
        configuration: as planned.
        budget_s: seconds for everything, from preparing to measuring held-out cases; ``"auto"`` is the time after
            which more is expected to bring little.
        freedom: how much of the configuration may be changed.
        held_out: whether held-out cases are predicted and measured.
        trainer, name: whose steps are timed, and what to call that, as for :func:`medseg.training.speed.measure_speed`.

    Raises:
        DataError: the case that is read to measure with cannot be used.
        StorageError: the workspace cannot be written.
    """
    speed = machine_speed(workspace, configuration, device, precision, trainer=trainer, name=name, progress=progress)
    free = MEMORY_SHARE * psutil.virtual_memory().available if device.type == "cpu" else inf
    plan, dataset = workspace.plan, _dataset_size(workspace)
    dataset = dataset if held_out else replace(dataset, held_out=0)
    if budget_s == "auto":
        budget_s = suggest_budget(plan, configuration, speed, dataset, memory_bytes=free, freedom=freedom)
        log.info("--budget auto: %s; twice as long is expected to bring little more", duration(budget_s))
    sizing = choose_sizes(plan, configuration, speed, dataset, budget_s, memory_bytes=free, freedom=freedom)
    log.info("%s", sizing.because)
    return sizing


def machine_speed(
    workspace: Workspace,
    configuration: Configuration,
    device: torch.device,
    precision: Precision,
    *,
    limit_s: float = inf,
    trainer: type[Trainer] = Trainer,
    name: str | None = None,
    progress: Progress = silent,
) -> Speed:
    """The speed of this machine with a configuration, from the workspace or measured now (a few seconds).

    Args:
        limit_s: how long measuring may take; wide networks are then left out where they are too slow for that.

    Raises:
        DataError: the case that is read to measure with cannot be used.
        StorageError: the workspace cannot be written.
    """
    path = workspace.root / SPEED_FILE
    known = _known_speeds(path)
    here = (machine_name(device), precision, name or configuration.name, configuration.network.features)
    found = next((s for s in known if (s.machine, s.precision, s.configuration, s.features) == here), None)
    if found is not None and (len(found.rates) == len(WIDTHS) or limit_s < PATIENCE_S):
        return found
    what = "measuring the speed of this machine"
    progress(0, 1, what)
    speed = measure_speed(
        workspace.plan,
        configuration,
        device,
        precision,
        _seconds_of_a_case(workspace, configuration) if found is None else found.case_s,
        limit_s=limit_s,
        known=() if found is None else found.rates,
        trainer=trainer,
        name=name,
    )
    progress(1, 1, what)
    documents.save(Speeds(1, (*(s for s in known if s is not found), speed)), path)
    return speed


def _known_speeds(path: Path) -> tuple[Speed, ...]:
    if not path.is_file():
        return ()
    try:
        return documents.load(Speeds, path).speeds
    except DocumentError as error:
        log.warning("%s; the speed is measured anew", error)
        return ()


def _seconds_of_a_case(workspace: Workspace, configuration: Configuration) -> float:
    """Seconds to read and prepare a case of middling size, the second time, when libraries are loaded."""
    cases = sorted(
        workspace.dataset.cases, key=lambda case: sum(path.stat().st_size for path in case.files if path.is_file())
    )
    case, plan = cases[len(cases) // 2], workspace.plan
    alone = replace(configuration, previous_stage=None)
    seconds = inf
    for _ in range(2):
        began = time.monotonic()
        image, labels = load_case(case, plan.labels, plan.channels)
        prepare(image, plan, alone, labels, case=case.name)
        seconds = time.monotonic() - began
    return seconds


def _dataset_size(workspace: Workspace) -> DatasetSize:
    """Of a fold in the mean, so that all folds come to the same network."""
    folds = workspace.splits
    training = sum(len(fold.train) for fold in folds) / len(folds)
    held_out = sum(len(fold.validation) for fold in folds) / len(folds)
    try:
        coarse = documents.load(Fingerprint, workspace.fingerprint_path).coarse_dice
    except DocumentError:  # a workspace that came without one
        coarse = ()
    return DatasetSize(round(training), round(held_out), coarse)
