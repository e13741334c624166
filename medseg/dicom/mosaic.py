"""Siemens mosaics: one picture whose tiles are the slices of a volume."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from medseg.dicom.frames import Plane
from medseg.dicom.geometry import directions
from medseg.dicom.headers import InstanceHeader
from medseg.errors import GeometryError


def tiles_a_side(header: InstanceHeader) -> int:
    """Tiles along each side of the picture; 1 for a picture that is no mosaic."""
    return 1 if header.mosaic is None else math.ceil(math.sqrt(header.mosaic.count))


def tile_size(header: InstanceHeader) -> tuple[int, int]:
    """Rows and columns of one slice; (0, 0) without pixels."""
    if header.pixels is None:
        return 0, 0
    side = tiles_a_side(header)
    return header.pixels.rows // side, header.pixels.columns // side


def tile(picture: np.ndarray, header: InstanceHeader, index: int) -> np.ndarray:
    """One slice (Y, X) of a mosaic (Y, X)."""
    side = tiles_a_side(header)
    rows, columns = tile_size(header)
    row, column = divmod(index, side)
    return picture[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]


def expanded(header: InstanceHeader) -> tuple[list[Plane], str]:
    """The slices of an instance: its planes, or the tiles of its mosaic, and why those cannot be told.

    The position in the header is that of the picture's first pixel, as if the picture were one big slice around the
    same centre (as nibabel's ``MosaicWrapper`` documents it).
    """
    if "MOSAIC" in header.image_type and header.mosaic is None and header.modality == "MR":
        return list(header.planes), "is a mosaic that does not say how many slices it holds; export it again"
    if header.mosaic is None or header.pixels is None:
        return list(header.planes), ""
    plane, side = header.planes[0], tiles_a_side(header)
    distance = plane.between_mm or plane.thickness_mm
    if plane.position is None or plane.orientation is None or plane.spacing_mm is None or distance is None:
        return list(header.planes), "is a mosaic without position, orientation or spacing; export it again"
    if header.pixels.rows % side or header.pixels.columns % side:
        return list(header.planes), f"is a mosaic whose size does not divide into {side} x {side} tiles"
    try:
        along_row, along_column = directions(plane.orientation)
    except GeometryError as error:
        return list(header.planes), str(error)
    normal = np.cross(along_row, along_column)
    if header.mosaic.normal is not None and normal @ np.array(header.mosaic.normal) < 0:
        normal = -normal
    rows, columns = tile_size(header)
    corner = np.array(plane.position)
    corner = corner + along_column * plane.spacing_mm[0] * (header.pixels.rows - rows) / 2
    corner = corner + along_row * plane.spacing_mm[1] * (header.pixels.columns - columns) / 2
    slices = []
    for index in range(header.mosaic.count):
        x, y, z = (corner + normal * distance * index).tolist()
        slices.append(replace(plane, frame=index, position=(x, y, z)))
    return slices, ""
