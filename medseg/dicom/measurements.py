"""What a mask measures: a table of volumes, and the same as a DICOM Structured Report (TID 1500) about its SEG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import pandas as pd
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medseg import atomic
from medseg.dicom.description import Algorithm, Segment
from medseg.dicom.segmentation_writing import MANUFACTURER, series_number, standard_code
from medseg.dicom.sources import read_sources
from medseg.labels import value_counts
from medseg.volume import LabelVolume

_MILLILITRE = pydicom.sr.coding.Code("ml", "UCUM", "milliliter")


def measure(mask: LabelVolume, segments: Sequence[Segment]) -> pd.DataFrame:
    """A row a segment: label, code, scheme, meaning, voxels, volume_ml. Absent labels have a volume of 0."""
    counts = value_counts(mask.array)
    voxels = [sum(counts.get(value, 0) for value in segment.values) for segment in segments]
    return pd.DataFrame(
        {
            "label": [segment.name for segment in segments],
            "code": [segment.type.value for segment in segments],
            "scheme": [segment.type.scheme for segment in segments],
            "meaning": [
                segment.type.meaning if segment.side is None else f"{segment.side.meaning} {segment.type.meaning}"
                for segment in segments
            ],
            "voxels": voxels,
            "volume_ml": [count * mask.geometry.voxel_volume_ml for count in voxels],
        }
    )


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write measurements as CSV, whole or not at all.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    with atomic.replacing_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def write_report(
    mask: LabelVolume,
    segments: Sequence[Segment],
    segmentation: str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    algorithm: Algorithm,
) -> None:
    """Write the volumes of a mask as a Structured Report that refers to the segments of a written SEG file.

    Args:
        segmentation: the SEG file of this mask.
        files: the series the mask belongs to.

    Raises:
        DataError: the series cannot be referred to.
        StorageError: the folder cannot be written, or no space is left.
    """
    series = read_sources(files)
    seg = pydicom.dcmread(segmentation, stop_before_pixels=True)
    table = measure(mask, segments)
    tracking = {int(item.SegmentNumber): item for item in seg.SegmentSequence}
    groups = [
        hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(
                uid=tracking[segment.number].TrackingUID, identifier=segment.name
            ),
            referenced_segment=hd.sr.ReferencedSegment(
                sop_class_uid=seg.SOPClassUID,
                sop_instance_uid=seg.SOPInstanceUID,
                segment_number=segment.number,
                source_series=hd.sr.SourceSeriesForSegmentation(series.first.SeriesInstanceUID),
            ),
            finding_type=_finding(segment),
            algorithm_id=hd.sr.AlgorithmIdentification(name=algorithm.name[:64], version=algorithm.version[:64]),
            measurements=[hd.sr.Measurement(name=codes.SCT.Volume, value=float(volume), unit=_MILLILITRE)],
        )
        for segment, volume in zip(segments, table["volume_ml"], strict=True)
    ]
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(prefix=None), manufacturer_name=MANUFACTURER, model_name=algorithm.name[:64]
        ),
    )
    report = hd.sr.Comprehensive3DSR(
        evidence=[seg, *series.datasets],
        content=hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=codes.SCT.ImagingProcedure,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        ),
        series_instance_uid=generate_uid(prefix=None),
        series_number=series_number(series, 3),
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        series_description=f"Volumes by {algorithm.name}"[:64],
        is_complete=True,
    )
    with atomic.replacing_file(path) as temporary:
        report.save_as(temporary, enforce_file_format=True)


def _finding(segment: Segment) -> hd.sr.CodedConcept:
    concept = hd.sr.CodedConcept.from_code(standard_code(segment.type))
    if segment.side is not None:
        return hd.sr.CodedConcept(
            segment.type.value, segment.type.scheme, f"{segment.side.meaning} {segment.type.meaning}"[:64]
        )
    return concept
