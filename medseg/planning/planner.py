"""From a fingerprint to a plan: the rules in their order, every value with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from medseg.fingerprinting import Fingerprint, IntensityStatistics
from medseg.labels import LabelSet
from medseg.planning import rules
from medseg.planning.facts import DatasetFacts, facts_of
from medseg.planning.lowres import lowres
from medseg.planning.plan import Configuration, Decision, Normalization, Plan
from medseg.planning.presets import Budget, budget_for, reference_batch
from medseg.planning.rules import Ruled, Triple
from medseg.planning.topology import Fit, View, fit_patch, why_network
from medseg.planning.wording import configuration_values, lengths, plan_values

STORED = "stored"


@dataclass(frozen=True)
class Outline:
    """What the rules say of a dataset: the part of a plan that does not depend on names and labels.

    ``because`` gives the reason for each field of the plan.
    """

    budget: Budget
    axis_order: tuple[int, int, int]
    median_spacing_mm: Triple
    median_shape: Triple
    configurations: tuple[Configuration, ...]
    because: dict[str, str]


@dataclass(frozen=True)
class _Shared:
    """What all configurations of a dataset have in common."""

    facts: DatasetFacts
    budget: Budget
    normalization: Ruled[tuple[Normalization, ...]]
    why_spacing: str
    why_shape: str


def plan_dataset(
    fingerprint: Fingerprint,
    preset: str = "default",
    memory_gb: float | None = None,
    orientation: str = "RAS",
) -> Plan:
    """Derive from a dataset's fingerprint how to train on it.

    Args:
        preset: ``default`` (plain U-Net), or ``resenc-m``, ``resenc-l``, ``resenc-xl`` (residual encoders).
        memory_gb: memory of the GPU to train on; by default what the preset is made for (8, 8, 24, 40).
        orientation: axis directions that the fingerprint was taken in, or ``"stored"``.

    Raises:
        UsageError: the preset is not known, or the memory holds no network.
        DocumentError: the fingerprint holds no cases, or numbers that no scan can have.
    """
    return assemble(
        outline_of(facts_of(fingerprint), budget_for(preset, memory_gb)),
        dataset_name=fingerprint.dataset_name,
        orientation=orientation,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        intensities=fingerprint.intensities,
    )


def assemble(
    outlined: Outline,
    *,
    dataset_name: str,
    orientation: str,
    channels: tuple[str, ...],
    labels: LabelSet,
    intensities: tuple[IntensityStatistics, ...],
) -> Plan:
    """The plan of an outline, with the dataset's names, labels and intensities."""
    plan = Plan(
        version=1,
        dataset_name=dataset_name,
        preset=outlined.budget.preset,
        memory_gb=outlined.budget.memory_gb,
        orientation=orientation,
        axis_order=outlined.axis_order,
        median_spacing_mm=outlined.median_spacing_mm,
        median_shape=outlined.median_shape,
        channels=channels,
        labels=labels,
        intensities=intensities,
        configurations=outlined.configurations,
    )
    because = {"orientation": _why_orientation(orientation), **outlined.because}
    if plan.laterality.is_sided:
        because["laterality"] = _why_laterality(plan)
    return replace(plan, decisions=_decisions(plan_values(plan), because))


def outline_of(facts: DatasetFacts, budget: Budget) -> Outline:
    """Apply every rule to a dataset.

    Raises:
        UsageError: the memory holds no network.
    """
    target = rules.target_spacing(facts)
    order = rules.axis_order(target.value, facts.slice_axis)
    median = rules.median_shape(facts, target.value)
    view = View(_ordered(target.value, order.value), _ordered(median.value, order.value))
    shared = _Shared(facts, budget, rules.normalization(facts), target.because, median.because)
    volumetric = rules.is_volumetric(view.median_shape)
    dataset_voxels = prod(view.median_shape) * facts.training_cases
    slices = View(view.spacing_mm[1:], view.median_shape[1:])
    configurations = [
        _configuration(
            "2d",
            slices,
            dataset_voxels,
            fit_patch(slices, facts.label_entries, budget),
            has_overview=False,
            why_spacing=f"{target.because}; slices keep their own distance",
            shared=shared,
        )
    ]
    why_configurations = volumetric.because
    if volumetric.value:
        volumes, why_lowres = _volumetric(view, dataset_voxels, shared)
        configurations += volumes
        why_configurations += f"; {why_lowres}"
    return Outline(
        budget=budget,
        axis_order=order.value,
        median_spacing_mm=_ordered(np.median(np.array(facts.spacings_mm), axis=0), order.value),
        median_shape=_ordered(np.median(np.array(facts.shapes), axis=0), order.value),
        configurations=tuple(configurations),
        because={
            "axis_order": order.because,
            "median_spacing_mm": "median of the scans as they are, axes in the order above",
            "median_shape": "median size of the scans as they are, after cropping the empty surroundings",
            "configurations": why_configurations,
        },
    )


