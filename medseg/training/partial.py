"""Datasets whose cases are not annotated for every class: which classes a loss and a comparison must leave out.

In such a case a voxel labelled background may belong to any class that nobody looked for there. Teaching it as
background would teach the network to miss that class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medseg.dataset import CaseRef
from medseg.evaluation import Evaluation
from medseg.labels import LabelSet
from medseg.laterality import Mirroring


@dataclass(frozen=True, eq=False)
class Unannotated:
    """The classes that each of a list of cases is not annotated for.

    Attributes:
        table: (cases, classes) bool, classes in declared order.
        counterparts: for each class the one that it becomes when the patient is mirrored.
    """

    table: torch.Tensor
    counterparts: tuple[int, ...]
    swap_axis: int | None

    def of(self, cases: Sequence[int], mirror: torch.Tensor) -> torch.Tensor:
        """(B, classes) bool of a batch's cases; where left and right changed places, so did what is annotated.

        Args:
            mirror: (B, D) the axes along which each sample was mirrored.
        """
        chosen = self.table[list(cases)]
        if self.swap_axis is None:
            return chosen
        return torch.where(mirror[:, self.swap_axis, None], chosen[:, list(self.counterparts)], chosen)


def unannotated_classes(labels: LabelSet, cases: Sequence[CaseRef], mirroring: Mirroring) -> Unannotated | None:
    """What cases are not annotated for; None where all are for everything."""
    if all(case.annotated is None for case in cases):
        return None
    names = labels.names
    table = [[case.annotated is not None and name not in case.annotated for name in names] for case in cases]
    other = dict(mirroring.pairs) | {right: left for left, right in mirroring.pairs}
    counterparts = tuple(names.index(other.get(name, name)) for name in names)
    return Unannotated(torch.tensor(table), counterparts, mirroring.swap_axis)


def annotated_rows(evaluation: Evaluation, cases: Sequence[CaseRef]) -> Evaluation:
    """The comparison without the rows of classes that the reference of a case does not show."""
    known = {case.name: case.annotated for case in cases if case.annotated is not None}
    if not known:
        return evaluation
    table = evaluation.table
    kept = [
        case not in known or label in known[case] for case, label in zip(table["case"], table["label"], strict=True)
    ]
    return dataclasses.replace(evaluation, table=table.loc[kept].reset_index(drop=True))
