"""The planes of a series that a mask belongs to, read from its headers for whoever writes a mask.

Everything in this file is in DICOM's LPS millimetres.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from medseg.errors import DataError, FileUnreadableError, GeometryError

# Directions of two frames of one series may differ by so much in any cosine.
_SAME_DIRECTION = 1e-3
_IDENTIFIER = re.compile(r"[0-9.]{1,64}")  # it becomes part of a file's name
# What every object of a study repeats, empty where unknown (type 2 in the standard). Files in the wild leave some out.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """A plane: the file it is in, its number there (None in files of one frame), and the centre of its first pixel."""

    dataset: Dataset = field(repr=False)
    number: int | None
    position_mm: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """The planes of a series, along their normal.

    Attributes:
        frames: planes in ascending order along ``normal``.
        along_row_mm: step (x, y, z) from one column to the next; ``along_column_mm``: from one row to the next.
        rows, columns: pixels of each plane.
    """

    frames: tuple[SourceFrame, ...]
    along_row_mm: npt.NDArray[np.float64]
    along_column_mm: npt.NDArray[np.float64]
    rows: int
    columns: int

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector across the planes."""
        across = np.cross(self.along_row_mm, self.along_column_mm)
        return across / np.linalg.norm(across)

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The header of each file once, in the order of the frames."""
        return tuple({id(frame.dataset): frame.dataset for frame in self.frames}.values())

    @property
    def first(self) -> Dataset:
        """The header that stands for patient, study and series."""
        return self.frames[0].dataset


def read_sources(files: Sequence[str | os.PathLike[str]]) -> SourceSeries:
    """Read the headers of the files of one series, single frames or multi-frame.

    Raises:
        FileUnreadableError: a file is missing or no DICOM.
        DataError: the files are not of one series, or lack an identifier that a mask must refer to.
        GeometryError: a plane has no position or orientation, or planes differ in size or direction.
    """
    if not files:
        raise DataError("a DICOM mask refers to the images it was made from: expected their files, found none")
    datasets = [_header(Path(file)) for file in files]
    for needed in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        found = {str(dataset.get(needed, "")) for dataset in datasets}
        if len(found) > 1:
            raise DataError(f"{files[0]} and others: expected one {needed}, found {len(found)}; give files of one series")
        if found == {""}:
            raise DataError(f"{files[0]}: no {needed}, which a DICOM mask must refer to; write another format")
        if not _IDENTIFIER.fullmatch(found.pop()):
            raise DataError(f"{files[0]}: {needed} is no identifier of up to 64 digits and dots; correct it")
    planes = [plane for dataset, file in zip(datasets, files, strict=True) for plane in _planes(dataset, Path(file))]
    frame, directions, spacing = planes[0]
    size = (int(frame.dataset.Rows), int(frame.dataset.Columns))
    for other, other_directions, other_spacing in planes:
        if np.abs(other_directions - directions).max() > _SAME_DIRECTION or (
            np.abs(other_spacing - spacing).max() > _SAME_DIRECTION * spacing.min()
            or (int(other.dataset.Rows), int(other.dataset.Columns)) != size
        ):
            raise GeometryError(
                f"{files[0]} and others: planes of different directions, spacings or sizes in one series; choose the"
                " images of one stack"
            )
    normal = np.cross(directions[0], directions[1])
    ordered = sorted((plane[0] for plane in planes), key=lambda item: float(item.position_mm @ normal))
    return SourceSeries(tuple(ordered), directions[0] * spacing[1], directions[1] * spacing[0], *size)


def _header(path: Path) -> Dataset:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError, EOFError, ValueError) as error:
        raise FileUnreadableError(f"{path}: expected a DICOM file with a header, found none that can be read") from error
    for needed in ("SOPClassUID", "SOPInstanceUID", "Rows", "Columns"):
        if not dataset.get(needed):
            raise DataError(f"{path}: no {needed}, which a DICOM mask must refer to; write another format")
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    return dataset


def _planes(dataset: Dataset, path: Path) -> list[tuple[SourceFrame, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Each frame, its two unit directions (along a row, along a column), and its spacing (between rows, columns)."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        position = _numbers(dataset, "ImagePositionPatient", 3, path)
        directions = _numbers(dataset, "ImageOrientationPatient", 6, path).reshape(2, 3)
        return [(SourceFrame(dataset, None, position), directions, _numbers(dataset, "PixelSpacing", 2, path))]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    planes = []
    for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):

        def group(name: str, own: Dataset = own) -> Dataset:
            return (own.get(name) or shared.get(name) or [Dataset()])[0]

        position = _numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3, path)
        directions = _numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6, path).reshape(2, 3)
        spacing = _numbers(group("PixelMeasuresSequence"), "PixelSpacing", 2, path)
        planes.append((SourceFrame(dataset, number, position), directions, spacing))
    return planes


def _numbers(dataset: Dataset, name: str, count: int, path: Path) -> npt.NDArray[np.float64]:
    try:
        values = np.array([float(value) for value in dataset.get(name) or ()], dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise GeometryError(
            f"{path}: expected {count} numbers as {name}, found {len(values)}; a mask cannot be placed in the patient:"
            " write another format"
        )
    return values
