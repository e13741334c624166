"""A network that fits the time: from a machine's measured speed and a budget to spacing, width, patch and steps.

nnU-Net's rules make a network as large as a GPU's memory allows. On a processor, or in a short time, such a network
learns for too few steps. Here every smaller one (fewer features, coarser grid, smaller patch) is priced by the measured
speed, and the one with the best expected Dice is taken. The rule of expected Dice was fitted on runs of several
datasets; docs/lab-notes.md has the runs, the fit and what it misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, prod
from typing import Literal

from medseg.architecture import feature_map_elements
from medseg.coarse_grids import FACTORS, coarser_spacing
from medseg.patches import tile_starts
from medseg.planning.plan import Configuration, Decision, Plan
from medseg.planning.presets import BASE_FEATURES
from medseg.planning.topology import View, network, topology
from medseg.planning.wording import configuration_values, count

# Features as parts of the plan's own. Below a quarter a step is hardly cheaper, since memory is then what it waits for.
WIDTHS = (0.25, 0.5, 1.0)
FEWEST_FEATURES = 8
# Patches as parts of the voxels of the one that the plan's memory allows.
PATCH_SHARES = (1.0, 0.5, 0.25, 0.125)
FEWEST_PATCH_VOXELS = {2: 96 * 96, 3: 32**3}
SMALLEST_BATCH = 2


@dataclass(frozen=True)
class Rate:
    """How fast a machine is with networks of one width: seconds of a step = ``step_s + voxels / 1e6 * training_s``.

    Attributes:
        width: features as a part of the plan's.
        step_s: seconds of a training step however small it is.
        training_s: seconds per million voxels of a batch in a training step, with augmentation.
        prediction_s: seconds per million voxels of windows in prediction.
    """

    width: float
    step_s: float
    training_s: float
    prediction_s: float

    def step_seconds(self, batch_voxels: float) -> float:
        """Seconds of a training step on a batch of so many voxels."""
        return self.step_s + self.training_s * batch_voxels / 1e6


@dataclass(frozen=True)
class Speed:
    """What was measured of a machine with one configuration of a plan.

    Attributes:
        machine: processor or GPU, and threads.
        features: of the configuration when it was measured; another network has another speed.
        case_s: seconds to read and prepare a case.
        rates: by width, narrow first; the widest may be missing where a short budget left no time to measure them.
    """

    machine: str
    precision: str
    configuration: str
    features: tuple[int, ...]
    case_s: float
    rates: tuple[Rate, ...]


@dataclass(frozen=True)
class DatasetSize:
    """What the choice needs to know of a dataset.

    Attributes:
        training, held_out: cases of a fold.
        coarse_dice: as in the fingerprint; without it the grid stays as it is.
    """

    training: int
    held_out: int
    coarse_dice: tuple[float, ...] = ()


@dataclass(frozen=True)
class Expected:
    """A Dice with the range in which nine of ten runs should end."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Sizing:
    """What a budget buys.

    Attributes:
        configuration: with the network, patch, grid and batch that were chosen, and the reasons.
        width: features as a part of the plan's.
        factor: how many times coarser the grid is than the plan's.
        steps: optimiser steps that fit.
        budget_s: seconds for everything.
        preparation_s, training_s, held_out_s: its parts, as far as they are known before.
        measures_all: whether there is time to measure all held-out cases, not a sample of them.
        memory_bytes: most memory that training will take, about.
    """

    configuration: Configuration
    width: float
    factor: float
    steps: int
    step_s: float
    budget_s: float
    preparation_s: float
    training_s: float
    held_out_s: float
    measures_all: bool
    expected: Expected
    memory_bytes: int
    because: str


# How much of a configuration may be changed.
Freedom = Literal["all", "width", "none"]

# Parts of a budget: starting up, what held-out cases may take at most, and writing down what came of it.
STARTING_S = 4.0
HELD_OUT_SHARE = 0.12
# A case that is predicted and measured is read, resampled and compared besides: so many times what preparing it takes.
MEASURED_CASE = 2.0
# The learning curve is measured on patches of at most so many held-out cases.
LEARNING_CURVE_CASES = 16
# Training gets at least this part of a budget, even where preparing alone would take all of it.
LEAST_TRAINING = 0.5
# Seconds grow with at least this power of the features.
UNMEASURED_POWER = 1.0
# Batches grow beyond the smallest once so many steps fit.
STEPS_WANTED = 2_000
# The plan's own network is kept unless another one is better by this.
WORTHWHILE_DICE = 0.002
# Where less is expected of every network, the one with the shortest steps is taken, on the plan's grid.
LEAST_DICE = 1e-6
# Memory of a training: libraries and prepared cases aside, bytes for each number in the feature maps of a batch.
# Measured with six networks in two and three dimensions, which took 0.91 to 1.00 of what these say.
LIBRARY_BYTES = 450_000_000
BYTES_PER_ELEMENT = {"fp32": 19.0, "bf16": 12.0, "fp16": 12.0}


