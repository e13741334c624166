"""From decided proposals to a dataset: accepted labels join those drawn by hand, and it is written where each is from.

dataset.json         for ``medseg plan``
splits.json          folds that validate on cases labelled by hand only, for ``medseg plan --splits``
labels/CASE.nii.gz   masks of accepted cases; other files stay where they are
sources/CASE.nii.gz  of each voxel of these: 0 nobody's (ignored), 1 drawn by hand, 2 proposed and accepted
label_sources.json   each case's origin: by hand, or the prompts, confidences and checkpoint that it was proposed from
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medseg import atomic, documents, io, parallel, splits
from medseg.dataset import CaseRef, Dataset
from medseg.errors import CasesFailedError, DataError, UsageError
from medseg.progress import Progress, silent
from medseg.pseudo_labels.records import (
    Decision,
    Key,
    Proposal,
    ProposalRun,
    ProposedObject,
    mask_file,
    open_proposals,
    open_run,
    proposed_file,
    read_list,
)
from medseg.splits import Split
from medseg.volume import LabelVolume

DATASET_FILE = "dataset.json"
PROVENANCE_FILE = "label_sources.json"
SPLITS_FILE = "splits.json"
SOURCES = {"nobody's": 0, "by hand": 1, "proposed": 2}


@dataclass(frozen=True)
class CaseSource:
    """Where the labels of one case are from.

    Attributes:
        run: number of the entry in ``runs`` that the case was proposed in; None for labels drawn by hand.
        objects: what was accepted, with prompts and confidences.
        mended_voxels: how many a person changed afterwards; the files in ``sources`` show which.
        ignored_voxels: how many nobody labelled.
    """

    source: Literal["by hand", "proposed"]
    run: int | None = None
    objects: tuple[ProposedObject, ...] = ()
    mended_voxels: int = 0
    ignored_voxels: int = 0


@dataclass(frozen=True)
class Provenance:
    """What ``label_sources.json`` holds."""

    version: Literal[1]
    runs: tuple[ProposalRun, ...]
    cases: dict[str, CaseSource]


@dataclass(frozen=True)
class Accepted:
    """The dataset's folder, what became of each case, and whether folds were written.

    Attributes:
        by_hand, proposed: names of the dataset's cases.
        left_out: cases without an accepted label.
        failures: cases that could not be taken, with their reasons.
    """

    folder: Path
    by_hand: tuple[str, ...]
    proposed: tuple[str, ...]
    left_out: tuple[str, ...]
    failures: Mapping[str, str]
    has_splits: bool


def accept(
    list_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    splits_file: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Accepted:
    """Write the dataset of all accepted proposals and of the cases labelled by hand.

    A label counts in a case if every object of it there is accepted; classes without counting as not annotated there,
    so that no background is learnt where one of them may lie. Accepted cases only train; folds validate by hand.

    Args:
        list_file: the list in the folder of its proposals.
        output: the dataset's folder; an earlier one made by this function is replaced.
        splits_file: folds of the cases labelled by hand, to be kept; by default five random ones.

    Raises:
        UsageError: no folder of proposals, nothing is accepted, or the output holds something else.
        DataError: the list holds what cannot be.
        CasesFailedError: no accepted case can be taken.
    """
    folder, target = Path(list_file).resolve().parent, Path(output)
    run, proposals = open_run(folder), open_proposals(folder)
    decisions = read_list(list_file, proposals)
    known = None if run.labelled is None else Dataset.open(run.labelled)
    if target.exists() and not (target / PROVENANCE_FILE).is_file() and any(target.iterdir()):
        raise UsageError(f"-o {target}: holds something else already; choose another folder")
    taken = {proposal.case: _accepted_labels(proposal, decisions) for proposal in proposals}
    chosen = [proposal for proposal in proposals if taken[proposal.case]]
    if not chosen:
        raise UsageError(f"{list_file}: nothing is accepted; write accept into the column decision")
    before = _provenance_of(known)
    number = len(before.runs)
    with atomic.replacing_folder(target) as partial:
        work = _Accepting(folder, partial, run, taken, number)
        outcomes = parallel.map_cases(work, chosen, name=_case_of, what="writing", progress=progress)
        done = [outcome.value for outcome in outcomes if outcome.value is not None]
        failures = {outcome.case: outcome.reason for outcome in outcomes if outcome.error is not None}
        if not done:
            raise CasesFailedError("pseudo-label --accept", failures, len(chosen))
        cases = (*(() if known is None else known.cases), *(ref for ref, _ in done))
        _dataset(known, run, target.name, cases).save(partial / DATASET_FILE)
        sources = before.cases | {ref.name: source for ref, source in done}
        documents.save(Provenance(1, (*before.runs, run), sources), partial / PROVENANCE_FILE)
        by_hand = [case for case in cases if sources[case.name].source == "by hand" and case.label is not None]
        folds = _folds(by_hand, [case for case in cases if case not in by_hand], splits_file)
        if folds:
            splits.save_splits(folds, partial / SPLITS_FILE)
    return Accepted(
        target,
        tuple(case.name for case in by_hand),
        tuple(ref.name for ref, _ in done),
        tuple(proposal.case for proposal in proposals if not taken[proposal.case]),
        failures,
        bool(folds),
    )


@dataclass(frozen=True)
class _Accepting:
    """Writes the mask and the sources of one case."""

    proposals: Path
    output: Path
    run: ProposalRun
    taken: Mapping[str, tuple[str, ...]]
    number: int

    def __call__(self, proposal: Proposal) -> tuple[CaseRef, CaseSource]:
        labels, names = self.run.labels, self.taken[proposal.case]
        images = tuple(map(Path, proposal.images))
        file, first = mask_file(self.proposals, proposal), proposed_file(self.proposals, proposal)
        mask, proposed = io.read_labels(file), io.read_labels(first)
        grid = io.probe(images[0]).geometry
        for path, read in ((file, mask), (first, proposed)):
            grid.require_equal(read.geometry, str(images[0]), str(path))
        indices = labels.encode(mask.array, where=f"{proposal.case}: {file}")
        mended = indices != labels.encode(proposed.array, where=f"{proposal.case}: {first}")
        shown = {entry.label for entry in proposal.objects}
        for name, (index,) in zip(labels.names, labels.class_indices, strict=True):
            drawn = indices == index
            if name in names and not drawn.any():
                raise DataError(
                    f"{proposal.case}: {name} is accepted but {file} has no voxel of it; reject it or draw it"
                )
            if name not in names and name not in shown and drawn.any():
                names = (*names, name)  # by hand
            elif name not in names:
                indices[drawn] = 0
        ignored = indices == labels.ignore_index
        sources = np.where(mended, SOURCES["by hand"], SOURCES["proposed"]).astype(np.uint8)
        sources[ignored] = SOURCES["nobody's"]
        label = self.output / "labels" / proposal.mask_name
        io.write(LabelVolume(labels.decode(indices), grid, labels.meaning), label, like=images[0])
        written = self.output / "sources" / proposal.mask_name
        io.write(LabelVolume(sources, grid), written, like=images[0])
        annotated = None if set(names) == set(labels.names) else names
        objects = tuple(entry for entry in proposal.objects if entry.label in names)
        source = CaseSource("proposed", self.number, objects, int(mended.sum()), int(ignored.sum()))
        return CaseRef(proposal.case, images, label.resolve(), proposal.group, annotated), source


def _accepted_labels(proposal: Proposal, decisions: Mapping[Key, Decision]) -> tuple[str, ...]:
    """Labels of a case of which every object is accepted."""
    refused = {
        entry.label
        for entry in proposal.objects
        if decisions.get((proposal.case, entry.label, entry.number)) != "accept"
    }
    return tuple(dict.fromkeys(entry.label for entry in proposal.objects if entry.label not in refused))


def _provenance_of(known: Dataset | None) -> Provenance:
    """Where the labels are from that the proposals join: by hand, or from an earlier round, whose file lies there."""
    runs: list[ProposalRun] = []
    cases: dict[str, CaseSource] = {}
    opened: dict[Path, Provenance] = {}
    for case in () if known is None else known.cases:
        cases[case.name] = CaseSource("by hand")
        file = None if case.label is None else case.label.resolve().parent.parent / PROVENANCE_FILE
        if file is None or not file.is_file():
            continue
        if file not in opened:
            opened[file] = documents.load(Provenance, file)
        entry = opened[file].cases.get(case.name)
        if entry is not None and entry.run is not None:
            run = opened[file].runs[entry.run]
            if run not in runs:
                runs.append(run)
            cases[case.name] = replace(entry, run=runs.index(run))
    return Provenance(1, tuple(runs), cases)


def _dataset(known: Dataset | None, run: ProposalRun, name: str, cases: tuple[CaseRef, ...]) -> Dataset:
    ordered = tuple(sorted(cases, key=lambda case: case.name))
    if known is None:
        return Dataset(name, run.channels, run.labels, ordered)
    return replace(known, labels=run.labels, cases=ordered)


def _folds(
    by_hand: Sequence[CaseRef], others: Sequence[CaseRef], file: str | os.PathLike[str] | None
) -> tuple[Split, ...]:
    """Folds of the cases labelled by hand; the others train in each, but for those of a held-out patient."""
    groups = {case.name: case.group for case in by_hand if case.group is not None}
    names = [case.name for case in by_hand]
    if file is not None:
        own = splits.load_splits(file)
        splits.check_splits(own, names, groups)
    elif len({groups.get(name, name) for name in names}) < 2:
        return ()
    else:
        own = splits.make_splits(names, groups)
    return tuple(
        replace(
            split,
            train=(
                *split.train,
                *(
                    case.name
                    for case in others
                    if case.label is not None
                    and (case.group is None or case.group not in {groups.get(name) for name in split.validation})
                ),
            ),
        )
        for split in own
    )


def _case_of(proposal: Proposal) -> str:
    return proposal.case
