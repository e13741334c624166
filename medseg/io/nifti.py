"""NIfTI-1 and NIfTI-2, single files and pairs. nibabel interprets the header; the voxels are a plain block behind it.

The grid is chosen as nibabel does: sform if its code is set, else qform, else spacing alone with x to the left.
"""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import cast

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from medseg.errors import FileUnreadableError, GeometryError
from medseg.io import content
from medseg.io.header import Header, native, native_dtype, storable
from medseg.volume import EQUAL_WITHIN_VOXELS, Geometry, LabelVolume, Volume

logger = logging.getLogger(__name__)

HEADER_SIZE = 540
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_SCANNER = 1
_LARGEST_NIFTI1_SIZE = 32767
# Level 3 packs masks in a third of the time that level 6 takes; files are larger by a few tenths of a percent of the
# unpacked size.
_COMPRESSION = 3
_GRID_FIELDS = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)


def is_header(block: bytes) -> bool:
    """Whether the first bytes of a file are a NIfTI header."""
    return block[344:347] in (b"n+1", b"ni1") or block[4:7] in (b"n+2", b"ni2")


def read(path: Path) -> Volume:
    """Read a file; stored integers stay integers unless the header scales them, which gives float32.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    header, geometry, channels = _parse(path)
    dtype = header.get_data_dtype()
    size = channels * int(np.prod(geometry.shape)) * dtype.itemsize
    start = max(int(header.get_data_offset()), 0)
    array = np.frombuffer(content.block(_data_path(path, header), start, size), dtype)
    array = native(array.reshape(channels, *geometry.shape))
    slope, intercept = _scaling(header)
    if (slope, intercept) != (1.0, 0.0):
        array = _scaled(array, slope, intercept)
    if not (header["qform_code"] or header["sform_code"]):
        logger.warning("%s: no qform and no sform, so left and right are not known; taken as stored in LAS order", path)
    return Volume(array, geometry)


def read_header(path: Path) -> Header:
    """Read everything but the voxels.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    header, geometry, channels = _parse(path)
    dtype = native_dtype(header.get_data_dtype())
    return Header(channels, geometry, dtype if _scaling(header) == (1.0, 0.0) else np.dtype(np.float32))


def raw_header(path: Path) -> Nifti1Header | Nifti2Header:
    """The header as stored, but for meaningless signs of voxel sizes.

    Raises:
        FileUnreadableError: its number of axes or data type cannot be.
    """
    header = _stored_header(path)
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise FileUnreadableError(f"the header claims {axes} axes (dim[0]), expected 1 to 7; copy the file again")
    if 3000 <= int(header["intent_code"]) < 3100:
        raise FileUnreadableError("this is CIFTI (surfaces and connectivity), not an image; give a NIfTI volume")
    # Signs mean nothing but for the first, which is the side that z lies on; 0 there stands for 1.
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    return header


def _stored_header(path: Path) -> Nifti1Header | Nifti2Header:
    block = content.head(path, HEADER_SIZE)
    kind = Nifti2Header if block[4:7] in (b"n+2", b"ni2") else Nifti1Header
    size = kind.template_dtype.itemsize
    if len(block) < size:
        raise FileUnreadableError(f"the header is cut short: expected {size} bytes, found {len(block)}; copy it again")
    endianness = "<" if int.from_bytes(block[:4], "little") == size else ">"
    return kind(block[:size], endianness=endianness, check=False)


def form_geometries(
    header: Nifti1Header | Nifti2Header, shape: tuple[int, int, int]
) -> tuple[Geometry | None, Geometry | None]:
    """The grids by qform and by sform, each None where its code says that it is not set.

    Raises:
        ValueError: one of them is no grid; says which.
    """
    grids: list[Geometry | None] = []
    for name, read_form in (("qform", header.get_qform), ("sform", header.get_sform)):
        try:
            grids.append(_geometry(cast(np.ndarray, read_form()), shape, header) if header[f"{name}_code"] else None)
        except (HeaderDataError, ValueError, GeometryError) as error:
            raise ValueError(f"{name} is no grid: {_one_line(error)}") from error
    return grids[0], grids[1]


