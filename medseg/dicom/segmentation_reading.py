"""DICOM SEG as masks: binary, fractional and label map, with missing frames, frames in any order, and overlaps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from medseg.dicom import codecs
from medseg.dicom.files import quiet_pydicom, read_dataset
from medseg.dicom.frames import Plane, frames_of, number, text
from medseg.dicom.geometry import UNKNOWN_THICKNESS_MM, directions, to_lps, to_ras
from medseg.dicom.masks import Layers, MaskSet, Segment, code_of, smallest_dtype
from medseg.errors import DataError, FileUnreadableError, GeometryError
from medseg.orientation import AxisChange
from medseg.volume import Geometry

# Frames must hit voxels of a grid within this part of a voxel.
_ON_GRID_WITHIN = 0.1
# Distances between frames must be whole multiples of the slices' distance within this part of it.
_MULTIPLE_WITHIN = 0.05
_SAME_HEIGHT_MM = 1e-3
_HALF = 0.5


def read_segmentation(path: str | os.PathLike[str], geometry: Geometry | None = None) -> MaskSet:
    """Read a segmentation object.

    Frames are put where their positions say; slices without a frame are empty. Of a fractional segmentation, what is
    at least half of the maximum counts.

    Args:
        geometry: the grid to put the frames on, usually that of the scan; by default the smallest grid that holds
            all frames, in the directions of the frames, slices ascending along the normal.

    Raises:
        FileUnreadableError: damaged, or not a segmentation.
        GeometryError: frames have no positions, do not lie on one grid or not on ``geometry``; nothing is resampled.
    """
    file = Path(path)
    with quiet_pydicom():
        codecs.register()
        dataset = read_dataset(file)
        if "SegmentSequence" not in dataset or text(dataset, "SegmentationType") == "":
            raise FileUnreadableError(f"{path}: is no DICOM segmentation; give a SEG object")
        count = int(number(dataset, "NumberOfFrames") or 1)
        planes, complete = frames_of(dataset, file, count)
        if not complete:
            raise GeometryError(f"{path}: its {count} frames do not say each where they lie; write it anew")
        frames = _frames(dataset, file, count)
        segments = tuple(_segment(item) for item in dataset.SegmentSequence)
        numbers = _segment_numbers(dataset, file, count)
        references = dataset.get("ReferencedSeriesSequence") or []
        series_uid = text(references[0], "SeriesInstanceUID") if references else ""
        kind = text(dataset, "SegmentationType")
        padding = number(dataset, "PixelPaddingValue")
        maximum = number(dataset, "MaximumFractionalValue") or 255.0
        frame_of_reference = text(dataset, "FrameOfReferenceUID")
    try:
        placement = _placement(planes, frames.shape[1:], geometry)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    layers = Layers(placement.geometry, smallest_dtype(segment.number for segment in segments))
    whole = np.zeros(0, frames.dtype)
    if kind == "LABELMAP":
        whole = placement.place(frames, range(count))
        # Padding is background, as is what no frame covers (dcmqi writes such objects).
        declared = {segment.number for segment in segments} | {0, padding}
        for value in np.unique(whole).tolist():
            if value not in declared:
                raise DataError(f"{path}: voxels of segment {value}, which it does not describe; write it anew")
    for segment in segments:
        if kind == "LABELMAP":
            mask = np.equal(whole, segment.number)
        else:
            used = [index for index in range(count) if numbers[index] == segment.number]
            present = frames if kind == "BINARY" else frames >= _HALF * maximum
            mask = placement.place(present, used).astype(bool)
        if segment.number or kind != "LABELMAP":
            layers.add(segment, mask)
    return MaskSet(
        tuple(segment for segment in segments if segment.number),
        layers.volumes(),
        frame_of_reference_uid=frame_of_reference,
        series_uid=series_uid,
    )


@dataclass(frozen=True, eq=False)
class _Placement:
    """How frames lie on a grid.

    Attributes:
        change: makes of the grid's array one whose slices, rows and columns run as those of the frames.
        corners: (F, 3) index of each frame's first pixel in the changed array.
    """

    geometry: Geometry
    change: AxisChange
    corners: np.ndarray

    def place(self, frames: np.ndarray, used: Sequence[int] | range) -> np.ndarray:
        """Frames (F, Y, X) joined into an array on the grid; a voxel keeps the largest value that reaches it.

        Raises:
            GeometryError: something lies outside the grid.
        """
        out = np.zeros(self.geometry.shape, frames.dtype)
        view = self.change.apply(out)
        for index in used:
            z, y, x = self.corners[index]
            frame = frames[index]
            rows = slice(max(0, -y), min(frame.shape[0], view.shape[1] - y))
            columns = slice(max(0, -x), min(frame.shape[1], view.shape[2] - x))
            inside = frame[rows, columns] if 0 <= z < view.shape[0] else frame[:0, :0]
            if np.count_nonzero(inside) != np.count_nonzero(frame):
                raise GeometryError("a segment reaches beyond the scan; give the scan that it was drawn on")
            if inside.size:
                part = view[z, y + rows.start : y + rows.stop, x + columns.start : x + columns.stop]
                np.maximum(part, inside, out=part)
        return out


def _placement(planes: Sequence[Plane], shape: Sequence[int], geometry: Geometry | None) -> _Placement:
    for plane in planes:
        if plane.position is None or plane.orientation is None or plane.spacing_mm is None:
            raise GeometryError("a frame has no position, orientation or pixel spacing; write it anew")
    first = planes[0]
    assert first.orientation is not None and first.spacing_mm is not None
    for plane in planes[1:]:
        if plane.orientation != first.orientation or plane.spacing_mm != first.spacing_mm:
            raise GeometryError("its frames have several orientations or pixel spacings; split it")
    along_row, along_column = directions(first.orientation)
    normal = np.cross(along_row, along_column)
    down, right = along_column * first.spacing_mm[0], along_row * first.spacing_mm[1]
    points = np.array([plane.position for plane in planes])
    if geometry is None:
        geometry = _own_grid(points, normal, down, right, first, shape)
    inverse = np.linalg.inv(geometry.affine[:3, :3])
    steps = np.stack([inverse @ to_lps(vector) for vector in (normal, down, right)])  # (3, 3) in voxels
    order = [int(np.argmax(np.abs(step))) for step in steps]
    exact = np.zeros((2, 3))
    exact[[0, 1], order[1:]] = np.sign(steps[[1, 2], order[1:]])
    furthest = np.abs(steps[1:] - exact).max() * max(shape)
    if sorted(order) != [0, 1, 2] or furthest > _ON_GRID_WITHIN:
        raise GeometryError(
            f"its frames do not lie along the axes of the grid, or have other pixels: {geometry};"
            " give the scan it was drawn on"
        )
    flips = [bool(steps[axis, order[axis]] < 0) for axis in range(3)]
    change = AxisChange((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))
    corners = geometry.changed(change).to_index(to_lps(points))
    if np.abs(corners - np.rint(corners)).max() > _ON_GRID_WITHIN:
        raise GeometryError(f"its frames lie between the voxels of the grid: {geometry}; give the scan it was drawn on")
    return _Placement(geometry, change, np.rint(corners).astype(int))


def _own_grid(
    points: np.ndarray, normal: np.ndarray, down: np.ndarray, right: np.ndarray, first: Plane, shape: Sequence[int]
) -> Geometry:
    """The smallest grid that holds all frames."""
    heights = np.sort(points @ normal)
    different = heights[np.concatenate([[True], np.diff(heights) > _SAME_HEIGHT_MM])]
    gaps = np.diff(different)
    step = _step(gaps, first)
    count = 1 + round(float(different[-1] - different[0]) / step)
    lowest = points[np.argmin(points @ normal)]
    sideways = (points - lowest) - np.outer((points - lowest) @ normal, normal)
    if np.linalg.norm(sideways, axis=1).max() > _ON_GRID_WITHIN * min(first.spacing_mm or (1.0,)):
        raise GeometryError("its frames are shifted against each other within their planes; give the scan's grid")
    # What the headers rounded is spread over all slices.
    step = float(different[-1] - different[0]) / (count - 1) if count > 1 else step
    return to_ras(lowest, normal * step, down, right, (count, shape[0], shape[1]))


def _step(gaps: np.ndarray, first: Plane) -> float:
    """Distance of slices: as declared where all frames fit it, else the smallest distance of frames."""
    declared = first.between_mm
    for step in (declared, first.thickness_mm if declared is None else None, float(gaps.min()) if len(gaps) else None):
        if step and (len(gaps) == 0 or np.abs(gaps / step - np.rint(gaps / step)).max() <= _MULTIPLE_WITHIN):
            return step
    if len(gaps):
        raise GeometryError(
            f"its frames are unevenly spaced (from {gaps.min():.4g} to {gaps.max():.4g} mm); give the scan's grid"
        )
    return UNKNOWN_THICKNESS_MM


def _frames(dataset: Dataset, path: Path, count: int) -> np.ndarray:
    try:
        frames = pixel_array(dataset, raw=True)
    except MemoryError:
        raise
    except Exception as error:  # decoders meet damage with errors of every type
        raise FileUnreadableError(
            f"{path}: its frames cannot be decoded ({type(error).__name__}); export it again"
        ) from error
    return frames.reshape(count, int(dataset.Rows), int(dataset.Columns))


def _segment_numbers(dataset: Dataset, path: Path, count: int) -> list[int]:
    """For each frame the number of its segment; 0 for frames of a label map."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    common = shared.get("SegmentIdentificationSequence")
    numbers = []
    for group in dataset.PerFrameFunctionalGroupsSequence[:count]:
        item = (group.get("SegmentIdentificationSequence") or common or [Dataset()])[0]
        numbers.append(int(number(item, "ReferencedSegmentNumber") or 0))
    if text(dataset, "SegmentationType") != "LABELMAP" and 0 in numbers:
        raise DataError(f"{path}: frame {numbers.index(0) + 1} does not say which segment it shows; write it anew")
    known = {int(number(item, "SegmentNumber") or 0) for item in dataset.SegmentSequence}
    strange = sorted(set(numbers) - known - {0})
    if strange:
        raise DataError(f"{path}: frames of segment {strange[0]}, which it does not describe; write it anew")
    return numbers


def _segment(item: Dataset) -> Segment:
    value = int(number(item, "SegmentNumber") or 0)
    return Segment(
        number=value,
        name=text(item, "SegmentLabel") or f"segment {value}",
        category=code_of(item.get("SegmentedPropertyCategoryCodeSequence")),
        type=code_of(item.get("SegmentedPropertyTypeCodeSequence")),
        algorithm=text(item, "SegmentAlgorithmType"),
    )
