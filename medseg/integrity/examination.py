"""The walk over a dataset's files. Nothing stops at the first problem."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medseg import io, splits
from medseg.dataset import Dataset, Finding, Survey, survey
from medseg.dataset.opening import DATASET_FILE
from medseg.errors import MedsegError
from medseg.integrity.across import ClassBalance, balance_problems, class_balance, compare_grids_of
from medseg.integrity.cases import examine_case
from medseg.integrity.dicom import examine_series
from medseg.integrity.duplicates import compare_images
from medseg.integrity.files import examine_file, of_error
from medseg.integrity.records import CaseRecord, record
from medseg.io import formats
from medseg.progress import Progress, silent

_LISTED = 5


@dataclass(frozen=True, eq=False)
class Examination:
    """What was found in a dataset or folder.

    Attributes:
        findings: in the order they were met.
        records: of the images that could be read.
        classes: how often and how large each class is; none without masks.
        dataset: None where it could not be opened, or where there is none but a folder of images.
    """

    findings: tuple[Finding, ...]
    records: tuple[CaseRecord, ...] = ()
    classes: tuple[ClassBalance, ...] = ()
    dataset: Dataset | None = None

    def ranked(self) -> list[Finding]:
        """The findings, worst first."""
        order = {"error": 0, "warning": 1, "note": 2}
        return sorted(self.findings, key=lambda finding: order[finding.severity])

    def count(self, severity: str) -> int:
        """How many findings are so severe."""
        return sum(finding.severity == severity for finding in self.findings)


@dataclass
class _Gathered:
    """Filled while cases are looked at one by one."""

    findings: list[Finding] = field(default_factory=list)
    records: list[CaseRecord] = field(default_factory=list)


def examine(
    dataset: Dataset | str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
    splits_file: str | os.PathLike[str] | None = None,
) -> Examination:
    """Look through all files of a dataset.

    Args:
        dataset: a dataset, what :meth:`medseg.dataset.Dataset.open` opens, or any folder of images.
        root: where the files lie, if not beside the document.
        splits_file: folds to look at for patients on both sides, instead of those that planning would make.

    Raises:
        DocumentError: the file of splits cannot be read.
    """
    path = None if isinstance(dataset, Dataset) else Path(dataset)
    gathered = _Gathered()
    if isinstance(dataset, Dataset):
        found = Survey(dataset, ())
    elif Path(dataset).is_dir() and not (Path(dataset) / DATASET_FILE).is_file():
        _examine_folder(Path(dataset), progress, gathered)
        return Examination(tuple(gathered.findings), tuple(gathered.records))
    else:
        try:
            found = survey(dataset, root)
        except MedsegError as error:
            return Examination((Finding("error", str(error), file=path),))
    return _examine_dataset(found, path, progress, gathered, splits_file)


def _examine_dataset(
    found: Survey,
    path: Path | None,
    progress: Progress,
    gathered: _Gathered,
    splits_file: str | os.PathLike[str] | None,
) -> Examination:
    dataset, findings = found.dataset, gathered.findings
    findings.extend(found.findings)
    folds = _folds(dataset, splits_file, findings)
    total = len(dataset.cases) + len(found.left_out)
    for number, case in enumerate(dataset.cases):
        progress(number, total, "examining")
        findings.extend(examine_case(case, dataset, gathered.records))
    for number, case in enumerate(found.left_out, len(dataset.cases)):
        progress(number, total, "examining")
        for file in case.files:
            if file.is_file():
                findings.extend(examine_file(file, case.name)[1])
    findings.extend(compare_grids_of(gathered.records))
    findings.extend(compare_images(gathered.records, folds, path))
    classes = class_balance(gathered.records, dataset.labels)
    findings.extend(balance_problems(classes, dataset.labels, folds))
    for file, expected in dataset.checksums.items():
        if file.is_file() and _sha256(file) != expected.lower():
            findings.append(
                Finding("error", "SHA-256 differs from the manifest's", file=file, remedy="fetch the file again")
            )
    progress(total, total, "examining")
    return Examination(tuple(findings), tuple(gathered.records), classes, dataset)


def _folds(
    dataset: Dataset, splits_file: str | os.PathLike[str] | None, findings: list[Finding]
) -> tuple[splits.Split, ...]:
    """The folds that training would use; none where there cannot be any, as with one case."""
    names = [case.name for case in dataset.cases]
    groups = {case.name: case.group for case in dataset.cases if case.group is not None}
    if splits_file is None:
        try:
            return splits.make_splits(names, groups)
        except MedsegError:
            return ()
    folds = splits.load_splits(splits_file)
    try:
        splits.check_splits(folds, names, groups)
    except MedsegError as error:
        findings.append(of_error(error, Path(splits_file), None))
    return folds


def _examine_folder(folder: Path, progress: Progress, gathered: _Gathered) -> None:
    """Each image of a folder by itself."""
    findings, records = gathered.findings, gathered.records
    dicom_files = []
    unknown: Counter[str] = Counter()
    images = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        try:
            if io.is_image_name(path) or formats.is_minc(path):
                images.append(path)
            elif formats.is_dicom(path):
                dicom_files.append(path)
            elif io.ending_of(path) is None:
                unknown[path.suffix or path.name] += 1
        except OSError:
            images.append(path)  # reading it will say why it cannot be read
    for number, path in enumerate(images):
        progress(number, len(images), "examining")
        volume, own = examine_file(path, None)
        findings.extend(own)
        if volume is not None:
            records.append(record(str(path.relative_to(folder)), [volume]))
    for name, volume, own in examine_series(dicom_files, progress):
        findings.extend(own)
        if volume is not None:
            records.append(record(name, [volume]))
    if unknown:
        listed = ", ".join(f"{count} {ending}" for ending, count in unknown.most_common(_LISTED))
        findings.append(Finding("note", f"{sum(unknown.values())} files are no images: {listed}", file=folder))
    if not images and not dicom_files:
        remedy = f"add {DATASET_FILE} or give another folder"
        findings.append(Finding("error", "no images here", file=folder, remedy=remedy))
    findings.extend(compare_grids_of(records))
    findings.extend(compare_images(records, (), None, named=False))
    progress(len(images), len(images), "examining")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
