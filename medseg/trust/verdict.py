"""What is said about a predicted case: a band of Dice, numbers of its scan, and reasons to look at it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medseg import atomic, documents
from medseg.errors import DocumentError
from medseg.planning.plan import Plan
from medseg.trust.bands import MEAN, TrustDocument
from medseg.trust.drift import Drift, describe_scan, drifts
from medseg.trust.overlap import LabelOverlap
from medseg.volume import Volume

VERDICTS_FILE, LIST_FILE = "trust.json", "trust.csv"
USUALLY_PRESENT = 0.95
"""A label that so many training cases hold is missed if a mask holds none of it."""


@dataclass(frozen=True)
class LabelTrust:
    """One label of a mask: the Dice to expect and the band around it. None where nothing can be said.

    Attributes:
        fold_agreement: mean Dice of each fold's own mask with the mask.
    """

    label: str
    dice: float | None
    low: float | None
    high: float | None
    fold_agreement: float | None


@dataclass(frozen=True)
class CaseTrust:
    """One case: its labels and their mean, its scan beside those of training, and why a person should look at it."""

    case: str
    mean: LabelTrust
    labels: tuple[LabelTrust, ...]
    drift: tuple[Drift, ...]
    reasons: tuple[str, ...]

    @property
    def order(self) -> tuple[bool, float, str]:
        """Sorts those to look at first, the lowest band first."""
        return not self.reasons, 0.0 if self.mean.low is None else self.mean.low, self.case


@dataclass(frozen=True)
class Verdicts:
    """``trust.json`` beside masks: all cases, those to look at first."""

    version: Literal[1]
    cases: tuple[CaseTrust, ...]


def judge(trust: TrustDocument, overlaps: Sequence[LabelOverlap], volume: Volume, plan: Plan, case: str) -> CaseTrust:
    """What held-out cases, the folds' votes and the scan itself say about a mask."""
    bands = {band.label: band for band in trust.bands}
    labels = []
    for overlap in overlaps:
        band = bands.get(overlap.label)
        low, dice, high = band.around(overlap.expected) if band and overlap.expected is not None else (None,) * 3
        labels.append(LabelTrust(overlap.label, dice, low, high, overlap.agreement))
    promised = [overlap.expected for overlap in overlaps if overlap.expected is not None]
    agreed = [overlap.agreement for overlap in overlaps if overlap.agreement is not None]
    whole = bands.get(MEAN)
    low, dice, high = whole.around(float(np.mean(promised))) if whole and promised else (None,) * 3
    mean = LabelTrust(MEAN, dice, low, high, float(np.mean(agreed)) if agreed else None)
    scan = describe_scan(volume, plan)
    drift = drifts(scan, trust.scans)
    reasons = [
        f"no {overlap.label}, which {trust.presence[overlap.label]:.0%} of training cases have"
        for overlap in overlaps
        if overlap.voxels == 0 and trust.presence.get(overlap.label, 0) >= USUALLY_PRESENT
    ]
    for known in (mean, *labels):
        band = bands.get(known.label)
        if band is not None and known.dice is not None and known.dice < band.usual:
            reasons.append(
                f"{known.label}: expected Dice {known.dice:.3f} ({known.low:.3f} to {known.high:.3f}),"
                " lower than of 95 % of held-out cases"
            )
    reasons += [str(number) for number in drift if number.outside]
    if plan.orientation == "stored" and scan.orientation not in trust.scans.orientations:
        seen = ", ".join(trust.scans.orientations)
        reasons.append(f"stored as {scan.orientation}, training as {seen}, and this model does not turn scans")
    return CaseTrust(case, mean, tuple(labels), drift, tuple(reasons))


def write_verdicts(cases: Sequence[CaseTrust], path: Path) -> None:
    """Write all verdicts as a document, and as a table of a line a case beside it; those to look at first.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    ordered = tuple(sorted(cases, key=lambda case: case.order))
    documents.save(Verdicts(1, ordered), path)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "look", "expected_dice", "low", "high", "fold_agreement", "reasons"])
    for case in ordered:
        known = case.mean
        figures = (known.dice, known.low, known.high, known.fold_agreement)
        shown = ["" if value is None else f"{value:.4f}" for value in figures]
        table.writerow([case.case, "yes" if case.reasons else "no", *shown, "; ".join(case.reasons)])
    atomic.write_text(path.with_suffix(".csv"), text.getvalue())


def load_verdicts(path: Path) -> tuple[CaseTrust, ...]:
    """The verdicts that an earlier run left; none if that cannot be told."""
    try:
        return documents.load(Verdicts, path).cases
    except DocumentError:
        return ()
