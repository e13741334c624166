"""The planes of a series that a mask belongs to, for whoever writes a mask. Everything here is in LPS millimetres."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg.dicom.files import read_dataset
from medseg.dicom.geometry import directions
from medseg.dicom.series import Series
from medseg.errors import DataError, FileUnreadableError, GeometryError

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
        frames: planes in ascending order along ``normal``; none of a mosaic, whose planes cannot be referred to.
        datasets: the header of each file once.
        along_row_mm: step (x, y, z) from one column to the next; ``along_column_mm``: from one row to the next.
        rows, columns: pixels of each plane.
    """

    frames: tuple[SourceFrame, ...]
    datasets: tuple[Dataset, ...] = field(repr=False)
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
    def first(self) -> Dataset:
        """The header that stands for patient, study and series."""
        return self.datasets[0]


def read_sources(series: Series) -> SourceSeries:
    """Read the whole headers of a series' files. To be called inside :func:`medseg.dicom.files.quiet_pydicom`.

    Raises:
        FileUnreadableError: a file is gone or damaged by now.
        DataError: the files lack an identifier that a mask must refer to.
        GeometryError: the planes have no place in the patient.
    """
    for name, found in (
        ("StudyInstanceUID", series.study_uid),
        ("SeriesInstanceUID", series.uid),
        ("FrameOfReferenceUID", series.frame_of_reference_uid),
    ):
        if not found:
            raise DataError(f"{series}: no {name}, which a DICOM mask must refer to; write another format")
        if not _IDENTIFIER.fullmatch(found):
            raise DataError(f"{series}: {name} is no identifier of up to 64 digits and dots; correct it")
    try:
        datasets = {header.path: read_dataset(header.path, pixels=False) for header in series.headers}
    except OSError as error:
        raise FileUnreadableError(f"{series}: cannot be read any more: {error.strerror or error}") from error
    for dataset in datasets.values():
        for name in ("SOPClassUID", "SOPInstanceUID"):
            if not dataset.get(name):
                raise DataError(f"{series}: a file has no {name}, which a mask must refer to; write another format")
        if "SpecificCharacterSet" in dataset and not dataset.SpecificCharacterSet:
            del dataset.SpecificCharacterSet  # empty means the default, which an object says by leaving it out
        for name in _MAY_BE_EMPTY:
            if name not in dataset:
                setattr(dataset, name, "")
    first = series.planes[0] if series.planes else None
    if first is None or first.position is None or first.orientation is None or first.spacing_mm is None:
        raise GeometryError(f"{series}: its planes have no place in the patient; write a mask of another format")
    along_row, along_column = directions(first.orientation)
    frames = [
        SourceFrame(
            datasets[plane.path],
            plane.frame + 1 if "PerFrameFunctionalGroupsSequence" in datasets[plane.path] else None,
            np.array(plane.position, dtype=np.float64),
        )
        for plane in series.planes
        if not any(header.mosaic for header in series.headers)
    ]
    return SourceSeries(
        tuple(frames),
        tuple(datasets.values()),
        along_row * first.spacing_mm[1],
        along_column * first.spacing_mm[0],
        *series.plane_shape,
    )
