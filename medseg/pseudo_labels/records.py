"""The folder of proposals: what was proposed, from what, and the list in which a person decides.

proposals.json      labels, channels, checkpoint and settings of all proposals
proposals.csv       the list: an object a row, the least sure scans first; a person writes accept or reject
cases/CASE.json     the scan's files; each object's prompts and confidence
masks/CASE.nii.gz   the proposed mask; a person may mend it
proposed/...        the same as it was proposed, to tell later what was mended
"""

from __future__ import annotations

import csv
import io as text_io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg import atomic, documents
from medseg.errors import DataError, FileUnreadableError, UsageError
from medseg.io import mask_ending
from medseg.labels import LabelSet
from medseg.prompting.prompts import Box, Point

RUN_FILE = "proposals.json"
LIST_FILE = "proposals.csv"
Decision = Literal["accept", "reject", ""]
Key = tuple[str, str, int]
_COLUMNS = ("decision", "case", "label", "object", "confidence", "volume_ml", "mask")


@dataclass(frozen=True)
class ProposedObject:
    """An object: what was shown of it, and how sure the model is (0 to 1)."""

    label: str
    number: int
    prompts: tuple[Box | Point, ...]
    confidence: float
    volume_ml: float


@dataclass(frozen=True)
class Proposal:
    """What ``cases/CASE.json`` holds."""

    version: Literal[1]
    case: str
    images: tuple[str, ...]
    group: str | None
    objects: tuple[ProposedObject, ...]

    @property
    def confidence(self) -> float:
        """That of the object which the model is least sure of."""
        return min(entry.confidence for entry in self.objects)

    @property
    def mask_name(self) -> str:
        """Name of the mask's file."""
        return self.case + mask_ending(Path(self.images[0]))


@dataclass(frozen=True)
class ProposalRun:
    """What ``proposals.json`` holds: how all proposals of the folder were made.

    Attributes:
        labelled: document of the dataset labelled by hand that the proposals are to join, if there is one.
        checkpoint_sha256: of the promptable model's files.
        draws: how often prompts were drawn, a little moved, for each object.
        sure: part of the draws that must agree on a voxel; else it is ignored.
        accept_above: objects of at least this confidence came accepted into the list; None where a person decides all.
    """

    version: Literal[1]
    labels: LabelSet
    channels: tuple[str, ...]
    labelled: str | None
    checkpoint: str
    checkpoint_sha256: str
    engine: str
    draws: int
    sure: float
    seed: int
    accept_above: float | None


def open_run(folder: Path) -> ProposalRun:
    """How the proposals of a folder were made.

    Raises:
        UsageError: it is no folder of proposals.
    """
    if not (folder / RUN_FILE).is_file():
        raise UsageError(
            f"{folder}: no {RUN_FILE} here; the list stays in the folder of its proposals, which"
            " medseg pseudo-label SCANS --prompts TABLE makes"
        )
    return documents.load(ProposalRun, folder / RUN_FILE)


def case_file(folder: Path, case: str) -> Path:
    """Where a case's document lies."""
    return folder / "cases" / f"{case}.json"


def mask_file(folder: Path, proposal: Proposal) -> Path:
    """Where the mask lies that a person may mend."""
    return folder / "masks" / proposal.mask_name


def proposed_file(folder: Path, proposal: Proposal) -> Path:
    """Where the mask lies as it was proposed."""
    return folder / "proposed" / proposal.mask_name


def open_proposals(folder: Path) -> tuple[Proposal, ...]:
    """All proposals of a folder, in order of name.

    Raises:
        DocumentError: a case's document is damaged.
        UsageError: there are none.
    """
    found = tuple(documents.load(Proposal, path) for path in sorted((folder / "cases").glob("*.json")))
    if not found:
        raise UsageError(f"{folder}: holds no proposals")
    return found


def write_list(folder: Path, proposals: Iterable[Proposal], decisions: Mapping[Key, Decision]) -> Path:
    """Write the list, the least sure scans first.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    text = text_io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for proposal in sorted(proposals, key=lambda each: (each.confidence, each.case)):
        for entry in sorted(proposal.objects, key=lambda each: each.confidence):
            decision = decisions.get((proposal.case, entry.label, entry.number), "")
            numbers = (f"{entry.confidence:.4f}", f"{entry.volume_ml:.3f}")
            mask = f"masks/{proposal.mask_name}"
            writer.writerow((decision, proposal.case, entry.label, entry.number, *numbers, mask))
    atomic.write_text(folder / LIST_FILE, text.getvalue())
    return folder / LIST_FILE


def read_list(path: str | os.PathLike[str], proposals: Iterable[Proposal]) -> dict[Key, Decision]:
    """What was decided about each object; an object without a row is not decided.

    Raises:
        FileUnreadableError: the list is missing or is no text.
        DataError: a decision other than accept, reject or nothing, an object that was not proposed, or one twice.
    """
    known = {(proposal.case, entry.label, entry.number) for proposal in proposals for entry in proposal.objects}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileUnreadableError(f"{path}: no such list; expected a {LIST_FILE} that pseudo-label wrote") from error
    header = lines[0] if lines else ""
    reader = csv.DictReader(lines, delimiter=";" if header.count(";") > header.count(",") else ",")
    missing = [name for name in _COLUMNS[:4] if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: the column {missing[0]} is missing; expected {', '.join(_COLUMNS)}")
    decisions: dict[Key, Decision] = {}
    for row in reader:
        where = f"{path}: line {reader.line_num}"
        case, label, number = ((row[name] or "").strip() for name in ("case", "label", "object"))
        key = (case, label, int(number) if number.isdecimal() else 0)
        if key not in known:
            raise DataError(f"{where}: {case} {label} {number} was not proposed; change the column decision only")
        if key in decisions:
            raise DataError(f"{where}: {case} {label} {number} stands twice; keep one row")
        text = (row["decision"] or "").strip().lower()
        if text == "accept":
            decisions[key] = "accept"
        elif text in ("reject", ""):
            decisions[key] = "reject" if text else ""
        else:
            raise DataError(f"{where}: decision: expected accept, reject or nothing, found {text!r}")
    return decisions
