"""A plan for fine-tuning: the dataset is ours, the network and what it expects to see are another model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medseg.errors import UsageError
from medseg.planning.plan import Configuration, Decision, Plan
from medseg.planning.wording import configuration_values, plan_values

TAKEN = "taken from the model to fine-tune, whose weights expect it"


def matching_channels(own: Sequence[str], other: Sequence[str]) -> tuple[int | None, ...]:
    """For each of our channels the other's of the same name; where none has one and counts agree, in their order."""
    by_name = {name.lower(): index for index, name in enumerate(other)}
    found = tuple(by_name.get(name.lower()) for name in own)
    if all(index is None for index in found) and len(own) == len(other):
        return tuple(range(len(own)))
    return found


def plan_like(plan: Plan, source: Plan, name: str) -> Plan:
    """The plan of a dataset with the one configuration that fine-tunes a model of another dataset.

    Spacing, patch, batch, network and the order of axes are the model's; so are normalisation and intensities of the
    channels that both have. Orientation, channels, labels and everything else stay the dataset's.

    Args:
        source: the model's plan.
        name: the model's configuration.

    Raises:
        UsageError: the model is the second stage of a cascade.
    """
    theirs = source.configuration(name)
    if theirs.previous_stage is not None:
        raise UsageError(f"--pretrained: {name} is the second stage of a cascade; fine-tune {theirs.previous_stage}")
    channels = matching_channels(plan.channels, source.channels)
    ours = plan.configurations[-1].normalization
    order = [plan.axis_order.index(axis) for axis in source.axis_order]
    median_spacing = _three(plan.median_spacing_mm, order)
    median_shape = _three(plan.median_shape, order)
    spacing = (*median_spacing[: 3 - theirs.dimensions], *theirs.spacing_mm)
    voxels = tuple(
        float(max(1, round(size * old / new)))
        for size, old, new in zip(median_shape, median_spacing, spacing, strict=True)
    )
    configuration = replace(
        theirs,
        median_shape=voxels[3 - theirs.dimensions :],
        normalization=tuple(
            ours[i] if match is None else theirs.normalization[match] for i, match in enumerate(channels)
        ),
        decisions=(),
    )
    made = replace(
        plan,
        preset=source.preset,
        memory_gb=source.memory_gb,
        axis_order=source.axis_order,
        median_spacing_mm=median_spacing,
        median_shape=median_shape,
        intensities=tuple(
            plan.intensities[i] if match is None else source.intensities[match] for i, match in enumerate(channels)
        ),
        configurations=(_explained(configuration),),
    )
    values = plan_values(made)
    changed = {"preset": TAKEN, "memory_gb": TAKEN, "axis_order": TAKEN, "configurations": "the model's only one"}
    kept = [
        replace(decision, value=values[decision.field]) for decision in plan.decisions if decision.field not in changed
    ]
    return replace(made, decisions=(*kept, *(Decision(field, values[field], why) for field, why in changed.items())))


def _explained(configuration: Configuration) -> Configuration:
    values = configuration_values(configuration)
    why = dict.fromkeys(values, TAKEN) | {"median_shape": "the dataset's median scan at the model's spacing"}
    return replace(configuration, decisions=tuple(Decision(field, values[field], why[field]) for field in values))


def _three(values: Sequence[float], order: Sequence[int]) -> tuple[float, float, float]:
    first, second, third = (values[axis] for axis in order)
    return first, second, third
