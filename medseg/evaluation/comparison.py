"""Predictions compared with references: a table with a row a case and label.

A case that cannot be compared does not stop the others: its rows hold NaN and the reason in the column ``error``.
Definitions of the metrics, and what empty masks give, are those of :mod:`medseg.metrics`.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np

from medseg import documents, io
from medseg.errors import DocumentError, GeometryError, LabelError, UsageError
from medseg.evaluation.grids import onto_grid
from medseg.evaluation.pairing import Pair, Pairing, pair_masks
from medseg.labels import BACKGROUND_NAME, IGNORE_NAME, LabelSet
from medseg.metrics import COLUMNS as CASE_COLUMNS
from medseg.metrics import compare, parse_metrics
from medseg.metrics.masks import label_boxes
from medseg.parallel import map_cases
from medseg.progress import Progress, silent
from medseg.volume import EQUAL_WITHIN_VOXELS

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("tp", "fp", "fn", "tn")
"""The columns of the table that count voxels."""
METRICS = tuple(column for column in CASE_COLUMNS if column not in ("label", *COUNTS))
"""The columns of the table that a summary averages."""
COLUMNS = ("case", "label", "value", *METRICS, *COUNTS, "error")
"""The columns of the table."""
# More distinct values than any atlas has; beyond it, somebody passed images for masks.
MOST_LABELS = 2000
# Most datasets are measured before worker processes would have started.
_HERE_FIRST_SECONDS = 1.5
# So many undeclared values in one mask are named one by one.
_MOST_VALUES = 20

R = TypeVar("R")

Labels = LabelSet | Mapping[str, Any] | str | os.PathLike[str] | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a comparison of predictions with references found.

    Attributes:
        table: a row a case and label, sorted by case, with the columns ``COLUMNS``. ``label`` is the name, or the value
            where no names are known; ``value`` the file value, or text such as ``"(1, 2)"`` for a region; ``error`` is
            empty unless the case failed. Counts are pandas' ``Int64``, missing where the case failed.
        pairs: the files of every case that has both.
        failures: why a case could not be compared.
        warnings: what was left aside: predictions without reference, values that are not among the labels.
        labels: name (or value) of each label to the file values it covers.
        ignore: the reference value whose voxels do not count, if there is one.
        tolerance_mm: of the surface Dice.
        metrics: further columns of the table, before ``error``.
        resampled: cases whose prediction lay on another grid and was brought onto the reference's.
    """

    table: pd.DataFrame
    pairs: dict[str, Pair]
    failures: dict[str, str]
    warnings: tuple[str, ...]
    labels: Mapping[str | int, tuple[int, ...]]
    ignore: int | None
    tolerance_mm: float
    metrics: tuple[str, ...] = ()
    resampled: tuple[str, ...] = ()

    @property
    def done(self) -> pd.DataFrame:
        """The rows of the cases that did not fail."""
        return self.table.loc[self.table["error"] == ""]

    @property
    def cases(self) -> list[str]:
        """Every case, failed ones included, sorted."""
        return sorted({*self.pairs, *self.failures})


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
    declared = _declared_labels(_dataset_json(Path(references)) if labels is None else labels)
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
    """Compare masks that are paired already; without labels, every value above 0 that a reference holds.

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
                held = _over(partial(_held_values, side), pairing.pairs, failures, f"labels of each {side}", workers)
                found = {value for values in held.values() for value in values}
        task = _Task(
            {value: (value,) for value in sorted(found)}, 0, None, tolerance_mm, extras, resample_to is not None
        )
    else:
        task = _Task(
            {**labels.classes}, labels.background, labels.ignore, tolerance_mm, extras, resample_to is not None
        )
    compared = _over(partial(_compare, task), pairing.pairs, failures, "comparing masks", workers, progress)
    return Evaluation(
        table=_table(task.labels, extras, compared, failures),
        pairs=dict(sorted(pairing.pairs.items())),
        failures=dict(sorted(failures.items())),
        warnings=(*pairing.warnings, *_moved(compared), *_undeclared(compared)),
        labels=task.labels,
        ignore=task.ignore,
        tolerance_mm=tolerance_mm,
        metrics=extras,
        resampled=tuple(sorted(case for case, result in compared.items() if result.resampled)),
    )


@dataclass(frozen=True)
class _Task:
    """What every case is asked."""

    labels: Mapping[str | int, tuple[int, ...]]
    background: int
    ignore: int | None
    tolerance_mm: float
    metrics: tuple[str, ...]
    resample: bool


@dataclass(frozen=True, eq=False)
class _Compared:
    """One case: its rows, the values that are no labels, by side, and whether the prediction had another grid."""

    rows: list[dict[str, Any]]
    undeclared: dict[str, list[int]]
    resampled: bool


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


def _compare(task: _Task, case: tuple[str, Pair]) -> _Compared:
    _, pair = case
    prediction, reference = pair.read(task.labels)
    resampled = task.resample and prediction.geometry.distance_voxels(reference.geometry) > EQUAL_WITHIN_VOXELS
    if resampled:
        prediction = onto_grid(prediction, reference.geometry, outside=task.background)
    try:
        prediction.geometry.require_equal(
            reference.geometry, f"prediction {pair.prediction}", f"reference {pair.reference}"
        )
    except GeometryError as error:
        raise GeometryError(
            f"{error}; bring it there with --resample-to reference if the two belong together"
        ) from error
    arrays = {"prediction": prediction.array, "reference": reference.array}
    known = {0, task.background, task.ignore, *(value for values in task.labels.values() for value in values)}
    undeclared = {side: sorted(set(label_boxes(array)) - known) for side, array in arrays.items()}
    ignored = 0
    if task.ignore is not None:
        aside = reference.array == task.ignore
        ignored = int(np.count_nonzero(aside))
        arrays = {side: np.where(aside, task.background, array) for side, array in arrays.items()}
    # One slice is an image: its contours lie in the plane, not on a slab's two faces.
    flat = reference.geometry.shape[0] == 1
    rows = compare(
        arrays["prediction"][0] if flat else arrays["prediction"],
        arrays["reference"][0] if flat else arrays["reference"],
        reference.geometry.spacing_mm[1:] if flat else reference.geometry.spacing_mm,
        labels={str(label): values for label, values in task.labels.items()},
        tolerance_mm=task.tolerance_mm,
        metrics=task.metrics,
    )
    rows["tn"] -= ignored
    return _Compared(rows.to_dict("records"), undeclared, resampled)


def _held_values(side: str, case: tuple[str, Pair]) -> list[int]:
    path = case[1].reference if side == "reference" else case[1].prediction
    if io.holds_dicom(path):
        raise LabelError(f"{path}: segments are told apart by their names; name the labels with --labels")
    values = [value for value in label_boxes(io.read_labels(path).array) if value > 0]
    if len(values) > MOST_LABELS:
        raise LabelError(
            f"{path} holds {len(values)} different values, expected at most {MOST_LABELS} labels; "
            "give masks, not images, or name the labels"
        )
    return values


def _table(
    labels: Mapping[str | int, tuple[int, ...]],
    extras: Sequence[str],
    compared: Mapping[str, _Compared],
    failures: Mapping[str, str],
) -> pd.DataFrame:
    """Every case with every label; where there is no label at all, every case has one row with an empty label."""
    import pandas as pd

    heads: list[dict[str, Any]] = [
        {"label": label, "value": values[0] if len(values) == 1 else str(values)} for label, values in labels.items()
    ] or [{"label": "", "value": ""}]
    rows = []
    for case in sorted({*compared, *failures}):
        figures = compared[case].rows if case in compared and labels else [{}] * len(heads)
        rows += [
            {**figure, "case": case, **head, "error": failures.get(case, "")}
            for figure, head in zip(figures, heads, strict=True)
        ]
    # Failed cases have no counts, and integers no NaN: pandas' own integers can do without.
    return pd.DataFrame(rows, columns=[*COLUMNS[:-1], *extras, COLUMNS[-1]]).astype(dict.fromkeys(COUNTS, "Int64"))


def _moved(compared: Mapping[str, _Compared]) -> list[str]:
    cases = sorted(case for case, result in compared.items() if result.resampled)
    if not cases:
        return []
    listed = f"{', '.join(cases[:3])}{' ...' if len(cases) > 3 else ''}"
    return [f"prediction on another grid, brought onto the reference's: {len(cases)} case(s): {listed}"]


def _undeclared(compared: Mapping[str, _Compared]) -> list[str]:
    cases: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for case, result in sorted(compared.items()):
        for side, values in result.undeclared.items():
            for part in [values] if len(values) > _MOST_VALUES else [[value] for value in values]:
                cases[side, tuple(part)].append(case)
    return [
        f"{_listed_values(values)} not among the labels and {'was' if len(values) == 1 else 'were'} not compared:"
        f" {side} of {len(names)} case(s): {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for (side, values), names in sorted(cases.items())
    ]


def _listed_values(values: Sequence[int]) -> str:
    if len(values) == 1:
        return f"value {values[0]} is"
    return f"{len(values)} values from {min(values)} to {max(values)} (is this an image?) are"


def _dataset_json(references: Path) -> Path | None:
    """The ``dataset.json`` in or beside the references."""
    folder = references if references.is_dir() else references.parent
    return next((path for path in (folder / "dataset.json", folder.parent / "dataset.json") if path.is_file()), None)


def _declared_labels(labels: Labels) -> LabelSet | None:
    if labels is None or isinstance(labels, LabelSet):
        return labels
    if isinstance(labels, Mapping):
        entries = labels
    else:
        document = documents.read_json(labels)
        entries = document.get("labels") if isinstance(document, dict) else None
        if not isinstance(entries, dict):
            raise DocumentError(f"{labels}: expected an object with 'labels', names and their values; add them")
    foreground = [value for name, value in entries.items() if name.lower() not in (BACKGROUND_NAME, IGNORE_NAME)]
    # In which order regions would be written to a mask plays no part in comparing them, so any order will do.
    return LabelSet.parse(entries, [value[0] if isinstance(value, list | tuple) else value for value in foreground])
