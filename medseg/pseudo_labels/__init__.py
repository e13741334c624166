"""Pseudo-labels: from boxes and points on unlabelled scans to a dataset that can be planned and trained.

    proposals = propose(scans, read_prompts("boxes.csv"), "promptable-model", "proposals/", labelled=dataset)
    # a person reads proposals/proposals.csv, writes accept or reject into it, and mends masks where needed
    accept("proposals/proposals.csv", "dataset/")

``propose`` and ``accept`` load torch with the first model only; ``rank`` says which scans to look at next.
"""

from medseg.pseudo_labels.accepting import Accepted, accept
from medseg.pseudo_labels.proposing import Proposed, propose
from medseg.pseudo_labels.ranking import Ranked, rank
from medseg.pseudo_labels.table import Target, read_prompts

__all__ = ["Accepted", "Proposed", "Ranked", "Target", "accept", "propose", "rank", "read_prompts"]
