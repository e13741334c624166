"""What a mask measures: a table of volumes, and the same as a DICOM Structured Report (TID 1500) about its SEG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import pandas as pd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as StandardCode
from pydicom.uid import generate_uid

from medseg import atomic
from medseg.dicom.description import TISSUE, Algorithm, Segment
from medseg.dicom.files import quiet_pydicom, read_dataset
from medseg.dicom.segmentation_writing import MANUFACTURER, series_number, standard_code
from medseg.dicom.series import Series
from medseg.dicom.sources import SourceSeries, read_sources
from medseg.errors import DataError
from medseg.labels import value_counts
from medseg.volume import LabelVolume

_MILLILITRE = StandardCode("ml", "UCUM", "milliliter")


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


def has_codes(segments: Sequence[Segment]) -> bool:
    """Whether any of the segments says in a code what it is."""
    return any(segment.type != TISSUE for segment in segments)


def write_report(
    mask: LabelVolume,
    segments: Sequence[Segment],
    segmentation: str | os.PathLike[str],
    series: Series,
    path: str | os.PathLike[str],
    *,
    algorithm: Algorithm,
) -> None:
    """Write the volumes of a mask as a Structured Report that refers to the segments of a written SEG file.

    Args:
        segmentation: the SEG file of this mask.
        series: the scan that the mask belongs to.

    Raises:
        DataError: the series cannot be referred to.
        StorageError: the folder cannot be written, or no space is left.
    """
    with quiet_pydicom():
        sources = read_sources(series)
        seg = read_dataset(Path(segmentation), pixels=False)
        try:
            report = _report(measure(mask, segments), segments, seg, sources, algorithm)
        except (AttributeError, TypeError, ValueError) as error:  # its words may quote a value, and so a patient
            raise DataError(f"{series}: its headers hold values that no report can repeat; write NIfTI") from error
        with atomic.replacing_file(path) as temporary:
            report.save_as(temporary, enforce_file_format=True)


def _report(
    table: pd.DataFrame, segments: Sequence[Segment], seg: Dataset, sources: SourceSeries, algorithm: Algorithm
) -> hd.sr.Comprehensive3DSR:
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(prefix=None), manufacturer_name=MANUFACTURER, model_name=algorithm.name[:64]
        ),
    )
    groups = [
        _group(segment, float(volume), seg, sources, algorithm)
        for segment, volume in zip(segments, table["volume_ml"], strict=True)
    ]
    return hd.sr.Comprehensive3DSR(
        evidence=[seg, *sources.datasets],
        content=hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=codes.SCT.ImagingProcedure,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        ),
        series_instance_uid=generate_uid(prefix=None),
        series_number=series_number(sources, 3),
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        series_description=f"Volumes by {algorithm.name}"[:64],
        is_complete=True,
    )


def _group(
    segment: Segment, volume_ml: float, seg: Dataset, sources: SourceSeries, algorithm: Algorithm
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    item = next(item for item in seg.SegmentSequence if int(item.SegmentNumber) == segment.number)
    kind = standard_code(segment.type)
    side = None if segment.side is None else standard_code(segment.side)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=item.TrackingUID, identifier=segment.name),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=segment.number,
            source_series=hd.sr.SourceSeriesForSegmentation(sources.first.SeriesInstanceUID),
        ),
        finding_type=kind,
        finding_sites=None if side is None else [hd.sr.FindingSite(anatomic_location=kind, laterality=side)],
        algorithm_id=hd.sr.AlgorithmIdentification(name=algorithm.name[:64], version=algorithm.version[:64]),
        measurements=[hd.sr.Measurement(name=codes.SCT.Volume, value=volume_ml, unit=_MILLILITRE)],
    )
