"""Cases that belong to one patient, kept on one side of every fold."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg.dataset import Dataset
from medseg.dataset.opening import DATASET_FILE
from medseg.errors import UsageError


def keep_together(dataset: str | os.PathLike[str], *sets: Sequence[str], pattern: str | None = None) -> Path:
    """Write a dataset anew with groups, which folds never divide, beside the one that is there.

    The files stay where they are. Called again, it adds to what it wrote before.

    Args:
        dataset: what :meth:`medseg.dataset.Dataset.open` opens.
        sets: names of cases that belong together; a group that any of them has already joins in.
        pattern: a regular expression whose first group in a case's name is its patient.

    Returns:
        The new document, to be used in place of the dataset: ``grouped.json``, or ``NAME.grouped.json`` of a manifest.

    Raises:
        UsageError: a case that there is not, or a pattern without a group.
        StorageError: the document cannot be written.
    """
    source = Path(dataset)
    target = grouped_path(source)
    found = Dataset.open(target if target.is_file() else source)
    groups = {case.name: case.group or case.name for case in found.cases}
    if pattern is not None:
        compiled = re.compile(pattern)
        if not compiled.groups:
            raise UsageError(f"pattern {pattern!r} has no group; put the patient's part in parentheses")
        patients: dict[str, list[str]] = defaultdict(list)
        for name in groups:
            if match := compiled.search(name):
                patients[match[1]].append(name)
        sets = (*sets, *patients.values())
    for names in sets:
        unknown = sorted(set(names) - set(groups))
        if unknown:
            raise UsageError(f"{source}: no case is called {unknown[0]!r}; cases are {', '.join(list(groups)[:5])} ...")
        joined = {groups[name] for name in names}
        one = min(joined)
        groups = {name: one if group in joined else group for name, group in groups.items()}
    counts = Counter(groups.values())
    shared = {group for group, count in counts.items() if count > 1}
    cases = tuple(
        replace(case, group=groups[case.name]) if groups[case.name] in shared else case for case in found.cases
    )
    replace(found, cases=cases).save(target)
    return target


def grouped_path(dataset: Path) -> Path:
    """Where :func:`keep_together` writes."""
    if dataset.is_dir():
        return dataset / "grouped.json"
    return dataset.with_name("grouped.json" if dataset.name == DATASET_FILE else f"{dataset.stem}.grouped.json")
