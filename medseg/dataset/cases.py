"""What a dataset is: its channels, its labels, and the files of each case."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from medseg import dicom, documents, io
from medseg.errors import DataError, DocumentError
from medseg.labels import LabelSet

logger = logging.getLogger(__name__)

_LISTED = 5


@dataclass(frozen=True)
class CaseRef:
    """One case and where its files are.

    Attributes:
        images: one file a channel, or one file with all channels; a folder of DICOM files takes the place of a file.
        label: the reference mask, None where there is none; a folder holds one DICOM segmentation or structure set.
        group: cases of one group (such as one patient) are never divided between training and validation.
        annotated: names of the classes that the mask shows, where it does not show all: elsewhere its background
            may be anything.
        choice: which DICOM series are meant, and how they are read.
        segments: of DICOM masks: what voxels of a segment hold, by its name; by default the labels' own names.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    annotated: tuple[str, ...] | None = None
    choice: dicom.SeriesChoice = dicom.ANY
    segments: tuple[tuple[str, int], ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Images, and the mask if there is one."""
        return self.images if self.label is None else (*self.images, self.label)

    def sources(self, channels: tuple[str, ...]) -> tuple[io.Source, ...]:
        """What is read as the image: files, and DICOM series to be found where there is DICOM.

        Args:
            channels: names of the dataset's channels.
        """
        one_each, texts = len(self.images) == len(channels), self.choice.series
        found: list[io.Source] = []
        for index, image in enumerate(self.images):
            if not io.holds_dicom(image):
                found.append(image)
                continue
            own = (texts[index],) if one_each and len(texts) == len(channels) else texts
            names = (channels[index],) if one_each else channels
            found.append(dicom.Request(image, replace(self.choice, series=own), names))
        return tuple(found)

    def stamps(self) -> tuple[object, ...]:
        """Changes whenever the case's files do, or how they are read; where they lie does not matter."""
        files = [file for path in self.files for file in io.files_of(path)]
        stats = [(file.name, file.stat()) for file in files]
        how = () if (self.choice, self.segments) == (dicom.ANY, ()) else (self.choice, self.segments)
        return *how, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@dataclass(frozen=True)
class Dataset:
    """A dataset: what its channels and labels mean, and where its files are.

    Attributes:
        cases: training cases, in order of name.
        test_cases: cases set apart by whoever made the dataset; masks are usually not public.
        checksums: SHA-256 of files, where the maker published them.

    Raises:
        DocumentError: a case is said to be annotated for a class that there is not, or for none.
    """

    name: str
    channels: tuple[str, ...]
    labels: LabelSet
    cases: tuple[CaseRef, ...]
    test_cases: tuple[CaseRef, ...] = ()
    description: str = ""
    licence: str = ""
    source: str = ""
    reference: str = ""
    checksums: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for case in self.cases:
            if case.annotated is not None and not (case.annotated and set(case.annotated) <= set(self.labels.names)):
                raise DocumentError(
                    f"{case.name}: annotated: expected some of {list(self.labels.names)}, found {list(case.annotated)}"
                )

    @classmethod
    def open(cls, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Dataset:
        """Open a folder with ``dataset.json`` (Medical Segmentation Decathlon or nnU-Net v2 raw form) or a manifest.

        Args:
            root: where the files lie, if not beside the document.

        Raises:
            DataError: no such dataset, no cases, or files are missing or doubtful; names the first few.
            DocumentError: the document does not parse.
        """
        from medseg.dataset.opening import survey

        found = survey(path, root)
        errors = [finding for finding in found.findings if finding.severity == "error"]
        if errors:
            listed = "; ".join(str(finding) for finding in errors[:_LISTED])
            more = f" and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
            raise DataError(f"{path}: {listed}{more}; see everything with: medseg doctor {path}")
        for finding in found.findings:
            logger.warning("%s: %s", path, finding)
        return found.dataset

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the dataset as one JSON document. Files inside the document's folder are written relative to it.

        Raises:
            StorageError: the folder cannot be written, or no space is left.
        """
        folder = Path(path).resolve().parent

        def text(file: Path) -> str:
            return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()

        def case(ref: CaseRef) -> _CaseDocument:
            label = None if ref.label is None else text(ref.label)
            images = tuple(map(text, ref.images))
            return _CaseDocument(ref.name, images, label, ref.group, ref.annotated, ref.choice, ref.segments)

        document = _DatasetDocument(
            version=1,
            name=self.name,
            description=self.description,
            licence=self.licence,
            source=self.source,
            reference=self.reference,
            channels=self.channels,
            labels=self.labels,
            cases=tuple(map(case, self.cases)),
            test_cases=tuple(map(case, self.test_cases)),
            checksums={text(file): value for file, value in self.checksums.items()},
        )
        documents.save(document, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Dataset:
        """Read what :meth:`save` wrote.

        Raises:
            DocumentError: missing, or no such document.
        """
        document = documents.load(_DatasetDocument, path)
        folder = Path(path).resolve().parent

        def case(entry: _CaseDocument) -> CaseRef:
            label = None if entry.label is None else folder / entry.label
            images = tuple(folder / image for image in entry.images)
            return CaseRef(entry.name, images, label, entry.group, entry.annotated, entry.choice, entry.segments)

        return cls(
            name=document.name,
            channels=document.channels,
            labels=document.labels,
            cases=tuple(map(case, document.cases)),
            test_cases=tuple(map(case, document.test_cases)),
            description=document.description,
            licence=document.licence,
            source=document.source,
            reference=document.reference,
            checksums={folder / file: value for file, value in document.checksums.items()},
        )


def with_annotated(cases: Iterable[CaseRef], annotated: Mapping[str, Sequence[str]]) -> tuple[CaseRef, ...]:
    """Cases with the classes that each is annotated for, by name of the case.

    Raises:
        DocumentError: there is no case of a name.
    """
    listed = tuple(cases)
    strange = sorted(set(annotated) - {case.name for case in listed})
    if strange:
        raise DocumentError(f"annotated: there is no case {strange[0]!r}; correct its name or remove the entry")
    return tuple(
        replace(case, annotated=tuple(annotated[case.name])) if case.name in annotated else case for case in listed
    )


@dataclass(frozen=True)
class _CaseDocument:
    name: str
    images: tuple[str, ...]
    label: str | None
    group: str | None
    annotated: tuple[str, ...] | None = None
    choice: dicom.SeriesChoice = dicom.ANY
    segments: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class _DatasetDocument:
    version: Literal[1]
    name: str
    description: str
    licence: str
    source: str
    reference: str
    channels: tuple[str, ...]
    labels: LabelSet
    cases: tuple[_CaseDocument, ...]
    test_cases: tuple[_CaseDocument, ...]
    checksums: dict[str, str]