def choose_sizes(
    plan: Plan,
    configuration: Configuration,
    speed: Speed,
    dataset: DatasetSize,
    budget_s: float,
    *,
    memory_bytes: float = inf,
    freedom: Freedom = "all",
) -> Sizing:
    """The network with the best expected Dice after a budget of time, and what the budget buys with it.

    Args:
        configuration: as nnU-Net's rules have it; what is chosen is at most as large.
        speed: of the machine, with this configuration.
        budget_s: seconds for everything, from preparing to measuring held-out cases.
        memory_bytes: batches do not grow beyond it, and networks whose training would take more are left out.
        freedom: ``"all"``; ``"width"`` keeps grid and patch; ``"none"`` keeps the configuration as it is.
    """
    priced = [
        _price(plan, candidate, speed, dataset, budget_s, memory_bytes)
        for candidate in _candidates(configuration, speed, dataset, freedom)
    ]
    own = priced[0]
    fitting = [sizing for sizing in priced if sizing.memory_bytes <= memory_bytes]
    best = max(fitting, key=_preference) if fitting else min(priced, key=_memory)
    if own in fitting and own.expected.middle >= max(best.expected.middle - WORTHWHILE_DICE, LEAST_DICE):
        best = own
    return _explained(best, own, speed, budget_s)


@dataclass(frozen=True)
class _Candidate:
    configuration: Configuration
    rate: Rate
    factor: float
    share: float  # of the median scan that a patch shows


def _candidates(configuration: Configuration, speed: Speed, dataset: DatasetSize, freedom: Freedom) -> list[_Candidate]:
    """The configuration as it is, then all smaller ones that may be chosen."""
    whole = _whole_rate(speed)
    found = [_Candidate(configuration, whole, 1.0, _share(configuration.patch_size, configuration.median_shape))]
    if freedom == "none":
        return found
    factors = (
        (1.0, *FACTORS) if freedom == "all" and dataset.coarse_dice and not configuration.previous_stage else (1.0,)
    )
    for factor in factors:
        view, start = coarse_view(configuration, factor)
        most = min(prod(configuration.patch_size), prod(start))
        patches = {patch_within(view, start, most * part) for part in (PATCH_SHARES if freedom == "all" else ())}
        if factor == 1.0:
            patches.add(configuration.patch_size)
        for patch in sorted(patches, reverse=True):
            for rate in speed.rates:
                smaller = resized(configuration, view, patch, rate.width)
                if smaller.patch_size != smaller.network.divisor:  # a single voxel cannot be normalised
                    found.append(_Candidate(smaller, rate, factor, _share(patch, view.median_shape)))
    return found


def _whole_rate(speed: Speed) -> Rate:
    """Of the plan's own network; where that was not measured, at least so slow."""
    widest = speed.rates[-1]
    slower = (1 / widest.width) ** UNMEASURED_POWER
    return Rate(1.0, widest.step_s, slower * widest.training_s, slower * widest.prediction_s)


def small_configuration(configuration: Configuration, most_voxels: int, width: float) -> Configuration:
    """The configuration with a patch of about so many voxels and a part of its features: to measure with."""
    view = View(configuration.spacing_mm, configuration.median_shape)
    patch = patch_within(view, configuration.patch_size, most_voxels, fewest=0)
    return resized(configuration, view, patch, width)


def coarse_view(configuration: Configuration, factor: float) -> tuple[View, tuple[float, ...]]:
    """The data on a coarser grid, and the patch to begin with: the plan's, grown into as much of the scan as fits."""
    spacing = coarser_spacing(configuration.spacing_mm, factor) if factor > 1 else configuration.spacing_mm
    shrunk = [old / new for old, new in zip(configuration.spacing_mm, spacing, strict=True)]
    median = tuple(max(1.0, round(size * part)) for size, part in zip(configuration.median_shape, shrunk, strict=True))
    view = View(tuple(spacing), median)
    return view, configuration.patch_size if factor == 1 else median


