"""Masks of DICOM scans as SEG or RTSTRUCT: their names, their measurements, and what they say of the model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from medseg import __version__, atomic, dicom, io
from medseg.dicom.description import Algorithm, describe
from medseg.dicom.mask_writing import MaskFormat, output_name, write_masks
from medseg.dicom.measurements import has_codes, measure, write_report
from medseg.errors import DataError, UsageError
from medseg.io import formats
from medseg.planning.plan import Plan
from medseg.prediction.predictor import Predictor
from medseg.volume import LabelVolume

MEASUREMENTS_FILE = "measurements.csv"


def source_series(image: io.Source, case: str) -> dicom.Series:
    """The series that an image is, or its first part.

    Raises:
        UsageError: it is no DICOM series, to which alone a SEG or RTSTRUCT can refer.
    """
    if isinstance(image, dicom.Request):
        image = image.resolve()[0]
    if not isinstance(image, dicom.Selection):
        path = Path(image)
        if path.is_file() and not formats.is_dicom(path) and not dicom.looks_like_dicom(path):
            raise UsageError(
                f"{case}: SEG and RTSTRUCT refer to DICOM images, found {path.name}; give the DICOM series, or leave"
                " out --format"
            )
        return dicom.find_volume(path)[0]
    return image.parts[0]


def mask_path(folder: Path, image: io.Source, case: str, format: MaskFormat) -> Path:
    """Where the mask of a series goes: ``FOLDER/STUDY_UID/SERIES_UID.seg.dcm``.

    Raises:
        UsageError: the image is no DICOM series.
    """
    return folder / output_name(source_series(image, case), format)


def write(mask: LabelVolume, predictor: Predictor, image: io.Source, path: Path, format: MaskFormat) -> None:
    """Write a mask that is read back before it appears; beside a SEG a report of volumes, if labels have codes.

    Raises:
        UsageError: the image is no DICOM series.
        LabelError, DataError, SelfCheckError, StorageError: as for :func:`medseg.dicom.mask_writing.write_masks`.
    """
    labels, series, algorithm = predictor.plan.labels, source_series(image, path.name), algorithm_of(predictor)
    write_masks(mask, labels, series, path, format=format, algorithm=algorithm)
    segments = describe(labels)
    if format == "seg" and has_codes(segments):
        write_report(mask, segments, path, series, report_path(path), algorithm=algorithm)


def algorithm_of(predictor: Predictor) -> Algorithm:
    """What masks say of the model: dataset and configurations; version of this package and beginning of its digest."""
    names = ", ".join(member.configuration.name for member in predictor.members)
    digest = hashlib.sha256("".join(member.model.digest for member in predictor.members).encode()).hexdigest()
    return Algorithm(f"{predictor.plan.dataset_name} {names}", f"{__version__} {digest[:12]}")


def report_path(mask: Path) -> Path:
    """Where the report of a SEG goes: ``X.sr.dcm`` beside ``X.seg.dcm``."""
    return mask.with_name(f"{mask.name.removesuffix('.dcm').removesuffix('.seg')}.sr.dcm")


def add_volumes(mask: LabelVolume, plan: Plan, case: str, path: Path) -> None:
    """Put the volumes of a case into a table (CSV), in place of those that it has of the same case.

    Raises:
        DataError: the file there is no such table.
        StorageError: the folder cannot be written, or no space is left.
    """
    table = measure(mask, describe(plan.labels))
    table.insert(0, "case", case)
    if path.exists():
        try:
            before = pd.read_csv(path, dtype={"case": str, "code": str})
            table = pd.concat([before[before["case"] != case], table])
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: is no table of volumes; move it away") from error
    with atomic.replacing_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
