"""What only shows when cases are seen together: orientations, voxel sizes, how often and how large classes are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.dataset import Finding
from medseg.integrity.records import CaseRecord
from medseg.labels import LabelSet
from medseg.orientation import CANONICAL
from medseg.splits import Split

SPACING_FACTOR = 8.0
"""Voxel sizes further than this from the median: another unit or a lost header rather than another scanner."""
ENOUGH_MASKS = 10
"""Fewer tell nothing of how often a class occurs, or how large it is."""
RARE = 0.1
"""A class in a smaller part of the masks is rare."""
VOLUME_FACTOR, VOLUME_QUARTILES = 30.0, 5.0
"""A class further than this factor, and so many times the distance of quartiles, from its median volume."""
_LISTED = 5


@dataclass(frozen=True)
class ClassBalance:
    """One class over all masks.

    Attributes:
        volumes_ml: by case, of the masks that show the class.
        masks: how many masks there are.
    """

    name: str
    volumes_ml: dict[str, float]
    masks: int

    @property
    def total_ml(self) -> float:
        """Over all masks."""
        return sum(self.volumes_ml.values())


def compare_grids_of(records: Sequence[CaseRecord]) -> Iterator[Finding]:
    """Orientations that differ, and voxels of another unit."""
    orientations = Counter(record.geometry.orientation for record in records)
    if len(orientations) > 1:
        listed = ", ".join(f"{count} {orientation}" for orientation, count in orientations.most_common())
        yield Finding("note", f"orientations differ: {listed}; all are brought to {CANONICAL}")
    if len(records) < 3:
        return
    median = np.median(np.array([record.spacing_mm for record in records]), axis=0)
    for record in records:
        if np.abs(np.log(np.array(record.spacing_mm) / median)).max() > np.log(SPACING_FACTOR):
            found, usual = (" x ".join(f"{size:.3g}" for size in sizes) for sizes in (record.spacing_mm, median))
            problem = f"voxels of {found} mm, where the median is {usual} mm"
            yield Finding("warning", problem, record.name, remedy="check the unit and the header")


def class_balance(records: Sequence[CaseRecord], labels: LabelSet) -> tuple[ClassBalance, ...]:
    """How often and how large each class is, in declared order."""
    masks = [record for record in records if record.voxels is not None]
    found = []
    for name, values in labels.classes.items():
        volumes = {}
        for record in masks:
            voxels = sum((record.voxels or {}).get(value, 0) for value in values)
            if voxels:
                volumes[record.name] = voxels * record.geometry.voxel_volume_ml
        found.append(ClassBalance(name, volumes, len(masks)))
    return tuple(found)


def balance_problems(classes: Sequence[ClassBalance], labels: LabelSet, folds: Sequence[Split]) -> Iterator[Finding]:
    """Classes that nobody drew, that few masks show, or that are of another size in some case."""
    if classes and classes[0].masks and not any(one.volumes_ml for one in classes):
        problem = f"none of {classes[0].masks} masks holds any of the classes, so there is nothing to learn"
        yield Finding("error", problem, remedy="check the masks and the declared labels")
        return
    for one in classes:
        values = ", ".join(map(str, labels.classes[one.name]))
        seen = len(one.volumes_ml)
        if not seen and one.masks:
            problem = f"{one.name} ({values}) occurs in none of {one.masks} masks"
            yield Finding("warning", problem, remedy="remove it from the labels, or check the values")
        elif one.masks >= ENOUGH_MASKS and seen < max(len(folds), RARE * one.masks):
            empty = [str(number) for number, fold in enumerate(folds) if not set(fold.validation) & set(one.volumes_ml)]
            without = f"; fold{'s' if len(empty) > 1 else ''} {', '.join(empty)} cannot validate it" if empty else ""
            problem = f"{one.name} ({values}) occurs in {seen} of {one.masks} masks{without}"
            remedy = "add cases that show it, or show it more often: medseg train --balance-classes"
            listed = tuple(one.volumes_ml)
            yield Finding("warning", problem, listed[0], remedy=remedy, others=listed[1:_LISTED])
        elif seen >= ENOUGH_MASKS:
            yield from _other_sizes(one)


def _other_sizes(one: ClassBalance) -> Iterator[Finding]:
    logs = np.log(np.array(list(one.volumes_ml.values())))
    low, middle, high = np.percentile(logs, (25, 50, 75))
    reach = max(np.log(VOLUME_FACTOR), VOLUME_QUARTILES * (high - low))
    for (case, volume), log in zip(one.volumes_ml.items(), logs, strict=True):
        if abs(log - middle) > reach:
            problem = f"{one.name} covers {volume:.3g} ml, where the median is {np.exp(middle):.3g} ml"
            yield Finding("warning", problem, case, remedy="look at the mask: values exchanged, or not finished?")
