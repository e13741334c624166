"""Every SEG and RTSTRUCT is read back, by arithmetic of its own, before it gets its name.

Nothing here is shared with the writers: frames and contours go from the file's numbers to millimetres by the equations
of DICOM PS3.3 C.7.6.2.1.1, and from there to the mask that was meant. A file that says anything else (another place,
another size, the other side of the body, another patient) is refused.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from skimage.measure import grid_points_in_poly

from medseg.dicom.description import Segment
from medseg.errors import SelfCheckError
from medseg.volume import LabelVolume

CENTROID_WITHIN_VOXELS = 0.5
VOLUME_WITHIN = {"SEG": 0.005, "RTSTRUCT": 0.03}
# A contour lies in the plane of its image within so many mm: coordinates are written to 1e-4 mm.
_IN_PLANE_MM = 0.01
_IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID")

Points = npt.NDArray[np.float64]  # (N, 3) LPS mm


def check_segmentation(
    path: Path, mask: LabelVolume, segments: Sequence[Segment], files: Sequence[str | os.PathLike[str]]
) -> None:
    """Raise unless a SEG file holds this mask, in the study of these files.

    Raises:
        SelfCheckError: names the segment, what was meant, and what the file says.
    """
    dataset = pydicom.dcmread(path)
    _check_identity(dataset, files, "SEG")
    _check_names(
        [(int(item.SegmentNumber), str(item.SegmentLabel)) for item in dataset.SegmentSequence], segments, "SEG"
    )
    found: dict[int, _Found] = {segment.number: _Found() for segment in segments}
    by_number = {segment.number: segment for segment in segments}
    for number, points, volume_ml in _frames(dataset):
        found[number].add(points, volume_ml * len(points), points.sum(axis=0) * volume_ml, mask, by_number[number])
    _compare(mask, segments, found, "SEG")


def check_structures(
    path: Path, mask: LabelVolume, segments: Sequence[Segment], files: Sequence[str | os.PathLike[str]]
) -> None:
    """Raise unless an RTSTRUCT file holds this mask, in the study of these files.

    Raises:
        SelfCheckError: names the region of interest, what was meant, and what the file says.
    """
    dataset = pydicom.dcmread(path)
    _check_identity(dataset, files, "RTSTRUCT")
    regions = [(int(item.ROINumber), str(item.ROIName)) for item in dataset.StructureSetROISequence]
    _check_names(regions, segments, "RTSTRUCT")
    planes = _image_planes(files)
    gap_mm = _gap_mm(planes, mask)
    found: dict[int, _Found] = {segment.number: _Found() for segment in segments}
    by_number = {segment.number: segment for segment in segments}
    for region in dataset.ROIContourSequence:
        number = int(region.ReferencedROINumber)
        for contour in region.get("ContourSequence") or ():
            corners = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
            plane = _plane_of(contour, planes)
            off_mm = float(np.abs((corners - plane.position) @ plane.normal).max())
            if off_mm > _IN_PLANE_MM:
                raise _refusal(
                    "RTSTRUCT", by_number[number].name, "contours in the planes of their images", f"{off_mm:.3g} mm off"
                )
            area_mm2, centre = _area(corners, plane.normal)
            volume_ml = area_mm2 * gap_mm / 1000
            found[number].add(plane.inside(corners), volume_ml, centre * volume_ml, mask, by_number[number])
    _compare(mask, segments, found, "RTSTRUCT")


@dataclass(eq=False)
class _Found:
    """What a file says of one segment: volume, volume times centre, voxel centres inside, and how many are meant."""

    volume_ml: float = 0.0
    moment: Points = field(default_factory=lambda: np.zeros(3))
    voxels: int = 0
    meant: int = 0

    def add(self, points: Points, volume_ml: float, moment: Points, mask: LabelVolume, segment: Segment) -> None:
        self.volume_ml += volume_ml
        self.moment = self.moment + moment
        self.voxels += len(points)
        index = np.rint(mask.geometry.to_index(points * (-1.0, -1.0, 1.0))).astype(np.int64)
        index = index[((index >= 0) & (index < mask.array.shape)).all(axis=1)]
        self.meant += int(np.isin(mask.array[tuple(index.T)], segment.values).sum())


def _compare(mask: LabelVolume, segments: Sequence[Segment], found: dict[int, _Found], kind: str) -> None:
    tolerance = VOLUME_WITHIN[kind]
    middle_mm = float(mask.geometry.to_mm((np.array(mask.geometry.shape) - 1) / 2)[0])
    step_mm = float(np.abs(mask.geometry.affine[0, :3]).max())
    for segment in segments:
        count, centre_index = _centre(mask, segment.values)
        expected_ml = count * mask.geometry.voxel_volume_ml
        there = found[segment.number]
        if abs(there.volume_ml - expected_ml) > tolerance * expected_ml:
            raise _refusal(kind, segment.name, f"{expected_ml:.4g} ml", f"{there.volume_ml:.4g} ml")
        if not count:
            continue
        centre_mm = there.moment / there.volume_ml * (-1.0, -1.0, 1.0)
        apart = float(np.abs(mask.geometry.to_index(centre_mm) - centre_index).max())
        side, side_there = float(mask.geometry.to_mm(centre_index)[0]) - middle_mm, float(centre_mm[0]) - middle_mm
        if side * side_there < 0 and max(abs(side), abs(side_there)) > CENTROID_WITHIN_VOXELS * step_mm:
            raise _refusal(kind, segment.name, _side(side), f"{_side(side_there)}: it is mirrored")
        if apart > CENTROID_WITHIN_VOXELS:
            raise _refusal(kind, segment.name, "the same centroid within half a voxel", f"{apart:.3g} voxels off")
        if there.meant < (1 - tolerance) * max(count, there.voxels):
            raise _refusal(kind, segment.name, f"{count} voxels in place", f"{there.meant} of {there.voxels}")


def _side(offset_mm: float) -> str:
    return f"{abs(offset_mm):.1f} mm to the {'right' if offset_mm > 0 else 'left'} of the middle"


def _centre(mask: LabelVolume, values: Iterable[int]) -> tuple[int, Points]:
    """Voxels of a mask with these values, and the mean of their indices."""
    count, total = 0, np.zeros(3)
    for z, plane in enumerate(mask.array):
        y, x = np.nonzero(np.isin(plane, list(values)))
        count += len(y)
        total += (z * len(y), y.sum(), x.sum())
    return count, total / max(count, 1)


def _refusal(kind: str, name: str, expected: str, found: str) -> SelfCheckError:
    return SelfCheckError(
        f"the {kind} read back wrong and was not released: {name}: expected {expected}, found {found}; write NIfTI and"
        " report this"
    )


def _check_identity(dataset: Dataset, files: Sequence[str | os.PathLike[str]], kind: str) -> None:
    source = pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=list(_IDENTITY))
    for name in _IDENTITY:
        if str(dataset.get(name) or "") != str(source.get(name) or ""):  # never in the message: it names a person
            raise _refusal(kind, name, "that of the images", "another")


def _check_names(found: list[tuple[int, str]], segments: Sequence[Segment], kind: str) -> None:
    expected = [(segment.number, segment.name) for segment in segments]
    if found != expected:
        raise _refusal(kind, "names", str(expected), str(found))


# SEG: bits of frames


def _frames(dataset: Dataset) -> Iterator[tuple[int, Points, float]]:
    """Each frame's segment, the LPS mm of its true pixels, and the volume of a pixel in ml."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    between_rows, between_columns = (float(value) for value in measures.PixelSpacing)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64)
    along_row, along_column = cosines[:3], cosines[3:]
    gap_mm = float(measures.SpacingBetweenSlices)
    positions = np.array(
        [
            _group(item, shared, "PlanePositionSequence").ImagePositionPatient
            for item in dataset.PerFrameFunctionalGroupsSequence
        ],
        dtype=np.float64,
    )
    along = positions @ np.cross(along_row, along_column)
    steps = (along - along.min()) / gap_mm
    if np.abs(steps - np.rint(steps)).max() > CENTROID_WITHIN_VOXELS / 5:
        raise _refusal("SEG", "frames", f"positions {gap_mm:.4g} mm apart", "others between them")
    pixels = int(dataset.Rows) * int(dataset.Columns)
    stored = np.frombuffer(dataset.PixelData, dtype=np.uint8)
    for frame, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        first = frame * pixels
        bits = np.unpackbits(stored[first // 8 : (first + pixels + 7) // 8], bitorder="little")
        row, column = np.divmod(np.flatnonzero(bits[first % 8 : first % 8 + pixels]), int(dataset.Columns))
        points = (
            positions[frame]
            + (row * between_rows)[:, None] * along_column
            + (column * between_columns)[:, None] * along_row
        )
        number = int(_group(groups, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        yield number, points, between_rows * between_columns * gap_mm / 1000


def _group(own: Dataset, shared: Dataset, name: str) -> Dataset:
    """A functional group of a frame, or of all frames: what is the same for all may stand in either place."""
    return (own.get(name) or shared[name].value)[0]


# RTSTRUCT: contours in the planes of images


@dataclass(frozen=True, eq=False)
class _Plane:
    """An image's plane, straight from its header."""

    position: Points
    along_row: Points
    along_column: Points
    between_rows: float
    between_columns: float
    rows: int
    columns: int

    @property
    def normal(self) -> Points:
        return np.cross(self.along_row, self.along_column)

    def inside(self, corners: Points) -> Points:
        """LPS mm of the pixel centres inside a contour, by the even-odd rule."""
        row = (corners - self.position) @ self.along_column / self.between_rows
        column = (corners - self.position) @ self.along_row / self.between_columns
        top, left = max(int(np.floor(row.min())), 0), max(int(np.floor(column.min())), 0)
        bottom = min(int(np.ceil(row.max())), self.rows - 1)
        right = min(int(np.ceil(column.max())), self.columns - 1)
        if bottom < top or right < left:
            return np.empty((0, 3))
        shape = (bottom - top + 1, right - left + 1)
        rows, columns = np.nonzero(grid_points_in_poly(shape, np.stack([row - top, column - left], axis=1)))
        return (
            self.position
            + ((rows + top) * self.between_rows)[:, None] * self.along_column
            + ((columns + left) * self.between_columns)[:, None] * self.along_row
        )


def _image_planes(files: Sequence[str | os.PathLike[str]]) -> dict[tuple[str, int], _Plane]:
    """The planes of images, by SOP instance and frame (1 in files of one frame)."""
    planes = {}
    for file in files:
        dataset = pydicom.dcmread(file, stop_before_pixels=True)
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or [None]
        for number, own in enumerate(groups, start=1):

            def value(
                group: str, name: str, own: Dataset | None = own, dataset: Dataset = dataset
            ) -> npt.NDArray[np.float64]:
                item = dataset
                if own is not None:
                    item = (own.get(group) or dataset.SharedFunctionalGroupsSequence[0].get(group))[0]
                return np.array(item[name].value, dtype=np.float64)

            cosines = value("PlaneOrientationSequence", "ImageOrientationPatient")
            between_rows, between_columns = value("PixelMeasuresSequence", "PixelSpacing")
            planes[str(dataset.SOPInstanceUID), number] = _Plane(
                value("PlanePositionSequence", "ImagePositionPatient"),
                cosines[:3],
                cosines[3:],
                float(between_rows),
                float(between_columns),
                int(dataset.Rows),
                int(dataset.Columns),
            )
    return planes


def _plane_of(contour: Dataset, planes: dict[tuple[str, int], _Plane]) -> _Plane:
    image = contour.ContourImageSequence[0]
    key = (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 1))
    if key not in planes:
        raise _refusal("RTSTRUCT", "references", "images of the series", "one that is not among them")
    return planes[key]


def _gap_mm(planes: dict[tuple[str, int], _Plane], mask: LabelVolume) -> float:
    """Distance between neighbouring images; for a single image, what the mask's grid says."""
    first = next(iter(planes.values()))
    along = sorted(float(plane.position @ first.normal) for plane in planes.values())
    gaps = [after - before for before, after in itertools.pairwise(along)]
    if gaps:
        return float(np.median(gaps))
    return mask.geometry.voxel_volume_ml * 1000 / (first.between_rows * first.between_columns)


def _area(corners: Points, normal: Points) -> tuple[float, Points]:
    """Area in mm2 and centroid of a plane polygon in space; channels of a keyhole count for nothing."""
    origin = corners[0]
    one, other = corners - origin, np.roll(corners, -1, axis=0) - origin
    triangles = np.cross(one, other) @ normal / 2
    total = float(triangles.sum())
    if total == 0:
        return 0.0, origin
    return abs(total), origin + ((one + other) / 3 * triangles[:, None]).sum(axis=0) / total
