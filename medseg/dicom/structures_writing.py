"""Masks out as RTSTRUCT: each label a region of interest, outlined in the planes of its series."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

from medseg.dicom.description import ANATOMICAL_STRUCTURE, Algorithm, Segment
from medseg.dicom.outlines import outlines
from medseg.dicom.placement import Placement
from medseg.dicom.segmentation_writing import MANUFACTURER, code_item, series_number
from medseg.dicom.sources import SourceFrame, SourceSeries
from medseg.errors import GeometryError

_DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # what Referenced Study Sequence names as its class
_REPEATED = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
)


def write_structures(
    placement: Placement, series: SourceSeries, segments: Sequence[Segment], algorithm: Algorithm, path: Path
) -> None:
    """Write a placed mask as an RTSTRUCT file of the series' study.

    A label without any voxel is a region of interest without contours.

    Raises:
        GeometryError: the mask does not lie in the planes of the series, which contours must.
    """
    if placement.sources is None:
        raise GeometryError(
            f"series {series.first.SeriesInstanceUID}: contours lie in the planes of the images, and this mask has"
            " planes of its own (the series was tilted, uneven or resampled); write SEG or NIfTI instead"
        )
    now = datetime.datetime.now()
    dataset = Dataset()
    for name in _REPEATED:
        if name in series.first:
            setattr(dataset, name, series.first[name].value)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid(prefix=None)
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = _date(now), _time(now)
    dataset.Modality = "RTSTRUCT"
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = algorithm.name[:64]
    dataset.SoftwareVersions = algorithm.version[:64]
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.SeriesNumber = series_number(series, 2)
    dataset.SeriesDescription = f"Structures by {algorithm.name}"[:64]
    dataset.OperatorsName = ""
    dataset.InstanceNumber = 1
    dataset.PositionReferenceIndicator = series.first.get("PositionReferenceIndicator", "")
    dataset.StructureSetLabel = algorithm.name[:16].strip()
    dataset.StructureSetDate, dataset.StructureSetTime = _date(now), _time(now)
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_referenced(series)]
    dataset.StructureSetROISequence = [_region(segment, series, algorithm) for segment in segments]
    dataset.ROIContourSequence = [_contours(segment, placement, placement.sources) for segment in segments]
    dataset.RTROIObservationsSequence = [_observation(segment) for segment in segments]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    # Only the implicit encoding gives a decimal string more than 65534 bytes, which a long contour needs.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def _referenced(series: SourceSeries) -> Dataset:
    frame_of_reference, study, own = Dataset(), Dataset(), Dataset()
    own.SeriesInstanceUID = series.first.SeriesInstanceUID
    own.ContourImageSequence = [_image(dataset) for dataset in series.datasets]
    study.ReferencedSOPClassUID = _DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = series.first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [own]
    frame_of_reference.FrameOfReferenceUID = series.first.FrameOfReferenceUID
    frame_of_reference.RTReferencedStudySequence = [study]
    return frame_of_reference


def _image(dataset: Dataset, number: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = dataset.SOPClassUID
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    if number is not None:
        item.ReferencedFrameNumber = number
    return item


def _region(segment: Segment, series: SourceSeries, algorithm: Algorithm) -> Dataset:
    item = Dataset()
    item.ROINumber = segment.number
    item.ReferencedFrameOfReferenceUID = series.first.FrameOfReferenceUID
    item.ROIName = segment.name
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{algorithm.name} {algorithm.version}"[:64]
    return item


def _observation(segment: Segment) -> Dataset:
    item = Dataset()
    item.ObservationNumber = segment.number
    item.ReferencedROINumber = segment.number
    code = code_item(segment.type)
    if segment.side is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [code_item(segment.side)]
    item.RTROIIdentificationCodeSequence = [code]
    item.RTROIInterpretedType = "ORGAN" if segment.category == ANATOMICAL_STRUCTURE else ""
    item.ROIInterpreter = ""
    return item


def _contours(segment: Segment, placement: Placement, sources: Sequence[SourceFrame]) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(segment.colour)
    contours = list(_in_planes(segment, placement, sources))
    if contours:
        item.ContourSequence = contours
    item.ReferencedROINumber = segment.number
    return item


def _in_planes(segment: Segment, placement: Placement, sources: Sequence[SourceFrame]) -> Iterator[Dataset]:
    down = placement.column_direction * placement.pixel_spacing_mm[0]
    right = placement.row_direction * placement.pixel_spacing_mm[1]
    for plane, position, source in zip(placement.array, placement.positions_mm, sources, strict=True):
        mask = np.isin(plane, segment.values)
        if not mask.any():
            continue
        for polygon in outlines(mask):
            points = position + polygon[:, :1] * down + polygon[:, 1:] * right
            contour = Dataset()
            contour.ContourImageSequence = [_image(source.dataset, source.number)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            # A ten-thousandth of a millimetre fits the 16 characters of a decimal string up to ten kilometres.
            contour.ContourData = [f"{value:.4f}" for value in points.ravel().tolist()]
            yield contour


def _date(moment: datetime.datetime) -> str:
    return moment.strftime("%Y%m%d")


def _time(moment: datetime.datetime) -> str:
    return moment.strftime("%H%M%S")
