"""NRRD with one file or a detached header. pynrrd reads text and voxels; here the axes get their meaning."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from medseg.errors import FileUnreadableError, GeometryError
from medseg.io.header import Header, native, storable
from medseg.volume import Geometry, LabelVolume, Volume

# Sign of x and y from the file's space to RAS; a file that names no known space is taken as LPS, as ITK does.
_TO_RAS = {
    "right-anterior-superior": (1.0, 1.0),
    "ras": (1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0),
    "las": (-1.0, 1.0),
}
_LPS_TO_RAS = (-1.0, -1.0)
_SPATIAL_KINDS = ("domain", "space")
# Names of the format: https://teem.sourceforge.net/nrrd/format.html
_TYPES = {
    np.int8: ("signed char", "int8", "int8_t"),
    np.uint8: ("uchar", "unsigned char", "uint8", "uint8_t"),
    np.int16: ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    np.uint16: ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    np.int32: ("int", "signed int", "int32", "int32_t"),
    np.uint32: ("uint", "unsigned int", "uint32", "uint32_t"),
    np.int64: (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    np.uint64: ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    np.float32: ("float",),
    np.float64: ("double",),
}
_COMPRESSION = 3
_GRID_FIELDS = ("space", "space dimension", "space directions", "space origin", "spacings", "kinds")


def read(path: Path) -> Volume:
    """Read a file in its stored type.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    header = raw_header(path)
    geometry, channel_axis = _parse(header)
    _dtype(str(header["type"]))  # for its check
    try:
        with path.open("rb") as file:
            header = nrrd.read_header(file)
            array = nrrd.read_data(header, file, str(path), index_order="C")
    except (nrrd.NRRDError, OSError, EOFError, ValueError, zlib.error) as error:
        raise FileUnreadableError(f"voxels cannot be read: {' '.join(str(error).split())}") from error
    if channel_axis is not None:
        array = np.moveaxis(array, array.ndim - 1 - channel_axis, 0)
    return Volume(native(np.ascontiguousarray(array).reshape(-1, *geometry.shape)), geometry)


def read_header(path: Path) -> Header:
    """Read everything but the voxels.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    header = raw_header(path)
    geometry, channel_axis = _parse(header)
    channels = 1 if channel_axis is None else int(header["sizes"][channel_axis])
    return Header(channels, geometry, _dtype(str(header["type"])))


def raw_header(path: Path) -> dict[str, Any]:
    """The fields of the header.

    Raises:
        FileUnreadableError: it does not parse.
    """
    try:
        with path.open("rb") as file:
            header = dict(nrrd.read_header(file))
    except (nrrd.NRRDError, ValueError) as error:
        raise FileUnreadableError(f"the header makes no sense: {' '.join(str(error).split())}") from error
    missing = [field for field in ("type", "dimension", "sizes", "encoding") if field not in header]
    if missing:
        raise FileUnreadableError(f"the header makes no sense: it does not give {', '.join(missing)}")
    return header


def write(image: Volume | LabelVolume, path: Path, like: Path | None) -> None:
    """Write one file. The format stores the grid as it is; only of a file of two axes it is taken from ``like``.

    Raises:
        ValueError: voxels of a type that is not written.
    """
    array = storable(image.array.reshape(-1, *image.geometry.shape))
    source = {} if like is None else raw_header(like)
    affine = np.diag([*_LPS_TO_RAS, 1.0, 1.0]) @ image.geometry.affine
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "kinds": ["domain"] * 3,
        "space directions": affine[:3, [2, 1, 0]].T,
        "space origin": affine[:3, 3],
    }
    if len(array) > 1:
        header["kinds"].append("list")
        header["space directions"] = np.vstack([header["space directions"], [np.nan] * 3])
    elif source.get("dimension") == 2:
        array = array[0, 0]
        header = {name: source[name] for name in _GRID_FIELDS if name in source}
    else:
        array = array[0]
    header["encoding"] = "gzip"
    nrrd.write(str(path), array, header, compression_level=_COMPRESSION, index_order="C")


def _parse(header: dict[str, Any]) -> tuple[Geometry, int | None]:
    """The grid, and which axis of the file holds channels."""
    sizes = [int(size) for size in header["sizes"]]
    directions = header.get("space directions")
    if directions is not None:
        directions = np.array([np.full(3, np.nan) if row is None else row for row in directions], dtype=np.float64)
    spatial = _spatial_axes(header, len(sizes), directions)
    others = [axis for axis in range(len(sizes)) if axis not in spatial and sizes[axis] > 1]
    if not 1 <= len(spatial) <= 3 or len(others) > 1:
        raise GeometryError(f"axes of sizes {tuple(sizes)}, expected up to 3 in space and one for channels; split it")
    columns = np.eye(3)
    for position, axis in enumerate(spatial):
        if directions is not None:
            columns[:, position] = np.pad(directions[axis], (0, 3 - len(directions[axis])))
        elif "spacings" in header and np.isfinite(header["spacings"][axis]):
            columns[position, position] = header["spacings"][axis]
    affine = np.eye(4)
    affine[:3, :3] = columns[:, ::-1]
    origin = np.asarray(header.get("space origin", np.zeros(3)), dtype=np.float64)
    affine[: len(origin), 3] = np.nan_to_num(origin)
    affine[:2] *= np.array(_TO_RAS.get(str(header.get("space", "")).lower().removesuffix("-time"), _LPS_TO_RAS))[
        :, None
    ]
    x, y, z = [sizes[axis] for axis in spatial] + [1] * (3 - len(spatial))
    return Geometry((z, y, x), affine), (others[0] if others else None)


def _spatial_axes(header: dict[str, Any], count: int, directions: np.ndarray | None) -> list[int]:
    """Axes of the file in space: those with a direction, else those of a spatial kind, else the first three."""
    if directions is not None:
        return [axis for axis in range(count) if np.isfinite(directions[axis]).all()]
    kinds = [str(kind) for kind in header.get("kinds", [])]
    if any(kind in _SPATIAL_KINDS for kind in kinds):
        return [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL_KINDS]
    return list(range(min(count, 3)))


def _dtype(name: str) -> np.dtype:
    """numpy's type for a type name of the format.

    Raises:
        FileUnreadableError: the name is not known.
    """
    for dtype, names in _TYPES.items():
        if name in names:
            return np.dtype(dtype)
    raise FileUnreadableError(f"voxels are {name!r}, expected integers or real numbers")