def write(image: Volume | LabelVolume, path: Path, like: Path | None) -> None:
    """Write a file; the header's grid fields are taken from the NIfTI file ``like``, bit for bit, where one is given.

    Raises:
        ValueError: voxels of a type that NIfTI cannot hold.
    """
    array = np.ascontiguousarray(storable(image.array.reshape(-1, *image.geometry.shape)))
    header = _new_header(image.geometry, array, _stored_header(like) if like else None)
    with path.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time inside: the same mask gives the same bytes.
            with gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as packed:
                _write_parts(packed, header, array)
        else:
            _write_parts(file, header, array)


def _write_parts(file, header: Nifti1Header | Nifti2Header, array: np.ndarray) -> None:
    header.write_to(file)
    file.write(array.data)


def _new_header(
    geometry: Geometry, array: np.ndarray, like: Nifti1Header | Nifti2Header | None
) -> Nifti1Header | Nifti2Header:
    large = max(array.shape) > _LARGEST_NIFTI1_SIZE
    header = Nifti2Header() if isinstance(like, Nifti2Header) or large else Nifti1Header()
    header.set_data_dtype(array.dtype)
    sizes = array.shape[::-1] if array.shape[0] > 1 else array.shape[:0:-1]
    header.set_data_shape(sizes[:2] if like is not None and len(sizes) == 3 and like["dim"][0] == 2 else sizes)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    if like is None:
        affine = geometry.affine[:, [2, 1, 0, 3]]
        header.set_sform(affine, code=_SCANNER)
        header.set_qform(affine, code=_SCANNER)
        header.set_xyzt_units("mm")
        qform, sform = form_geometries(header, geometry.shape)
        if qform and sform and qform.distance_voxels(sform) > EQUAL_WITHIN_VOXELS:
            # Quaternions in single precision lose small tilts of a grid that is turned by half a circle.
            header["qform_code"] = 0
    else:
        for name in _GRID_FIELDS:
            header[name] = like[name]
        header["pixdim"][:4] = like["pixdim"][:4]
        header["xyzt_units"] = int(like["xyzt_units"]) & 7
    return header


def _parse(path: Path) -> tuple[Nifti1Header | Nifti2Header, Geometry, int]:
    header = raw_header(path)
    try:
        sizes = [int(size) for size in header.get_data_shape()]
        affine = cast(np.ndarray, header.get_best_affine())
        native_dtype(header.get_data_dtype())
        int(header.get_data_offset())
    except (HeaderDataError, ValueError, KeyError, OverflowError) as error:
        raise FileUnreadableError(f"the header makes no sense: {_one_line(error)}") from error
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > 4:
        raise GeometryError(f"{len(sizes)} axes of sizes {tuple(sizes)}, expected 3, or 4 with channels last; split it")
    x, y, z, channels = sizes + [1] * (4 - len(sizes))
    if channels < 1:
        raise GeometryError(f"sizes must be positive, found {tuple(sizes)}")
    return header, _geometry(affine, (z, y, x), header), channels


def _geometry(affine: np.ndarray, shape: tuple[int, int, int], header: Nifti1Header | Nifti2Header) -> Geometry:
    affine = np.array(affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    return Geometry(shape, affine[:, [2, 1, 0, 3]])


def _data_path(path: Path, header: Nifti1Header | Nifti2Header) -> Path:
    """Where the voxels are: in the same file, or in the .img beside the .hdr."""
    if not bytes(header["magic"]).startswith(b"ni"):
        return path
    stem = path.name[: path.name.lower().rindex(".hdr")] if ".hdr" in path.name.lower() else path.stem
    beside = [path.with_name(stem + ending) for ending in (".img", ".img.gz", ".IMG")]
    for candidate in beside:
        if candidate.is_file():
            return candidate
    raise FileUnreadableError(f"a header without voxels: {beside[0].name} is not beside it; copy both files")


def _scaling(header: Nifti1Header | Nifti2Header) -> tuple[float, float]:
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise FileUnreadableError(f"the header makes no sense: {_one_line(error)}") from error
    return (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept))


def _scaled(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Computed in double precision, a slice at a time, and kept in single."""
    result = np.empty(array.shape, dtype=np.float32)
    for new, old in zip(result.reshape(-1, *array.shape[2:]), array.reshape(-1, *array.shape[2:]), strict=True):
        new[...] = old.astype(np.float64) * slope + intercept
    return result


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
