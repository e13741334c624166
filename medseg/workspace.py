"""The workspace: one folder that holds everything of one dataset, and the steps up to prepared cases.

    dataset.json  fingerprint.json  plan.json  splits.json
    preprocessed/CONFIGURATION/CASE/    models/CONFIGURATION/fold_0/ ...

It can be moved or copied whole. Each file is written whole or not at all and is readable and editable by hand.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from medseg import documents, io, parallel, splits, store
from medseg.dataset import CaseRef, Dataset, load_case
from medseg.errors import DocumentError, UsageError
from medseg.fingerprinting import Fingerprint, fingerprint_dataset
from medseg.model import VALIDATION_FOLDER, fold_folder
from medseg.planning import plan_dataset
from medseg.planning.plan import Configuration, Plan, Preset
from medseg.planning.transfer import plan_like
from medseg.preprocessing import prepare
from medseg.progress import Progress, silent
from medseg.splits import Split


@dataclass(frozen=True)
class Workspace:
    """The folder of one dataset."""

    root: Path

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> Workspace:
        """A workspace that ``plan`` has made.

        Raises:
            UsageError: there is no plan in the folder; says how to make one.
        """
        workspace = cls(Path(root))
        if not workspace.plan_path.is_file():
            raise UsageError(f"{root}: no plan.json here; make one with: medseg plan DATASET -w {root}")
        return workspace

    @property
    def dataset_path(self) -> Path:
        """Where the dataset's document lies."""
        return self.root / "dataset.json"

    @property
    def fingerprint_path(self) -> Path:
        """Where the fingerprint lies."""
        return self.root / "fingerprint.json"

    @property
    def plan_path(self) -> Path:
        """Where the plan lies."""
        return self.root / "plan.json"

    @property
    def splits_path(self) -> Path:
        """Where the splits lie."""
        return self.root / "splits.json"

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset that was planned.

        Raises:
            DocumentError: its document is missing or damaged.
        """
        return Dataset.load(self.dataset_path)

    @cached_property
    def plan(self) -> Plan:
        """The plan, as it stands in the folder now.

        Raises:
            DocumentError: it is missing or damaged.
        """
        return Plan.load(self.plan_path)

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """Training and validation cases of each fold.

        Raises:
            DocumentError: they are missing or damaged, or do not fit the dataset.
        """
        loaded = splits.load_splits(self.splits_path)
        groups = {case.name: case.group for case in self.dataset.cases if case.group is not None}
        splits.check_splits(loaded, [case.name for case in self.dataset.cases], groups)
        return loaded

    def split(self, fold: int) -> Split:
        """Training and validation cases of one fold.

        Raises:
            UsageError: there is no such fold.
        """
        if not 0 <= fold < len(self.splits):
            raise UsageError(f"--fold {fold}: {self.splits_path} has folds 0-{len(self.splits) - 1}")
        return self.splits[fold]

    def preprocessed_folder(self, configuration: Configuration) -> Path:
        """Where the prepared cases of a configuration lie; on another grid than the planned one, apart from those."""
        name = configuration.name
        if configuration.spacing_mm != self.plan.configuration(name).spacing_mm:
            name += "_" + "x".join(f"{step:.3g}" for step in configuration.spacing_mm) + "mm"
        return self.root / "preprocessed" / name

    def model_folder(self, configuration: str) -> Path:
        """Where the model of a configuration lies."""
        return self.root / "models" / configuration


def plan_workspace(
    dataset: Dataset,
    root: str | os.PathLike[str],
    *,
    preset: Preset = "default",
    memory_gb: float | None = None,
    splits_file: str | os.PathLike[str] | None = None,
    like: tuple[Plan, str] | None = None,
    workers: int | str = 0,
    progress: Progress = silent,
) -> Workspace:
    """Fingerprint a dataset, plan it, and write both with the splits into a workspace.

    The fingerprint of a dataset that has not changed is taken from the workspace.

    Args:
        memory_gb: memory of the GPU to plan for; by default the preset's.
        like: plan and configuration of a model that is to be fine-tuned, instead of a preset.
        splits_file: folds to use instead of five random ones (nnU-Net's ``splits_final.json`` form).

    Raises:
        CasesFailedError: some cases cannot be read; nothing is written.
        UsageError: the workspace holds another dataset, or there are too few patients to make splits of.
        DocumentError: the file of splits cannot be read or does not fit the dataset.
        StorageError: the workspace cannot be written, or no space is left.
    """
    workspace = Workspace(Path(root))
    groups = {case.name: case.group for case in dataset.cases if case.group is not None}
    names = [case.name for case in dataset.cases]
    if splits_file is None:
        folds = splits.make_splits(names, groups)
    else:
        folds = splits.load_splits(splits_file)
        splits.check_splits(folds, names, groups)
    known = _known_fingerprint(workspace, dataset)
    fingerprint = known or fingerprint_dataset(dataset, workers=workers, progress=progress)
    plan = plan_dataset(fingerprint, preset=preset, memory_gb=memory_gb)
    plan = plan if like is None else plan_like(plan, *like)
    dataset.save(workspace.dataset_path)
    documents.save(fingerprint, workspace.fingerprint_path)
    plan.save(workspace.plan_path)
    if splits_file is not None or not workspace.splits_path.is_file() or known is None:
        splits.save_splits(folds, workspace.splits_path)
    return workspace


def preprocess(
    workspace: Workspace,
    configuration: Configuration,
    *,
    cases: Sequence[str] | None = None,
    workers: int | str = 0,
    progress: Progress = silent,
) -> None:
    """Prepare cases that are not yet, or no longer, prepared as the plan says.

    Raises:
        CasesFailedError: some cases cannot be prepared; the others are.
        UsageError: a cascade's previous stage has not been trained on all folds that this needs.
        StorageError: nothing can be written there.
    """
    plan, folder = workspace.plan, workspace.preprocessed_folder(configuration)
    wanted = [case for case in workspace.dataset.cases if cases is None or case.name in set(cases)]
    previous = previous_masks(workspace, configuration, [case.name for case in wanted])
    waiting = [
        case
        for case in wanted
        if not store.is_complete(
            folder, case.name, _preparation_key(plan, configuration, case, previous.get(case.name))
        )
    ]
    store.discard_partial(folder)
    what = f"preparing {configuration.name}"
    outcomes = parallel.map_cases(
        _Preparation(plan, configuration, folder, previous),
        waiting,
        name=_case_name,
        workers=workers,
        progress=progress,
        what=what,
    )
    parallel.values(outcomes, what)


def previous_masks(workspace: Workspace, configuration: Configuration, cases: Sequence[str]) -> dict[str, Path]:
    """In a cascade the previous stage's mask of each case, by the fold that has not seen the case; else nothing.

    Raises:
        UsageError: a fold of the previous stage has not predicted its held-out cases yet; says how to train it.
    """
    stage = configuration.previous_stage
    if stage is None:
        return {}
    endings = {case.name: io.mask_ending(case.images[0]) for case in workspace.dataset.cases}
    masks: dict[str, Path] = {}
    for fold, split in enumerate(workspace.splits):
        folder = fold_folder(workspace.model_folder(stage), fold) / VALIDATION_FOLDER
        masks |= {name: folder / f"{name}{endings[name]}" for name in split.validation}
    never = [name for name in cases if name not in masks]
    if never:
        raise UsageError(
            f"{configuration.name}: no fold of {workspace.splits_path} holds out {', '.join(never[:3])}, so there is no"
            f" honest mask of {stage} for a second stage; make splits that hold out each case once"
        )
    missing = sorted(
        fold
        for fold, split in enumerate(workspace.splits)
        if any(name in split.validation and not masks[name].is_file() for name in cases)
    )
    if missing:
        folds = ",".join(map(str, missing))
        raise UsageError(
            f"{configuration.name} learns from held-out masks of {stage}, and fold {folds} has none yet;"
            f" first run: medseg train -w {workspace.root} -c {stage} --fold {folds}"
        )
    return {name: masks[name] for name in cases}


@dataclass(frozen=True)
class _Preparation:
    """Prepares one case; a value, so that it can travel to a worker."""

    plan: Plan
    configuration: Configuration
    folder: Path
    previous: Mapping[str, Path]

    def __call__(self, case: CaseRef) -> None:
        image, labels = load_case(case, self.plan.labels, self.plan.channels)
        mask = self.previous.get(case.name)
        previous = None if mask is None else io.read_labels(mask)
        prepared = prepare(image, self.plan, self.configuration, labels, previous, case=case.name)
        key = _preparation_key(self.plan, self.configuration, case, mask)
        store.write_case(self.folder, case.name, prepared, patch_size=self.configuration.patch_size, key=key)


def _case_name(case: CaseRef) -> str:
    return case.name


def _preparation_key(plan: Plan, configuration: Configuration, case: CaseRef, previous: Path | None) -> str:
    """Changes whenever a prepared case would: with the files, or with what the plan says about preparing."""
    labels = replace(plan.labels, mirror_pairs=None)  # what mirroring exchanges, preparing does not
    read = (plan.orientation, plan.axis_order, labels, plan.intensities)
    made = (configuration.spacing_mm, configuration.normalization, configuration.dimensions)
    checked = () if case.annotated is None else (case.annotated,)
    parts = [documents.to_json(value) for value in (*read, *made, *checked)]
    stamps = list(case.stamps())
    if previous is not None:
        stamps.append((previous.name, previous.stat().st_size, previous.stat().st_mtime_ns))
    return hashlib.sha256(repr((parts, stamps)).encode()).hexdigest()


def _known_fingerprint(workspace: Workspace, dataset: Dataset) -> Fingerprint | None:
    if not (workspace.dataset_path.is_file() and workspace.fingerprint_path.is_file()):
        return None
    try:
        before = Dataset.load(workspace.dataset_path)
        fingerprint = documents.load(Fingerprint, workspace.fingerprint_path)
    except DocumentError:
        return None  # damaged: made anew
    if before.name != dataset.name or {case.name for case in before.cases}.isdisjoint(
        case.name for case in dataset.cases
    ):
        raise UsageError(
            f"{workspace.root} holds the dataset {before.name}, not {dataset.name}; choose another workspace with -w"
        )
    files = (file for case in dataset.cases for path in case.files for file in io.files_of(path))
    newest = max((file.stat().st_mtime_ns for file in files), default=0)
    fresh = newest < workspace.fingerprint_path.stat().st_mtime_ns
    return fingerprint if before == dataset and fresh else None
