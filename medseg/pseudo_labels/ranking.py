"""Which scans to look at next: those of which the model is least sure, the undecided ones first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medseg.pseudo_labels.records import open_proposals, open_run, read_list


@dataclass(frozen=True)
class Ranked:
    """A scan, the confidence of its least sure object, and how many of its objects are not decided yet."""

    case: str
    confidence: float
    label: str
    undecided: int


def rank(list_file: str | os.PathLike[str]) -> tuple[Ranked, ...]:
    """The scans of a list in the order in which a person should look at them.

    Raises:
        UsageError: the list does not lie in the folder of its proposals.
        DataError: the list holds what cannot be.
    """
    folder = Path(list_file).resolve().parent
    open_run(folder)
    proposals = open_proposals(folder)
    decisions = read_list(list_file, proposals)
    ranked = []
    for proposal in proposals:
        least = min(proposal.objects, key=lambda entry: entry.confidence)
        undecided = sum(not decisions.get((proposal.case, entry.label, entry.number)) for entry in proposal.objects)
        ranked.append(Ranked(proposal.case, least.confidence, least.label, undecided))
    return tuple(sorted(ranked, key=lambda each: (each.undecided == 0, each.confidence, each.case)))
