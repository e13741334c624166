"""Where a mask's voxels go in a series' planes: by exchange and reversal of axes alone, never by interpolation."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medseg.dicom.sources import SourceFrame, SourceSeries
from medseg.errors import GeometryError
from medseg.orientation import AxisChange
from medseg.volume import EQUAL_WITHIN_VOXELS, Geometry, LabelVolume

# A frame's rows and columns are perpendicular in DICOM. A grid that is not may be off by so much of a voxel at most.
_PERPENDICULAR_WITHIN_VOXELS = 0.1
_TO_LPS = np.array([-1.0, -1.0, 1.0])  # RAS+ to LPS+ and back


@dataclass(frozen=True, eq=False)
class Placement:
    """A mask as frames.

    Attributes:
        array: the mask's values (frames, rows, columns): a view, in ascending order along the frames' normal.
        positions_mm: LPS position (frames, 3) of each frame's first pixel.
        row_direction, column_direction: unit vectors (3,) LPS along a row and along a column.
        pixel_spacing_mm: distance between rows, between columns.
        plane_spacing_mm: distance between frames.
        sources: the plane of the series that each frame covers pixel by pixel, or None where the grids differ.
    """

    array: npt.NDArray[np.integer] = field(repr=False)
    positions_mm: npt.NDArray[np.float64] = field(repr=False)
    row_direction: npt.NDArray[np.float64]
    column_direction: npt.NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]
    plane_spacing_mm: float
    sources: tuple[SourceFrame, ...] | None = field(repr=False)


def place(mask: LabelVolume, series: SourceSeries) -> Placement:
    """Lay a mask into the planes of its series.

    The axes of the mask are exchanged and reversed to follow the planes. Where every plane of the mask then is a plane
    of the series, pixel by pixel (within ``EQUAL_WITHIN_VOXELS``), the frames are those planes. Otherwise (the series
    was resampled: a tilted gantry, uneven slices) the frames keep the mask's own grid.

    Raises:
        GeometryError: the grid is so far from perpendicular that DICOM frames cannot express it.
    """
    directions = np.stack([series.normal, series.along_column_mm, series.along_row_mm], axis=1)
    change = _nearest_change(mask.geometry, directions / np.linalg.norm(directions, axis=0))
    turned = mask.changed(change)
    affine = turned.geometry.affine
    steps, origin = affine[:3, :3] * _TO_LPS[:, None], affine[:3, 3] * _TO_LPS
    positions = origin + np.arange(turned.geometry.shape[0])[:, None] * steps[:, 0]
    matched = _matching_frames(turned.geometry.shape, steps, positions, series)
    if matched is not None:
        row_step, column_step = series.along_row_mm, series.along_column_mm
        positions = np.stack([frame.position_mm for frame in matched])
    else:
        row_step, column_step = steps[:, 2], steps[:, 1]
        _require_perpendicular(turned.geometry, steps)
    row_direction = row_step / np.linalg.norm(row_step)
    column_direction = column_step - row_direction * (column_step @ row_direction)
    column_direction /= np.linalg.norm(column_direction)
    return Placement(
        array=turned.array,
        positions_mm=positions,
        row_direction=row_direction,
        column_direction=column_direction,
        pixel_spacing_mm=(float(np.linalg.norm(column_step)), float(np.linalg.norm(row_step))),
        plane_spacing_mm=float(abs(steps[:, 0] @ np.cross(row_direction, column_direction))),
        sources=matched,
    )


def _nearest_change(geometry: Geometry, directions: npt.NDArray[np.float64]) -> AxisChange:
    """The exchange and reversal that brings a grid's axes nearest to unit LPS directions (plane, row, column)."""
    own = geometry.affine[:3, :3] * _TO_LPS[:, None]
    cosines = (own / np.linalg.norm(own, axis=0)).T @ directions  # (own axis, wanted axis)
    z, y, x = max(itertools.permutations(range(3)), key=lambda order: sum(abs(cosines[order[i], i]) for i in range(3)))
    return AxisChange((z, y, x), (bool(cosines[z, 0] < 0), bool(cosines[y, 1] < 0), bool(cosines[x, 2] < 0)))


def _matching_frames(
    shape: tuple[int, int, int],
    steps: npt.NDArray[np.float64],
    positions: npt.NDArray[np.float64],
    series: SourceSeries,
) -> tuple[SourceFrame, ...] | None:
    """The plane of the series under each plane of a mask; None unless each has one that agrees in every pixel."""
    if shape[1:] != (series.rows, series.columns) or not series.frames:
        return None
    smallest = float(np.linalg.norm(steps, axis=0).min())
    tolerance = EQUAL_WITHIN_VOXELS * smallest
    drift_row = (steps[:, 2] - series.along_row_mm) * (series.columns - 1)
    drift_column = (steps[:, 1] - series.along_column_mm) * (series.rows - 1)
    known = np.stack([frame.position_mm for frame in series.frames])
    matched = []
    for position in positions:
        offsets = known - position
        nearest = int(np.argmin((offsets**2).sum(axis=1)))
        corners = [offsets[nearest] - a * drift_row - b * drift_column for a in (0, 1) for b in (0, 1)]
        if max(float(np.linalg.norm(corner)) for corner in corners) > tolerance:
            return None
        matched.append(series.frames[nearest])
    return tuple(matched) if len({id(frame) for frame in matched}) == len(matched) else None


def _require_perpendicular(geometry: Geometry, steps: npt.NDArray[np.float64]) -> None:
    row, column = steps[:, 2], steps[:, 1]
    along = column @ row / np.linalg.norm(row)
    off = abs(along) * (geometry.shape[1] - 1) / float(np.linalg.norm(steps, axis=0).min())
    if off > _PERPENDICULAR_WITHIN_VOXELS:
        raise GeometryError(
            f"the mask's rows and columns are not perpendicular ({off:.2f} voxels off at the far edge), as DICOM frames"
            f" must be: {geometry}; write NIfTI, or resample the series first"
        )
