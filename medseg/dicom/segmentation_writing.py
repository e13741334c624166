"""Masks out as DICOM SEG, through highdicom.

One binary segment a label, frames without any voxel of it left out. The frames carry the references to the images they
cover; see :mod:`medseg.dicom.placement` for where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as StandardCode
from pydicom.uid import generate_uid

from medseg.dicom.description import Algorithm, Segment
from medseg.dicom.placement import Placement
from medseg.dicom.sources import SourceSeries
from medseg.errors import DataError
from medseg.labels import value_counts
from medseg.terms import Code

MANUFACTURER = "medseg"


def write_segmentation(
    placement: Placement, series: SourceSeries, segments: Sequence[Segment], algorithm: Algorithm, path: Path
) -> None:
    """Write a placed mask as a SEG file of the series' study.

    A mask without any voxel gives one empty frame a segment: DICOM wants at least one.

    Raises:
        DataError: the headers of the series lack what a SEG must repeat.
    """
    # A frame that no segment reaches needs no place in memory; an object must have one frame, though.
    held = np.flatnonzero([bool(np.isin(plane, _values(segments)).any()) for plane in placement.array])
    kept = held if held.size else np.array([len(placement.array) // 2])
    for dataset in series.datasets:
        if "PerFrameFunctionalGroupsSequence" not in dataset and not dataset.get("SliceThickness"):
            dataset.SliceThickness = _decimal(placement.plane_spacing_mm)  # highdicom asks for it; see below
    try:
        image = hd.seg.Segmentation(
            source_images=list(series.datasets),
            pixel_array=_numbered(placement.array[kept], segments),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(segment, algorithm) for segment in segments],
            series_instance_uid=generate_uid(prefix=None),
            series_number=series_number(series, 1),
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm.name[:64],
            software_versions=algorithm.version[:64],
            device_serial_number=algorithm.version[:64],
            content_label="SEGMENTATION",
            content_description=f"Segmentation by {algorithm.name}"[:64],
            series_description=f"Segmentation by {algorithm.name}"[:64],
            pixel_measures=hd.PixelMeasuresSequence(
                placement.pixel_spacing_mm, placement.plane_spacing_mm, placement.plane_spacing_mm
            ),
            plane_orientation=hd.PlaneOrientationSequence(
                hd.CoordinateSystemNames.PATIENT, [*placement.row_direction, *placement.column_direction]
            ),
            plane_positions=[
                hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, position)
                for position in placement.positions_mm[kept]
            ],
            omit_empty_frames=bool(held.size),
        )
    except AttributeError as error:  # its words are "... has no attribute 'PatientName'": a name, never a value
        raise DataError(
            f"series {series.first.SeriesInstanceUID}: no SEG can be made of it ({' '.join(str(error).split())});"
            " write NIfTI"
        ) from error
    except (TypeError, ValueError) as error:  # its words may quote a value, and so a patient
        raise DataError(
            f"series {series.first.SeriesInstanceUID}: its headers hold values that no SEG can repeat; write NIfTI"
        ) from error
    # highdicom repeats the source's spacing where it agrees in the plane; across the planes only positions are to be
    # trusted, and without every frame there a reader depends on this number.
    measures = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = _decimal(placement.plane_spacing_mm)
    measures.SliceThickness = _decimal(placement.plane_spacing_mm)
    image.save_as(path, enforce_file_format=True)


def series_number(series: SourceSeries, kind: int) -> int:
    """A number for a derived series, beside its source's in viewers that sort by number."""
    number = series.first.get("SeriesNumber")
    return (int(number) if number is not None and 0 <= int(number) < 10_000_000 else 90) * 100 + kind


def standard_code(code: Code) -> StandardCode:
    """A code in pydicom's form."""
    return StandardCode(code.value, code.scheme, code.meaning)


def code_item(code: Code) -> Dataset:
    """A code as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def _values(segments: Sequence[Segment]) -> list[int]:
    return sorted({value for segment in segments for value in segment.values})


def _numbered(array: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """Segment numbers (frames, rows, columns), or for overlapping regions one binary channel each on a last axis."""
    covered = [value for segment in segments for value in segment.values]
    if len(set(covered)) < len(covered):
        return np.stack([np.isin(array, segment.values).astype(np.uint8) for segment in segments], axis=-1)
    numbered = np.zeros(array.shape, dtype=np.uint8 if len(segments) < 256 else np.uint16)
    present = value_counts(array)
    for segment in segments:
        for value in segment.values:
            if value in present:
                numbered[array == value] = segment.number
    return numbered


def _described(segment: Segment, algorithm: Algorithm) -> hd.seg.SegmentDescription:
    described = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name,
        segmented_property_category=standard_code(segment.category),
        segmented_property_type=standard_code(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name[:64], version=algorithm.version[:64], family=codes.DCM.ArtificialIntelligence
        ),
        tracking_uid=generate_uid(prefix=None),
        tracking_id=segment.name,
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour),
    )
    if segment.side is not None:
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            code_item(segment.side)
        ]
    return described


def _decimal(value: float) -> str:
    """A number as DICOM's decimal string: at most 16 characters."""
    return f"{value:.10g}"[:16]
