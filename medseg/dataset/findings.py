"""A problem found in a dataset, with what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        severity: an error stops training or prediction, a warning may spoil the result, a note is good to know.
        problem: what is wrong, with what was expected and found.
        case, file: where, as far as it concerns one case or file.
        remedy: what to do, where there is something to do.
        others: further cases that it concerns.
    """

    severity: Severity
    problem: str
    case: str | None = None
    file: Path | None = None
    remedy: str = ""
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "".join(f"{part}: " for part in (self.case, self.file) if part is not None)
        return f"{where}{self.problem}{f' ({self.remedy})' if self.remedy else ''}"
