"""Every problem of a dataset in one pass, each with what mends it. Nothing stops at the first."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg import io
from medseg.dataset import CaseRef, Dataset, Finding, Survey, read_reference, survey
from medseg.dataset.opening import DATASET_FILE
from medseg.errors import MedsegError
from medseg.integrity.dicom import examine_series
from medseg.integrity.files import compare_grids, examine_file, header_problems, of_error
from medseg.io import formats
from medseg.labels import LabelSet, value_counts
from medseg.progress import Progress, silent
from medseg.volume import CANONICAL, LabelVolume, Volume

__all__ = ["Finding", "examine"]

# Voxel sizes further than this factor from the median: another unit or a lost header rather than another scanner.
SPACING_FACTOR = 8.0
_LISTED = 5


@dataclass
class _Facts:
    """What the cases have in common, gathered while they are looked at one by one."""

    orientations: Counter[str] = field(default_factory=Counter)
    spacings_mm: dict[str, tuple[float, ...]] = field(default_factory=dict)
    contents: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    values: Counter[int] = field(default_factory=Counter)
    masks: int = 0

    def add_image(self, name: str, volumes: Sequence[Volume]) -> None:
        geometry = volumes[0].geometry
        self.orientations[geometry.orientation] += 1
        self.spacings_mm[name] = geometry.changed(geometry.change_to(CANONICAL)).spacing_mm
        digest = hashlib.blake2b(digest_size=16)
        for volume in volumes:
            digest.update(repr(volume.array.shape).encode() + np.ascontiguousarray(volume.array).data)
        self.contents[digest.hexdigest()].append(name)


def examine(
    dataset: Dataset | str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> tuple[Finding, ...]:
    """Look through all files of a dataset.

    Args:
        dataset: a dataset, what :meth:`medseg.dataset.Dataset.open` opens, or any folder of images.
        root: where the files lie, if not beside the document.

    Returns:
        All problems, in the order they were met; none if there is nothing to mend.
    """
    if isinstance(dataset, Dataset):
        found = Survey(dataset, ())
    else:
        path = Path(dataset)
        if path.is_dir() and not (path / DATASET_FILE).is_file():
            return tuple(_examine_folder(path, progress))
        try:
            found = survey(path, root)
        except MedsegError as error:
            return (Finding("error", str(error), file=path),)
    return tuple(_examine_dataset(found, progress))


def _examine_dataset(found: Survey, progress: Progress) -> Iterator[Finding]:
    dataset, facts = found.dataset, _Facts()
    yield from found.findings
    total = len(dataset.cases) + len(found.left_out)
    for number, case in enumerate(dataset.cases):
        progress(number, total, "examining")
        yield from _examine_case(case, dataset, facts)
    for number, case in enumerate(found.left_out, len(dataset.cases)):
        progress(number, total, "examining")
        for file in case.files:
            if file.is_file():
                yield from examine_file(file, case.name)[1]
    yield from _compare_cases(facts)
    if facts.masks:
        yield from _missing_classes(dataset.labels, facts)
    for file, expected in dataset.checksums.items():
        if file.is_file() and _sha256(file) != expected.lower():
            yield Finding("error", "SHA-256 differs from the manifest's", file=file, remedy="fetch the file again")
    progress(total, total, "examining")


def _examine_folder(folder: Path, progress: Progress) -> Iterator[Finding]:
    """Each image of a folder by itself."""
    facts = _Facts()
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
        volume, findings = examine_file(path, None)
        yield from findings
        if volume is not None:
            facts.add_image(str(path.relative_to(folder)), [volume])
    for name, volume, findings in examine_series(dicom_files, progress):
        yield from findings
        if volume is not None:
            facts.add_image(name, [volume])
    if unknown:
        listed = ", ".join(f"{count} {ending}" for ending, count in unknown.most_common(_LISTED))
        yield Finding("note", f"{sum(unknown.values())} files are no images: {listed}", file=folder)
    if not images and not dicom_files:
        yield Finding("error", "no images here", file=folder, remedy=f"add {DATASET_FILE} or give another folder")
    yield from _compare_cases(facts)
    progress(len(images), len(images), "examining")


def _examine_case(case: CaseRef, dataset: Dataset, facts: _Facts) -> Iterator[Finding]:
    sources = case.sources(dataset.channels)
    read = [(file, *examine_file(file, case.name, source)) for file, source in zip(case.images, sources, strict=True)]
    for _, _, findings in read:
        yield from findings
    volumes = [(file, volume) for file, volume, _ in read if volume is not None]
    if len(volumes) == len(case.images):
        first_file, first = volumes[0]
        facts.add_image(case.name, [volume for _, volume in volumes])
        for file, volume in volumes[1:]:
            if not case.choice.resample:
                yield from compare_grids(case.name, first_file, first.geometry, file, volume.geometry)
        found, expected = sum(volume.channels for _, volume in volumes), len(dataset.channels)
        if found != expected and not _counts_as(volumes, expected):
            yield Finding(
                "error",
                f"expected {expected} channels ({', '.join(dataset.channels)}), found {found}",
                case.name,
                first_file,
                "declare all channels, or split the file and keep those that are declared",
            )
    if case.label is None:
        yield Finding("note", "no mask, so this case cannot be used for training", case.name)
        return
    in_dicom = io.holds_dicom(case.label)
    if in_dicom and not volumes:
        return  # without its scan, whose problem is told above, it has no grid
    yield from header_problems(case.label, case.name)
    try:
        if in_dicom:
            grid = volumes[0][1].geometry
            mask = read_reference(case.label, dataset.labels, case.segments, grid, io.resolve(sources))
        else:
            mask = io.read_labels(case.label)
    except MedsegError as error:
        yield of_error(error, case.label, case.name)
        return
    if volumes:
        yield from compare_grids(case.name, volumes[0][0], volumes[0][1].geometry, case.label, mask.geometry)
    yield from _label_problems(case.name, case.label, mask, dataset.labels, facts)


def _label_problems(case: str, file: Path, mask: LabelVolume, labels: LabelSet, facts: _Facts) -> Iterator[Finding]:
    counts = value_counts(mask.array)
    facts.masks += 1
    facts.values.update(counts.keys())
    known = {labels.background, labels.ignore, *labels.values}
    strange = {value: count for value, count in counts.items() if value not in known}
    if strange:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(strange.items())[:_LISTED])
        problem = f"values that are not declared: {listed}{' ...' if len(strange) > _LISTED else ''}"
        yield Finding("error", problem, case, file, f"declare them beside {list(labels.values)}, or correct the mask")
    if not any(value in counts for value in labels.values):
        remedy = "remove the case if it was never annotated; keep it if there is nothing to find"
        yield Finding("warning", "the mask is empty", case, file, remedy)


def _compare_cases(facts: _Facts) -> Iterator[Finding]:
    if len(facts.orientations) > 1:
        listed = ", ".join(f"{count} {orientation}" for orientation, count in facts.orientations.most_common())
        yield Finding("note", f"orientations differ: {listed}; all are brought to {CANONICAL}")
    for names in facts.contents.values():
        if len(names) > 1:
            remedy = "keep one, or give them one group so that they are never divided between training and validation"
            yield Finding(
                "warning", f"the same image under {len(names)} names: {', '.join(names)}", names[0], remedy=remedy
            )
    if len(facts.spacings_mm) < 3:
        return
    median = np.median(np.array(list(facts.spacings_mm.values())), axis=0)
    for name, spacing in facts.spacings_mm.items():
        if np.abs(np.log(np.array(spacing) / median)).max() > np.log(SPACING_FACTOR):
            found, usual = (" x ".join(f"{size:.3g}" for size in sizes) for sizes in (spacing, median))
            problem = f"voxels of {found} mm, where the median is {usual} mm"
            yield Finding("warning", problem, name, remedy="check the unit and the header")


def _missing_classes(labels: LabelSet, facts: _Facts) -> Iterator[Finding]:
    for name, values in labels.classes.items():
        if not any(value in facts.values for value in values):
            problem = f"{name} ({', '.join(map(str, values))}) occurs in none of {facts.masks} masks"
            yield Finding("warning", problem, remedy="remove it from the labels, or check the values")


def _counts_as(volumes: Sequence[tuple[Path, Volume]], channels: int) -> bool:
    """Whether a single picture holds the expected channels after all, being grey."""
    from medseg.io import pictures

    ((file, volume), *others) = volumes
    return not others and formats.is_picture(file) and pictures.with_channels(volume, channels).channels == channels


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