def patch_within(view: View, start: Sequence[float], most_voxels: float, fewest: int | None = None) -> tuple[int, ...]:
    """The patch of at most so many voxels: the axis that shows the largest share of the scan is shortened first."""
    patch = tuple(float(size) for size in start)
    floor = FEWEST_PATCH_VOXELS[len(patch)] if fewest is None else fewest
    while True:
        strides, _ = topology(view.spacing_mm, patch)
        divisor = [prod(stride[axis] for stride in strides) for axis in range(len(patch))]
        whole = tuple(ceil(size / step) * step for size, step in zip(patch, divisor, strict=True))
        shares = [size / all_ for size, all_ in zip(whole, view.median_shape, strict=True)]
        longest = max(range(len(patch)), key=lambda axis: (shares[axis] * (whole[axis] > divisor[axis]), axis))
        shorter = [float(size) for size in whole]
        shorter[longest] -= divisor[longest]
        if prod(whole) <= max(most_voxels, floor) or shares[longest] == 0 or shorter[longest] < divisor[longest]:
            return whole
        patch = tuple(shorter)


def resized(configuration: Configuration, view: View, patch: tuple[int, ...], width: float) -> Configuration:
    own = configuration.network
    strides, kernels = topology(view.spacing_mm, patch)
    if (strides, kernels) == (own.strides, own.kernel_sizes) or patch == configuration.patch_size:
        shape = own
    else:
        shape = network(own.family, strides, kernels)
        wider = own.features[0] / BASE_FEATURES
        shape = replace(shape, features=tuple(round(features * wider) for features in shape.features))
    features = tuple(max(min(part, FEWEST_FEATURES), round(part * width / 8) * 8) for part in shape.features)
    return replace(
        configuration,
        spacing_mm=view.spacing_mm,
        median_shape=view.median_shape,
        patch_size=patch,
        network=replace(shape, features=shape.features if width == 1 else features),
    )


def _share(patch: Sequence[float], median: Sequence[float]) -> float:
    return prod(min(1.0, size / all_) for size, all_ in zip(patch, median, strict=True))


def _price(
    plan: Plan, candidate: _Candidate, speed: Speed, dataset: DatasetSize, budget_s: float, memory_bytes: float
) -> Sizing:
    """What a budget buys with a candidate, and a batch that fits the memory where the smallest one does."""
    configuration, rate = candidate.configuration, candidate.rate
    patch = configuration.patch_size
    starts = [
        tile_starts(int(max(size, part)), part, 0.5)
        for size, part in zip(configuration.median_shape, patch, strict=True)
    ]
    slices = plan.median_shape[0] if configuration.dimensions == 2 else 1
    windows = prod(map(len, starts)) * slices
    case_s = MEASURED_CASE * speed.case_s + rate.prediction_s * windows * prod(patch) / 1e6
    preparation = speed.case_s * (dataset.training + min(dataset.held_out, LEARNING_CURVE_CASES))
    held_out = min(dataset.held_out * case_s, HELD_OUT_SHARE * budget_s)
    training = max(budget_s - STARTING_S - preparation - held_out, LEAST_TRAINING * budget_s)
    fitting = training / STEPS_WANTED / rate.step_seconds(prod(patch))
    single = training_memory(replace(configuration, batch_size=1), plan.labels.entry_count, speed.precision)
    room = (memory_bytes - LIBRARY_BYTES) / (single - LIBRARY_BYTES + 1)
    batch = max(SMALLEST_BATCH, int(min(configuration.batch_size, fitting, room)))
    step_s = rate.step_seconds(batch * prod(patch))
    steps = max(1, int(training / step_s))
    configuration = replace(configuration, batch_size=batch)
    return Sizing(
        configuration=configuration,
        width=rate.width,
        factor=candidate.factor,
        steps=steps,
        step_s=step_s,
        budget_s=budget_s,
        preparation_s=preparation,
        training_s=training,
        held_out_s=held_out,
        measures_all=dataset.held_out * case_s <= held_out,
        expected=expected_dice(rate.width, _grid_dice(dataset, candidate.factor), candidate.share, steps, batch),
        memory_bytes=training_memory(configuration, plan.labels.entry_count, speed.precision),
        because="",
    )


def training_memory(configuration: Configuration, label_entries: int, precision: str) -> int:
    """Bytes that a training takes on a CPU beside its prepared cases, about."""
    elements = feature_map_elements(configuration.network, configuration.patch_size, label_entries)
    return int(LIBRARY_BYTES + BYTES_PER_ELEMENT[precision] * configuration.batch_size * elements)


def _grid_dice(dataset: DatasetSize, factor: float) -> float:
    return 1.0 if factor == 1 else dataset.coarse_dice[FACTORS.index(factor)]


def _preference(sizing: Sizing) -> tuple[float, float, float]:
    return max(sizing.expected.middle, LEAST_DICE), -sizing.factor, -sizing.step_s


