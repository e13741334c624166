"""Images that occur twice, and patients that folds would have on both sides."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components

from medseg.dataset import Finding
from medseg.integrity.files import command
from medseg.integrity.grouping import grouped_path
from medseg.integrity.records import CaseRecord
from medseg.splits import Split

ALIKE = 0.95
"""Correlation of sketches from which on images count as nearly the same; ``docs/doctor.md`` says what set it."""
_LISTED = 5
# All but the last part of a name where that is a number or a word with one: patient001_frame01, sub-02_ses-1.
_VISIT = re.compile(r"^(.*\d.*?)[_-](?:[A-Za-z]+-?\d*|\d{1,8})$")


def compare_images(
    records: Sequence[CaseRecord], folds: Sequence[Split], dataset: Path | None, *, named: bool = True
) -> Iterator[Finding]:
    """Images that are the same or nearly so, then cases whose names suggest one patient.

    Args:
        folds: as training would divide the cases; none for files that are no dataset.
        dataset: where the dataset lies, for the command that mends it.
        named: whether names are those of cases.
    """
    for same, names in [*_same(records), *_alike(records)]:
        groups = {record.group for record in records if record.name in names}
        problem = f"{same} under {len(names)} names: {_list(names)}"
        if len(groups) == 1 and None not in groups:
            yield Finding("note", f"{problem}; of one group, never divided", names[0], others=names[1:])
        else:
            problem += _divided(names, folds)
            yield Finding("warning", problem, names[0], remedy=_together(names, dataset), others=names[1:])
    if named:
        yield from _same_patient([record.name for record in records if record.group is None], folds, dataset)


def _same(records: Sequence[CaseRecord]) -> list[tuple[str, tuple[str, ...]]]:
    by_digest: dict[str, list[str]] = defaultdict(list)
    for record in records:
        by_digest[record.digest].append(record.name)
    return [("the same image", tuple(names)) for names in by_digest.values() if len(names) > 1]


def _alike(records: Sequence[CaseRecord]) -> list[tuple[str, tuple[str, ...]]]:
    """Sets of images that are linked by likeness; of images that are equal the first stands for all."""
    firsts = list({record.digest: record for record in reversed(records)}.values())[::-1]
    if len(firsts) < 2:
        return []
    sketches = np.stack([record.sketch for record in firsts])
    likeness = np.triu(sketches @ sketches.T, 1)
    linked = likeness >= ALIKE
    _, sets = connected_components(linked, directed=False)
    found = []
    for number in np.unique(sets[linked.any(axis=0) | linked.any(axis=1)]):
        members = np.flatnonzero(sets == number)
        inside = np.ix_(members, members)
        least = min(float(likeness[inside][linked[inside]].min()), 0.9999)
        found.append((f"nearly the same image (correlation {least:.4f})", tuple(firsts[i].name for i in members)))
    return found


def _same_patient(names: Sequence[str], folds: Sequence[Split], dataset: Path | None) -> Iterator[Finding]:
    """Names such as ``patient001_frame01`` and ``patient001_frame12``, without groups and divided by a fold."""
    patients: dict[str, list[str]] = defaultdict(list)
    for name in names:
        match = _VISIT.match(name)
        if match:
            patients[match[1]].append(name)
    several = {patient: members for patient, members in patients.items() if len(members) > 1}
    # A prefix that half of the cases have names the dataset, not a patient.
    if not several or len(patients) < 3 or max(map(len, several.values())) > max(2, len(names) / 4):
        return
    divided = {patient: members for patient, members in several.items() if _folds_between(members, folds)}
    if not divided:
        return
    patient, members = next(iter(divided.items()))
    problem = (
        f"names suggest that {sum(map(len, several.values()))} cases are of {len(several)} patients, such as {patient}:"
        f" {_list(members)}; folds divide {len(divided)} of them between training and validation"
    )
    remedy = _mending(dataset, f"pattern={_VISIT.pattern!r}", "one patient's cases")
    yield Finding("warning", problem, members[0], remedy=remedy, others=tuple(members[1:]))


def _folds_between(names: Sequence[str], folds: Sequence[Split]) -> list[int]:
    """The folds that train on some of these cases and validate on others."""
    return [
        number
        for number, fold in enumerate(folds)
        if any(
            (a in fold.train and b in fold.validation) or (b in fold.train and a in fold.validation)
            for a, b in combinations(names, 2)
        )
    ]


def _divided(names: Sequence[str], folds: Sequence[Split]) -> str:
    between = _folds_between(names, folds)
    if not between:
        return ""
    listed = ", ".join(map(str, between))
    return f"; fold{'s' if len(between) > 1 else ''} {listed} would train on one and validate on another"


def _together(names: Sequence[str], dataset: Path | None) -> str:
    return "keep one, or " + _mending(dataset, repr(list(names)), "them")


def _mending(dataset: Path | None, arguments: str, what: str) -> str:
    if dataset is None:
        return f"give {what} one group so that no fold divides them"
    code = f"from medseg.integrity import keep_together; keep_together({str(dataset)!r}, {arguments})"
    return f"keep {what} on one side of every fold, and use {grouped_path(dataset).name} from then on: " + command(code)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
