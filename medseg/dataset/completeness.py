"""What a look at a dataset's list of files gives: the cases that are complete, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from medseg import io
from medseg.dataset.cases import CaseRef, Dataset
from medseg.dataset.findings import Finding


@dataclass(frozen=True)
class Survey:
    """A dataset of the cases that are complete, what is wrong with the others, and those others."""

    dataset: Dataset
    findings: tuple[Finding, ...]
    left_out: tuple[CaseRef, ...] = ()


def checked(dataset: Dataset, findings: Iterable[Finding]) -> Survey:
    """Leave out cases that cannot be used: those whose name was there before, or whose files are missing."""
    found = list(findings)
    kept: list[CaseRef] = []
    left_out: list[CaseRef] = []
    counts = Counter(case.name for case in dataset.cases)
    for name, count in counts.items():
        if count > 1:
            found.append(Finding("error", f"{count} cases have this name", case=name, remedy="give each its own name"))
    for case in dataset.cases:
        missing = [file for file in case.files if not file.exists()]
        for file in missing:
            found.append(Finding("error", "this file is missing", case.name, file, "copy it or remove the case"))
        (left_out if missing or counts[case.name] > 1 else kept).append(case)
    tests = tuple(case for case in dataset.test_cases if all(file.exists() for file in case.files))
    if len(tests) < len(dataset.test_cases):
        lost = len(dataset.test_cases) - len(tests)
        found.append(Finding("note", f"{lost} of {len(dataset.test_cases)} test cases have missing files; left out"))
    cases = tuple(sorted(kept, key=lambda case: case.name))
    return Survey(replace(dataset, cases=cases, test_cases=tests), tuple(found), tuple(left_out))


def listing(folder: Path) -> str:
    """What lies in a folder and below, in a few words for an error message: endings and their counts."""
    if not folder.is_dir():
        return "no such folder"
    counts: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            counts[io.ending_of(path) or path.suffix or "no ending"] += 1
    if not counts:
        return "no files"
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {ending}" for ending, count in ranked[:5])