def _memory(sizing: Sizing) -> int:
    return sizing.memory_bytes


# The rule of expected Dice, fitted on runs with hippocampus, OpenKBP, retina and STS (docs/lab-notes.md):
# 1 - Dice / grid = ERROR * (1 + WIDTH_LOSS * (1 / width - 1) + (doubled / steps) ** STEPS_POWER), where doubled is the
# number of steps after which the error is twice its least. Up to ENOUGH_WIDTH (16 features at full resolution) it
# falls with the width, beyond it does not; it grows where a patch shows little of a scan.
ERROR, ERROR_RANGE = 0.15, (0.06, 0.30)
WIDTH_LOSS = 0.03
STEPS, STEPS_POWER = 37.0, 1.1
ENOUGH_WIDTH, WIDTH_POWER = 0.5, 0.9
SHARE_POWER, BATCH_POWER = 0.27, 0.5


def error_growth(width: float, share: float, steps: int, batch: int) -> float:
    """How many times the least error is made after so many steps; arguments as of :func:`expected_dice`."""
    narrow = max(1.0, ENOUGH_WIDTH / width) ** WIDTH_POWER
    doubled = STEPS * narrow * share**-SHARE_POWER * (SMALLEST_BATCH / batch) ** BATCH_POWER
    return 1 + WIDTH_LOSS * (1 / width - 1) + (doubled / steps) ** STEPS_POWER


def expected_dice(width: float, grid_dice: float, share: float, steps: int, batch: int) -> Expected:
    """Dice to expect after so many steps; how hard a dataset is, is not known before, so the range is wide.

    Args:
        width: features as a part of the plan's.
        grid_dice: the best Dice that the grid allows.
        share: of the median scan that a patch shows.
        steps, batch: optimiser steps, and samples in each.
    """
    growth = error_growth(width, share, steps, batch)
    low, middle, high = (
        grid_dice * (1 - min(1.0, error * growth)) for error in (ERROR_RANGE[1], ERROR, ERROR_RANGE[0])
    )
    return Expected(low, middle, high)


# A dataset's own budget: the least after which twice the time is expected to bring less than this.
LITTLE_DICE = 0.005
_SUGGESTED_MINUTES = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440)


def suggest_budget(
    plan: Plan,
    configuration: Configuration,
    speed: Speed,
    dataset: DatasetSize,
    *,
    memory_bytes: float = inf,
    freedom: Freedom = "all",
) -> float:
    """Seconds after which more time is expected to bring little; arguments as for :func:`choose_sizes`."""

    def dice(budget_s: float) -> float:
        sizing = choose_sizes(plan, configuration, speed, dataset, budget_s, memory_bytes=memory_bytes, freedom=freedom)
        return sizing.expected.middle

    for minutes in _SUGGESTED_MINUTES:
        now = dice(60.0 * minutes)
        if now > 0 and dice(120.0 * minutes) - now < LITTLE_DICE:  # where nothing is learned yet, time may still help
            return 60.0 * minutes
    return 60.0 * _SUGGESTED_MINUTES[-1]


def _explained(best: Sizing, own: Sizing, speed: Speed, budget_s: float) -> Sizing:
    """The choice with its reason, which is also that of every value that was changed."""
    where = f"on {speed.machine} in {speed.precision}"
    kept = best is own
    bought = (
        f"{duration(budget_s)} {where} hold {count(best.steps, 'step')} of {best.configuration.batch_size} samples,"
        f" {best.step_s:.2g} s each"
    )
    if kept:
        because = f"{bought}, with the plan's own network; no smaller one is expected to do better"
    else:
        because = (
            f"{bought}; the plan's own network would take {own.step_s:.2g} s a step and see {count(own.steps, 'step')}:"
            f" expected Dice {best.expected.middle:.2f} against {own.expected.middle:.2f}"
        )
    before = {decision.field: decision for decision in best.configuration.decisions}
    values = configuration_values(best.configuration)
    planned = configuration_values(own.configuration)
    changed = [field for field in values if field != "batch_size" and values[field] != planned.get(field)]
    decisions = {**before, **{field: Decision(field, values[field], because) for field in changed}}
    decisions["batch_size"] = Decision("batch_size", values["batch_size"], because)
    configuration = replace(best.configuration, decisions=tuple(decisions.values()))
    return replace(best, configuration=configuration, because=because)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``2 h 30 min``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60)
    hours, left = divmod(whole, 60)
    return f"{whole} min" if hours == 0 else f"{hours} h" + (f" {left} min" if left else "")
