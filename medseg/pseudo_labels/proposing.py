"""Proposals for unlabelled scans: a promptable model answers the prompts of a table, object by object."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg import documents, io, parallel
from medseg.dataset import Dataset
from medseg.errors import DataError, LabelError, UsageError
from medseg.labels import LabelSet
from medseg.model import MODEL_FILE, ModelDocument
from medseg.progress import Progress, silent
from medseg.prompting import Session, load
from medseg.prompting.prompts import locate
from medseg.prompting.published import located
from medseg.prompting.unet.channels import PROMPT_CHANNELS
from medseg.pseudo_labels.agreement import agree, merge
from medseg.pseudo_labels.records import (
    LIST_FILE,
    RUN_FILE,
    Decision,
    Key,
    Proposal,
    ProposalRun,
    ProposedObject,
    case_file,
    mask_file,
    open_proposals,
    proposed_file,
    read_list,
    write_list,
)
from medseg.pseudo_labels.table import Target
from medseg.scans import Scan, find_scans
from medseg.volume import LabelVolume

DRAWS = 6
SURE = 0.8


@dataclass(frozen=True)
class Proposed:
    """The list in which a person decides, its proposals, and the cases that failed with their reasons."""

    list_file: Path
    proposals: tuple[Proposal, ...]
    failures: Mapping[str, str]


def propose(
    inputs: Sequence[str | os.PathLike[str]],
    targets: Sequence[Target],
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    labelled: str | os.PathLike[str] | None = None,
    draws: int = DRAWS,
    sure: float = SURE,
    accept_above: float | None = None,
    seed: int = 0,
    engine: str = "auto",
    device: str = "auto",
    progress: Progress = silent,
) -> Proposed:
    """Propose masks for the scans of a table of prompts, each with a confidence; a second start goes on.

    A voxel is labelled where at least ``sure`` of the draws agree, and ignored where they are of two minds.

    Args:
        inputs: files and folders of scans, as for prediction; the table names them by case.
        checkpoint, engine, device: as for :func:`medseg.prompting.load`.
        folder: for the proposals (:mod:`medseg.pseudo_labels.records`).
        labelled: dataset that the proposals are to join; it says what labels and channels there are. Without it
            labels are numbered in the order of the table.
        draws: how often prompts are drawn for each object, the first time as they are.
        accept_above: objects of at least this confidence come accepted into the list.

    Raises:
        UsageError: a setting out of range, or the folder holds proposals of other settings or prompts.
        DataError: no such scans, a label that the dataset does not have, or a case that it has already.
        ModelError: the checkpoint cannot be used.
    """
    if draws < 2 or not 0.5 < sure <= 1:
        raise UsageError(f"expected 2 draws or more and a share above 0.5 up to 1, found {draws} and {sure}")
    if accept_above is not None and not 0 <= accept_above <= 1:
        raise UsageError(f"--accept-above {accept_above}: confidences lie between 0 and 1")
    root, weights = Path(folder), located(checkpoint)
    known = None if labelled is None else Dataset.open(labelled)
    labels = _labels(known, targets)
    channels = _channels(weights) if known is None else known.channels
    scans = {scan.case: scan for scan in find_scans([Path(path) for path in inputs], channels, progress=progress)}
    session = load(weights, device, engine=engine)
    run = ProposalRun(
        version=1,
        labels=labels,
        channels=channels,
        labelled=None if labelled is None else str(Path(labelled).resolve()),
        checkpoint=str(weights.resolve()),
        checkpoint_sha256=_digest(weights),
        engine=session.engine.name,
        draws=draws,
        sure=sure,
        seed=seed,
        accept_above=accept_above,
    )
    by_case: dict[str, list[Target]] = {}
    for target in targets:
        by_case.setdefault(target.case, []).append(target)
    waiting = _waiting(root, run, by_case)
    documents.save(run, root / RUN_FILE)
    work = _Proposing(root, run, session, scans)
    outcomes = parallel.map_cases(work, list(waiting.values()), name=_case_of, what="proposing", progress=progress)
    failures = {outcome.case: outcome.reason for outcome in outcomes if outcome.error is not None}
    if len(failures) == len(by_case):
        parallel.values(outcomes, "pseudo-label")
    proposals = open_proposals(root)
    decisions = {} if accept_above is None else _above(proposals, accept_above)
    if (root / LIST_FILE).is_file():
        decisions |= read_list(root / LIST_FILE, proposals)
    return Proposed(write_list(root, proposals, decisions), proposals, failures)


@dataclass(frozen=True, eq=False)
class _Proposing:
    """Proposes for one case, and writes it."""

    folder: Path
    run: ProposalRun
    session: Session
    scans: Mapping[str, Scan]

    def __call__(self, targets: Sequence[Target]) -> None:
        case = targets[0].case
        files = _files(case, self.scans)
        volume = io.read(files, channels=len(self.run.channels))
        io.require_finite(volume, f"{case}: {', '.join(map(str, files))}")
        for target in targets:  # all of them before the slow part
            for prompt in target.prompts:
                locate(prompt, volume.geometry)
        self.session.set_image(volume, case=case)
        random = np.random.default_rng((self.run.seed, zlib.crc32(case.encode())))
        found = [agree(self.session, target.prompts, self.run.draws, random) for target in targets]
        names = [self.run.labels.values.index(self.run.labels.classes[target.label][0]) + 1 for target in targets]
        ignore = self.run.labels.ignore_index
        assert ignore is not None
        indices = merge(list(zip(names, found, strict=True)), ignore, self.run.sure)
        mask = LabelVolume(self.run.labels.decode(indices), volume.geometry, self.run.labels.meaning)
        objects = tuple(
            ProposedObject(
                target.label,
                target.number,
                target.prompts,
                each.confidence,
                float((2 * each.votes.astype(np.int16) > each.draws).sum()) * volume.geometry.voxel_volume_ml,
            )
            for target, each in zip(targets, found, strict=True)
        )
        proposal = Proposal(1, case, tuple(str(file.resolve()) for file in files), targets[0].group, objects)
        for file in (proposed_file(self.folder, proposal), mask_file(self.folder, proposal)):
            io.write(mask, file, like=files[0])
        documents.save(proposal, case_file(self.folder, case))


def _labels(known: Dataset | None, targets: Sequence[Target]) -> LabelSet:
    """What the values of proposed masks mean; with a value for voxels to ignore."""
    wanted = tuple(dict.fromkeys(target.label for target in targets))
    if known is None:
        return LabelSet({name: (i + 1,) for i, name in enumerate(wanted)}, ignore=len(wanted) + 1)
    labels = known.labels
    if labels.has_regions:
        raise DataError(f"{known.name}: its labels are regions that overlap; pseudo-labels need plain ones")
    strange = [name for name in wanted if name not in labels.classes]
    if strange:
        raise LabelError(f"the table names the label {strange[0]!r}; {known.name} has {', '.join(labels.names)}")
    taken = {case.name for case in (*known.cases, *known.test_cases)} & {target.case for target in targets}
    if taken:
        raise DataError(f"{min(taken)}: {known.name} has a case of this name already; rename the scan or leave it out")
    if labels.ignore is None:
        return replace(labels, ignore=max(labels.background, *labels.values) + 1)
    return labels


def _channels(checkpoint: Path) -> tuple[str, ...]:
    """What a promptable network sees of a scan; SAM sees one channel."""
    if not (checkpoint / MODEL_FILE).is_file():
        return ("image",)
    return documents.load(ModelDocument, checkpoint / MODEL_FILE).plan.channels[: -len(PROMPT_CHANNELS)] or ("image",)


def _waiting(folder: Path, run: ProposalRun, by_case: Mapping[str, list[Target]]) -> dict[str, list[Target]]:
    """Cases without a proposal yet.

    Raises:
        UsageError: what there is was made in another way.
    """
    if not (folder / RUN_FILE).is_file():
        return dict(by_case)
    before = documents.load(ProposalRun, folder / RUN_FILE)
    if replace(before, accept_above=run.accept_above) != run:
        raise UsageError(f"{folder}: holds proposals of another checkpoint, dataset or setting; choose another -o")
    waiting = {}
    for case, targets in by_case.items():
        if not case_file(folder, case).is_file():
            waiting[case] = targets
            continue
        done = documents.load(Proposal, case_file(folder, case))
        shown = [(entry.label, entry.number, entry.prompts) for entry in done.objects]
        if shown != [(target.label, target.number, target.prompts) for target in targets]:
            raise UsageError(
                f"{folder}: {case} was proposed from other prompts; choose another -o, or delete its files"
            )
    return waiting


def _files(case: str, scans: Mapping[str, Scan]) -> tuple[Path, ...]:
    if case not in scans:
        raise DataError(f"{case}: no scan of this name; found {', '.join(sorted(scans)[:3])}; correct the table")
    files = []
    for image in scans[case].images:
        if not isinstance(image, str | os.PathLike):
            raise DataError(f"{case}: a DICOM series; datasets hold files: convert it to NIfTI first")
        files.append(Path(image))
    return tuple(files)


def _above(proposals: Sequence[Proposal], least: float) -> dict[Key, Decision]:
    return {
        (proposal.case, entry.label, entry.number): "accept"
        for proposal in proposals
        for entry in proposal.objects
        if entry.confidence >= least
    }


def _case_of(targets: Sequence[Target]) -> str:
    return targets[0].case


def _digest(checkpoint: Path) -> str:
    """SHA-256 over the files that a model is read from, in order of their names."""
    files = [checkpoint]
    if checkpoint.is_dir():
        files = sorted([*checkpoint.glob("*.json"), *checkpoint.rglob("*.safetensors")])
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
