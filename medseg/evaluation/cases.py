"""One prediction compared with its reference: a row a label, and what else there is to say of the two masks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.errors import GeometryError
from medseg.evaluation.grids import onto_grid
from medseg.evaluation.pairing import Pair
from medseg.metrics import compare
from medseg.metrics.masks import label_boxes
from medseg.volume import EQUAL_WITHIN_VOXELS

# So many undeclared values in one mask are named one by one.
_MOST_VALUES = 20


@dataclass(frozen=True)
class Task:
    """What every case is asked.

    Attributes:
        labels: name (or value) of each label to the file values it covers.
        background: what voxels hold that do not count, and those beyond a mask that is resampled.
        ignore: the reference value whose voxels do not count, if there is one.
        tolerance_mm: of the surface Dice.
        metrics: further ones than every table has.
        resample: whether predictions on other grids are brought onto the reference's.
    """

    labels: Mapping[str | int, tuple[int, ...]]
    background: int
    ignore: int | None
    tolerance_mm: float
    metrics: tuple[str, ...]
    resample: bool


@dataclass(frozen=True, eq=False)
class Compared:
    """One case: its rows, the values that are no labels, by side, and whether the prediction had another grid."""

    rows: list[dict[str, Any]]
    undeclared: dict[str, list[int]]
    resampled: bool


def compare_case(task: Task, case: tuple[str, Pair]) -> Compared:
    """Compare the two masks of a case, given with its name.

    Raises:
        GeometryError: they lie on different grids, and are not to be resampled.
        DataError: one of them cannot be read, as :meth:`medseg.evaluation.Pair.read` says.
    """
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
    return Compared(rows.to_dict("records"), undeclared, resampled)


def moved(compared: Mapping[str, Compared]) -> list[str]:
    """Warns of predictions that were brought onto their reference's grid."""
    cases = sorted(case for case, result in compared.items() if result.resampled)
    if not cases:
        return []
    listed = f"{', '.join(cases[:3])}{' ...' if len(cases) > 3 else ''}"
    return [f"prediction on another grid, brought onto the reference's: {len(cases)} case(s): {listed}"]


def undeclared(compared: Mapping[str, Compared]) -> list[str]:
    """Warns of values in masks that are not among the labels; of an image in place of a mask in one line."""
    cases: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for case, result in sorted(compared.items()):
        for side, values in result.undeclared.items():
            for part in [values] if len(values) > _MOST_VALUES else [[value] for value in values]:
                cases[side, tuple(part)].append(case)
    return [
        f"{_listed(values)} not among the labels and {'was' if len(values) == 1 else 'were'} not compared: {side} of"
        f" {len(names)} case(s): {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for (side, values), names in sorted(cases.items())
    ]


def _listed(values: Sequence[int]) -> str:
    if len(values) == 1:
        return f"value {values[0]} is"
    return f"{len(values)} values from {min(values)} to {max(values)} (is this an image?) are"
