"""RT structure sets as masks on a grid."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medseg.dicom.contours import flat_axis, rasterize
from medseg.dicom.files import quiet_pydicom, read_dataset
from medseg.dicom.frames import number, numbers, text
from medseg.dicom.geometry import to_lps
from medseg.dicom.masks import Layers, MaskSet, Segment, code_of, smallest_dtype
from medseg.dicom.series import Series
from medseg.errors import FileUnreadableError, GeometryError
from medseg.volume import Geometry

_ALGORITHMS = {"MANUAL": "MANUAL", "SEMIAUTOMATIC": "SEMIAUTOMATIC", "AUTOMATIC": "AUTOMATIC"}
_LISTED = 5


def read_structures(
    path: str | os.PathLike[str],
    geometry: Geometry,
    *,
    series: Series | None = None,
    names: Collection[str] | None = None,
) -> MaskSet:
    """Draw the structures of an RT structure set on a grid.

    A voxel belongs to a structure if its centre lies inside an odd number of the contours of its plane. Contours
    between slices count for the nearest slices (see :func:`medseg.dicom.contours.rasterize`). Points and open
    contours enclose nothing and are left aside with a note.

    Args:
        geometry: the grid of the scan.
        series: the scan, to check that the contours are meant for it.
        names: structures to draw, in any case of letters; the others are left out. By default all.

    Raises:
        FileUnreadableError: damaged, or not a structure set.
        GeometryError: contours are drawn in another frame of reference than that of ``series`` and refer to none of
            its images, lie in no plane of the grid, or all lie outside it.
    """
    file = Path(path)
    with quiet_pydicom():
        dataset = read_dataset(file)
        if "StructureSetROISequence" not in dataset:
            raise FileUnreadableError(f"{path}: is no RT structure set with structures; give an RTSTRUCT object")
        notes: list[str] = []
        if series is not None:
            notes += _reference_notes(dataset, series, str(path))
        contours = {
            int(number(item, "ReferencedROINumber") or 0): item for item in dataset.get("ROIContourSequence") or []
        }
        observations = {
            int(number(item, "ReferencedROINumber") or 0): item
            for item in dataset.get("RTROIObservationsSequence") or []
        }
        segments = [_segment(item, observations) for item in dataset.StructureSetROISequence]
        notes += [
            f"contours of structure {lost}, which is not described, are left aside"
            for lost in sorted(set(contours) - {segment.number for segment in segments})
        ]
        if names is not None:
            wanted = {_folded(name) for name in names}
            segments = [segment for segment in segments if _folded(segment.name) in wanted]
        layers = Layers(geometry, smallest_dtype(segment.number for segment in segments))
        outside = []
        for segment in segments:
            mask = _mask(contours.get(segment.number), segment, geometry, notes, str(path))
            if mask is None:
                outside.append(segment.name)
            else:
                layers.add(segment, mask)
        if outside and not any(names for names in layers.names):
            raise GeometryError(
                f"{path}: all contours lie outside the scan ({', '.join(outside[:_LISTED])}): {geometry};"
                " give the scan that they were drawn on"
            )
        frames = _frames_of_reference(dataset)
        referenced = _referenced(dataset)
    notes += [f"{name!r} lies outside the scan" for name in outside]
    return MaskSet(
        tuple(segments),
        layers.volumes(),
        frame_of_reference_uid=frames[0] if len(frames) == 1 else "",
        series_uid=referenced[0][0] if referenced else "",
        notes=tuple(notes),
    )


def _mask(
    item: Dataset | None, segment: Segment, geometry: Geometry, notes: list[str], where: str
) -> np.ndarray | None:
    """One structure as (Z, Y, X) bool; None where it has contours and all of them lie outside the grid."""
    mask = np.zeros(geometry.shape, dtype=bool)
    by_axis: dict[int, list[np.ndarray]] = {}
    open_contours, broken = 0, 0
    for contour in (item.get("ContourSequence") if item is not None else None) or []:
        kind = text(contour, "ContourGeometricType")
        values = numbers(contour.get("ContourData"))
        if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR") or len(values) < 9:
            open_contours += 1
            continue
        if len(values) % 3:
            broken += 1
            continue
        points = geometry.to_index(to_lps(np.array(values).reshape(-1, 3)))
        axis = flat_axis(points)
        if axis is None:
            raise GeometryError(
                f"{where}: a contour of {segment.name!r} lies in no plane of the scan: {geometry};"
                " give the scan that it was drawn on"
            )
        by_axis.setdefault(axis, []).append(points)
    if open_contours:
        notes.append(
            f"{segment.name!r}: {open_contours} points or open contours, which enclose nothing, are left aside"
        )
    if broken:
        raise GeometryError(f"{where}: {broken} contours of {segment.name!r} have incomplete points; export it again")
    if len(by_axis) > 1:
        raise GeometryError(
            f"{where}: contours of {segment.name!r} lie in planes of several directions; export it again"
        )
    for axis, found in by_axis.items():
        mask, between = rasterize(found, axis, geometry.shape)
        if between:
            notes.append(
                f"{segment.name!r}: {between} planes of contours lie between slices; the nearest slices are used"
            )
        low = np.min([points.min(axis=0) for points in found], axis=0)
        high = np.max([points.max(axis=0) for points in found], axis=0)
        beyond = np.array(geometry.shape) - 0.5
        if (low > beyond).any() or (high < -0.5).any():
            return None
        if (low < -0.5 - 1e-6).any() or (high > beyond + 1e-6).any():
            notes.append(f"{segment.name!r} reaches beyond the scan and is cut off there")
    return mask


def _segment(item: Dataset, observations: dict[int, Dataset]) -> Segment:
    value = int(number(item, "ROINumber") or 0)
    observation = observations.get(value)
    code = code_of(observation.get("RTROIIdentificationCodeSequence")) if observation is not None else None
    return Segment(
        number=value,
        name=text(item, "ROIName") or f"structure {value}",
        type=code,
        algorithm=_ALGORITHMS.get(text(item, "ROIGenerationAlgorithm"), ""),
    )


def _frames_of_reference(dataset: Dataset) -> list[str]:
    """Frames of reference in which structures are drawn."""
    found = [text(item, "ReferencedFrameOfReferenceUID") for item in dataset.StructureSetROISequence]
    found += [text(item, "FrameOfReferenceUID") for item in dataset.get("ReferencedFrameOfReferenceSequence") or []]
    return list(dict.fromkeys(filter(None, found)))


def _referenced(dataset: Dataset) -> list[tuple[str, set[str]]]:
    """Series that the object refers to, each with the instances that it names."""
    found = []
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                images = series.get("ContourImageSequence") or []
                found.append((text(series, "SeriesInstanceUID"), {text(i, "ReferencedSOPInstanceUID") for i in images}))
    return found


def _reference_notes(dataset: Dataset, series: Series, where: str) -> list[str]:
    """What the references say that does not fit the scan.

    Raises:
        GeometryError: neither frame of reference nor series nor any image is the scan's.
    """
    referenced = _referenced(dataset)
    named = set().union(*(images for _, images in referenced)) if referenced else set()
    for item in dataset.get("ROIContourSequence") or []:
        for contour in item.get("ContourSequence") or []:
            named |= {text(image, "ReferencedSOPInstanceUID") for image in contour.get("ContourImageSequence") or []}
    named.discard("")
    here = {header.sop_instance_uid for header in series.headers}
    frames = _frames_of_reference(dataset)
    same_frame = bool(series.frame_of_reference_uid) and series.frame_of_reference_uid in frames
    if not same_frame and not (named & here) and series.uid not in {uid for uid, _ in referenced}:
        raise GeometryError(
            f"{where}: its contours are drawn in another frame of reference than that of {series} and refer to none of"
            " its images; give the scan that they were drawn on"
        )
    notes = []
    if frames and not same_frame:
        notes.append(
            "its frame of reference is not that of the scan, whose images it names; coordinates are used as is"
        )
    if dangling := named - here:
        notes.append(f"{len(dangling)} of {len(named)} images that it refers to are not in the scan; contours are used")
    return notes


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()
