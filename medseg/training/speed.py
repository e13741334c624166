"""How fast this machine trains and predicts with networks of a plan: a few seconds of real steps on made-up scans.

Networks of each width take a step on a small patch and on a larger one. Seconds grow linearly with the voxels of a
batch, and the layers at full resolution take most of them, so two sizes tell about all patches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import prod

import numpy as np
import torch

from medseg.device import Precision, autocast, machine_name
from medseg.model import input_channels
from medseg.networks.memory import freed_memory_kept
from medseg.planning.plan import Configuration, Plan
from medseg.planning.sizing import SMALLEST_BATCH, WIDTHS, Rate, Speed, small_configuration
from medseg.training.recipe import recipe_for_iterations
from medseg.training.run import Run
from medseg.training.sampling import InMemoryCase
from medseg.training.trainer import Trainer

# Voxels of the two patches that are timed; a wide network takes a second or two for the larger one on a slow processor.
PROBE_VOXELS = {2: (64**2, 192**2), 3: (16**3, 32**3)}
# After a step that warms up, steps are timed until so much time has passed, at least one and at most so many.
_SECONDS, _MOST_STEPS = 0.3, 4

log = logging.getLogger(__name__)


def measure_speed(
    plan: Plan,
    configuration: Configuration,
    device: torch.device,
    precision: Precision,
    case_s: float,
    trainer: type[Trainer] = Trainer,
    name: str | None = None,
) -> Speed:
    """Time training steps and windows of networks of each width.

    Args:
        case_s: seconds to read and prepare a case, as measured.
        trainer: whose steps are timed.
        name: what to call the configuration, where its networks are not those of the plan.
    """
    rates = []
    with freed_memory_kept():
        for width in WIDTHS:
            rates.append(_rate(plan, configuration, device, precision, width, trainer))
    speed = Speed(
        machine_name(device),
        precision,
        name or configuration.name,
        configuration.network.features,
        case_s,
        tuple(rates),
    )
    for rate in rates:
        log.info(
            "speed of %s at %.0f %% of its features: a step %.3f s and %.2f s per million voxels, prediction %.2f s",
            speed.configuration,
            100 * rate.width,
            rate.step_s,
            rate.training_s,
            rate.prediction_s,
        )
    return speed


def _rate(
    plan: Plan,
    configuration: Configuration,
    device: torch.device,
    precision: Precision,
    width: float,
    kind: type[Trainer],
) -> Rate:
    seconds, voxels, prediction_s = [], [], 0.0
    for most in PROBE_VOXELS[configuration.dimensions]:
        small = small_configuration(configuration, most, width)
        recipe = recipe_for_iterations(1_000, SMALLEST_BATCH)
        run = Run(1, small.name, 0, 0, precision, recipe)
        trainer = kind(plan, small, [_made_up_case(plan, small)], (), run, device)
        seconds.append(_seconds_of(lambda step, trainer=trainer: float(trainer.step(step))))
        trained = trainer.configuration
        voxels.append(SMALLEST_BATCH * prod(trained.patch_size))
        window = torch.zeros(1, input_channels(trainer.plan, trained), *trained.patch_size, device=device)

        def predict(_: int, trainer: Trainer = trainer, window: torch.Tensor = window) -> None:
            with torch.inference_mode(), autocast(device, precision):
                float(trainer.network(window).sum())

        prediction_s = _seconds_of(predict) / prod(trained.patch_size) * 1e6
    grown = voxels[1] - voxels[0]  # none where the plan's patch is as small as the smaller one
    slope = (seconds[1] - seconds[0]) / grown if grown else 0.0
    per_voxel = max(slope, 0.5 * seconds[1] / voxels[1])
    return Rate(width, max(seconds[1] - per_voxel * voxels[1], 0.0), per_voxel * 1e6, prediction_s)


def _made_up_case(plan: Plan, configuration: Configuration) -> InMemoryCase:
    """A scan a little larger than the patch: noise with each class in a block of its own."""
    random = np.random.default_rng(0)
    size = configuration.patch_size if configuration.dimensions == 3 else (1, *configuration.patch_size)
    shape = tuple(2 * side if side > 1 else 1 for side in size)
    values = len(plan.labels.values)
    labels = (np.arange(prod(shape)).reshape(shape) * (values + 1) // prod(shape)).astype(np.int16)
    groups = [np.argwhere(np.isin(labels, indices))[:1000] for indices in plan.labels.class_indices]
    previous = labels if configuration.previous_stage else None
    return InMemoryCase(random.standard_normal((len(plan.channels), *shape), np.float32), labels, groups, previous)


def _seconds_of(work: Callable[[int], object]) -> float:
    """The fastest of a few calls after one that warms up: what the machine can do when nothing else is in its way."""
    work(0)
    fastest, began = float("inf"), time.monotonic()
    for step in range(1, _MOST_STEPS + 1):
        start = time.monotonic()
        work(step)
        fastest = min(fastest, time.monotonic() - start)
        if time.monotonic() - began > _SECONDS:
            break
    return fastest
