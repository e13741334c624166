"""In how many of the cases that have a label it was found, and labels that were found in none."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.evaluation.results import Evaluation

_MOST_NAMED = 8


@dataclass(frozen=True)
class LabelFound:
    """A label over the cases that did not fail.

    Attributes:
        label: its name, or its value where no names are known.
        present: cases whose reference has it.
        found: of these, how many in which prediction and reference share a voxel.
        dice: mean over the cases in which Dice is defined; NaN if there is none.
        full_dice: mean over the present cases of what a mask of every voxel would have; NaN if there is none.
    """

    label: str
    present: int
    found: int
    dice: float
    full_dice: float

    @property
    def never_found(self) -> bool:
        """Whether cases have it and it was found in none; what no case has is not measured, and not this."""
        return self.present > 0 and self.found == 0


def labels_found(evaluation: Evaluation) -> tuple[LabelFound, ...]:
    """Each label of an evaluation, in its order; a label that no row is about has no cases."""
    by_label = defaultdict(list)
    for row in evaluation.done.to_dict("records") if evaluation.labels else []:
        by_label[row["label"]].append(row)
    found = []
    for label in evaluation.labels:
        present = [row for row in by_label[label] if row["tp"] + row["fn"] > 0]
        found.append(
            LabelFound(
                str(label),
                present=len(present),
                found=sum(bool(row["tp"] > 0) for row in present),
                dice=_mean([row["dice"] for row in by_label[label] if not math.isnan(row["dice"])]),
                full_dice=_mean([_full_dice(row) for row in present]),
            )
        )
    return tuple(found)


def _full_dice(row: dict[Hashable, Any]) -> float:
    reference = row["tp"] + row["fn"]
    return 2 * reference / (2 * reference + row["fp"] + row["tn"])


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values)) if values else math.nan


def never_found_text(found: Sequence[LabelFound]) -> str:
    """Labels that were never found with the number of cases that have them; empty if there is none."""
    missing = [label for label in found if label.never_found]
    named = [f"{label.label} (in {cases_text(label.present)})" for label in missing[:_MOST_NAMED]]
    more = [f"and {len(missing) - _MOST_NAMED} more"] if len(missing) > _MOST_NAMED else []
    return ", ".join([*named, *more])


def cases_text(count: int) -> str:
    """``1 case``, ``4 cases``."""
    return f"{count} case{'' if count == 1 else 's'}"
