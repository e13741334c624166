"""Figures of systems side by side: of each label over the cases that all have, undefined and infinite ones settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medseg.comparing.systems import System
from medseg.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

# Figures of which less is better; of a volume's error, the size.
_SIZES = ("volume_error_ml",)
_NOT_COMPARED = ("label", "volume_ml", "reference_volume_ml", "tp", "fp", "fn", "tn")
# What a run is worth that leaves a label out where the reference has none. Of precision and recall nothing is known.
_PERFECT = ("dice", "iou", "surface_dice", "boundary_iou", "cldice", "lesion_f1")


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; less is of distances and errors."""
    return not metric.endswith("_mm") and metric not in _SIZES


def require_metrics(systems: Sequence[System], metrics: Sequence[str]) -> None:
    """Raise unless every table has all metrics.

    Raises:
        UsageError: no metric is given, or a table lacks one; says what it has.
    """
    if not metrics:
        raise UsageError("compare: no metric; give for example dice")
    for system in systems:
        for run in system.runs:
            missing = [metric for metric in metrics if metric not in run.columns or metric in _NOT_COMPARED]
            if missing:
                known = [name for name in run.columns if name not in (*_NOT_COMPARED, "case", "value", "error")]
                raise UsageError(
                    f"compare: {system.name} has no metric {missing[0]} to compare; it has {', '.join(known)};"
                    " evaluate it anew with --metrics"
                )


def shared_cases(systems: Sequence[System]) -> tuple[list[str], list[str]]:
    """The cases that every run has, and a note for each system that has others.

    Raises:
        UsageError: there is none.
    """
    done = {
        system.name: set.intersection(*({*run.loc[run["error"] == "", "case"]} for run in system.runs))
        for system in systems
    }
    shared = sorted(set.intersection(*done.values()))
    everything = {case for system in systems for run in system.runs for case in run["case"]}
    if not shared:
        first = {name: sorted(cases)[:2] for name, cases in done.items()}
        raise UsageError(
            "compare: no case that all systems have; their cases are such as "
            + "; ".join(f"{name}: {', '.join(cases) or 'none'}" for name, cases in first.items())
        )
    notes = []
    for name, cases in done.items():
        missing = sorted(everything - cases)
        if missing:
            listed = f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
            notes.append(
                f"{name} lacks {len(missing)} of {len(everything)} cases, which are left out for all: {listed}"
            )
    return shared, notes


def figures_of(
    systems: Sequence[System], metric: str, labels: Sequence[str], cases: Sequence[str], notes: list[str]
) -> list[np.ndarray]:
    """A metric's figures, of each system (seeds, labels, cases), finite or NaN; a label that a table lacks is NaN.

    Args:
        notes: gets a line where infinite figures count as the largest finite one.
    """
    import pandas as pd

    index = pd.MultiIndex.from_product([labels, cases])
    shape = len(labels), len(cases)

    def column(run: pd.DataFrame, name: str) -> np.ndarray:
        wanted = run.set_index(["label", "case"])[name].reindex(index)
        return wanted.astype("Float64").to_numpy(float, na_value=np.nan).reshape(shape)

    found = [np.stack([column(run, metric) for run in system.runs]) for system in systems]
    if metric in _SIZES:
        found = [np.abs(values) for values in found]
    if metric.startswith(_PERFECT) or metric.endswith("_mm"):
        # Rightly left out by this run, and invented by another: the best there is.
        somewhere = np.any([~np.isnan(values).all(axis=0) for values in found], axis=0)
        for system, values in zip(systems, found, strict=True):
            for number, run in enumerate(system.runs):
                nothing = np.all([column(run, count) == 0 for count in ("tp", "fp", "fn") if count in run], axis=0)
                right = np.isnan(values[number]) & nothing & somewhere
                values[number][right] = 1.0 if higher_is_better(metric) else 0.0
    infinite = sum(int(np.isinf(values).sum()) for values in found)
    if infinite:
        together = np.concatenate(found).swapaxes(0, 1).reshape(len(labels), -1)
        largest = np.where(np.isfinite(together), together, 0).max(axis=1)
        found = [np.where(np.isinf(values), largest[None, :, None], values) for values in found]
        notes.append(
            f"{metric}: {infinite} infinite values (the label is in one mask only) count as the largest finite one of"
            " their label"
        )
    return found
