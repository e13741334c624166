"""Predictions compared with references: a table with a row a case and label.

A case that cannot be compared does not stop the others: its rows hold NaN and the reason in the column ``error``.
Definitions of the metrics, and what empty masks give, are those of :mod:`medseg.metrics`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from medseg.errors import UsageError
from medseg.evaluation.cases import Task, compare_case, moved, undeclared
from medseg.evaluation.labels import Labels, dataset_json_near, declared_labels, held_values
from medseg.evaluation.pairing import Pair, Pairing, pair_masks
from medseg.evaluation.results import Evaluation, table_of
from medseg.labels import LabelSet
from medseg.metrics import parse_metrics
from medseg.parallel import map_cases
from medseg.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

# Most datasets are measured before worker processes would have started.
_HERE_FIRST_SECONDS = 1.5

R = TypeVar("R")


def evaluate(
    predictions: str | os.PathLike[str],
    references: str | os.PathLike[str],
    *,
    labels: Labels = None,
    tolerance_mm: float = 1.0,
    metrics: Sequence[str] = (),
    resample_to: Literal["reference"] | None = None,
    workers: int | str = 0,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The ``table`` of :func:`evaluate_folders`, which has the same arguments and errors."""
    return evaluate_folders(
        predictions,
        references,
        labels=labels,
        tolerance_mm=tolerance_mm,
        metrics=metrics,
        resample_to=resample_to,
        workers=workers,
        progress=progress,
    ).table


def evaluate_folders(
    predictions: str | os.PathLike[str],
    references: str | os.PathLike[str],
    *,
    labels: Labels = None,
    tolerance_mm: float = 1.0,
    metrics: Sequence[str] = (),
    resample_to: Literal["reference"] | None = None,
    workers: int | str = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Compare masks with references: two folders, paired by case name, or two files.

    Args:
        predictions: a folder, searched with all below it, or one file.
        references: the same; of a dataset folder, its ``labelsTr``. A reference without prediction is a failed case.
        labels: what to compare: name to value, or to several values that count as one region; or the path of a
            ``dataset.json``. By default the ``dataset.json`` in or beside the references, else every value above 0
            that a reference holds. Voxels whose reference holds the ``ignore`` label do not count.
        tolerance_mm: how far surfaces may lie apart and still agree, for the surface Dice.
        metrics: further columns, such as ``cldice`` or ``surface_dice_2mm``; see :func:`medseg.metrics.compare`.
        resample_to: with ``"reference"``, a prediction on another grid is brought onto the reference's (each voxel
            takes the value of the nearest, background beyond the prediction); by default its case fails.
        workers: as of :func:`medseg.parallel.map_cases`.
        progress: called after every case.

    Raises:
        UsageError: a path that does not exist, a file against a folder, no references, a bad tolerance, or an
            unknown metric.
        DocumentError: labels that cannot be read.
    """
    pairing = pair_masks(predictions, references)
    declared = declared_labels(dataset_json_near(Path(references)) if labels is None else labels)
    return evaluate_pairs(
        pairing,
        declared,
        tolerance_mm=tolerance_mm,
        metrics=metrics,
        resample_to=resample_to,
        workers=workers,
        progress=progress,
    )


def evaluate_pairs(
    pairing: Pairing,
    labels: LabelSet | None = None,
    *,
    tolerance_mm: float = 1.0,
    metrics: Sequence[str] = (),
    resample_to: Literal["reference"] | None = None,
    workers: int | str = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Compare masks that are paired already, otherwise as :func:`evaluate_folders` does.

    Args:
        labels: what to compare; by default every value above 0 that a reference holds, or where all of these are empty,
            that a prediction holds.

    Raises:
        UsageError: a bad tolerance, or an unknown metric.
    """
    extras = tuple(parse_metrics(metrics))
    if resample_to not in (None, "reference"):
        raise UsageError(f"--resample-to {resample_to}: expected reference, the grid on which masks are compared")
    if not (math.isfinite(tolerance_mm) and tolerance_mm > 0):
        raise UsageError(f"tolerance: expected a positive length in mm, found {tolerance_mm}")
    failures = dict(pairing.failures)
    if labels is None:
        found: set[int] = set()
        for side in ("reference", "prediction"):
            if not found:
                held = _over(partial(held_values, side), pairing.pairs, failures, f"labels of each {side}", workers)
                found = {value for values in held.values() for value in values}
        task = Task(
            {value: (value,) for value in sorted(found)}, 0, None, tolerance_mm, extras, resample_to is not None
        )
    else:
        task = Task({**labels.classes}, labels.background, labels.ignore, tolerance_mm, extras, resample_to is not None)
    compared = _over(partial(compare_case, task), pairing.pairs, failures, "comparing masks", workers, progress)
    return Evaluation(
        table=table_of(task.labels, extras, compared, failures),
        pairs=dict(sorted(pairing.pairs.items())),
        failures=dict(sorted(failures.items())),
        warnings=(*pairing.warnings, *moved(compared), *undeclared(compared)),
        labels=task.labels,
        ignore=task.ignore,
        tolerance_mm=tolerance_mm,
        metrics=extras,
        resampled=tuple(sorted(case for case, result in compared.items() if result.resampled)),
    )


def _over(
    function: Callable[[tuple[str, Pair]], R],
    pairs: Mapping[str, Pair],
    failures: dict[str, str],
    what: str,
    workers: int | str,
    progress: Progress = silent,
) -> dict[str, R]:
    """The function's values by case; cases that fail, or have failed before, are in ``failures``."""
    cases = [(case, pair) for case, pair in pairs.items() if case not in failures]
    outcomes = map_cases(
        function,
        cases,
        name=lambda case: case[0],
        what=what,
        workers=workers,
        progress=progress,
        here_first_s=_HERE_FIRST_SECONDS,
    )
    failures.update({outcome.case: outcome.reason for outcome in outcomes if outcome.error is not None})
    return {outcome.case: cast(R, outcome.value) for outcome in outcomes if outcome.error is None}