def _volumetric(view: View, dataset_voxels: float, shared: _Shared) -> tuple[list[Configuration], str]:
    """``3d_fullres``, and where its patch shows too little of a scan ``3d_lowres`` and the cascade; and why."""
    facts = shared.facts
    full = fit_patch(view, facts.label_entries, shared.budget)
    low = lowres(view, full.value.patch_size, facts.label_entries, shared.budget)
    has_lowres = low.value is not None
    fullres = _configuration("3d_fullres", view, dataset_voxels, full, has_lowres, shared.why_spacing, shared)
    if low.value is None:
        return [fullres], low.because
    coarse = low.value
    coarse_voxels = coarse.voxels * facts.training_cases
    why_coarse = (
        f"from {lengths(view.spacing_mm, 'mm')} made coarser by 3% at a time, fine axes first, until a patch shows "
        f"{rules.ENOUGH_CONTEXT:.0%} of the median scan"
    )
    stage = Decision("previous_stage", "3d_lowres", "the coarse masks show the surroundings that a fine patch cannot")
    return [
        _configuration("3d_lowres", coarse.view, coarse_voxels, coarse.fit, False, why_coarse, shared),
        fullres,
        replace(
            fullres,
            name="3d_cascade_fullres",
            previous_stage="3d_lowres",
            decisions=(*fullres.decisions, stage),
        ),
    ], low.because


def _configuration(
    name: str,
    view: View,
    dataset_voxels: float,
    fit: Ruled[Fit],
    has_overview: bool,
    why_spacing: str,
    shared: _Shared,
) -> Configuration:
    dimensions = len(view.spacing_mm)
    share = min(1.0, prod(fit.value.patch_size) / prod(view.median_shape))
    dice = rules.batch_dice(dimensions, share, has_overview)
    batch = rules.batch_size(
        elements=fit.value.elements,
        allowed=shared.budget.elements(dimensions),
        reference=reference_batch(dimensions),
        patch_size=fit.value.patch_size,
        dataset_voxels=dataset_voxels,
        dataset_share=shared.budget.dataset_share,
    )
    configuration = Configuration(
        name=name,
        spacing_mm=view.spacing_mm,
        median_shape=view.median_shape,
        patch_size=fit.value.patch_size,
        batch_size=batch.value,
        batch_dice=dice.value,
        normalization=shared.normalization.value,
        network=fit.value.network,
    )
    because = {
        "spacing_mm": why_spacing,
        "median_shape": shared.why_shape,
        "patch_size": fit.because,
        "batch_size": batch.because,
        "batch_dice": dice.because,
        "normalization": shared.normalization.because,
        "network": why_network(fit.value.network),
    }
    return replace(configuration, decisions=_decisions(configuration_values(configuration), because))


def _decisions(values: Mapping[str, str], because: Mapping[str, str]) -> tuple[Decision, ...]:
    return tuple(Decision(field, values[field], reason) for field, reason in because.items())


def _why_laterality(plan: Plan) -> str:
    if plan.orientation == STORED:
        return "arrays keep the axes of their files, so which axis that is remains unknown, and none is mirrored"
    stated = "the dataset states these pairs" if plan.labels.mirror_pairs is not None else "names say so"
    if plan.laterality.alone:
        return (
            "mirrored, these would look like what lies on the other side, and nothing there has the name they would "
            "need; state the counterparts as mirror_pairs of the dataset if there are any"
        )
    return f"a mirrored left organ looks like a right one; {stated}"


def _why_orientation(orientation: str) -> str:
    if orientation == STORED:
        return "arrays keep the axes of their files"
    return "all scans are turned to the same orientation first, so that left is left whoever stored them"


def _ordered(values: Sequence[float] | np.ndarray, order: tuple[int, int, int]) -> Triple:
    first, second, third = (float(values[axis]) for axis in order)
    return first, second, third
