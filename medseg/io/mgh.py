"""FreeSurfer's MGH and MGZ: nibabel interprets the header, the voxels are a plain block behind it. Not written."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError

from medseg.errors import FileUnreadableError, GeometryError
from medseg.io import content
from medseg.io.header import Header, native, native_dtype
from medseg.volume import Geometry, Volume

_HEADER_SIZE = 284


def read(path: Path) -> Volume:
    """Read a file in its stored type.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    dtype, geometry, channels = _parse(path)
    size = channels * int(np.prod(geometry.shape)) * dtype.itemsize
    array = np.frombuffer(content.block(path, _HEADER_SIZE, size), dtype)
    return Volume(native(array.reshape(channels, *geometry.shape)), geometry)


def read_header(path: Path) -> Header:
    """Read everything but the voxels.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    dtype, geometry, channels = _parse(path)
    return Header(channels, geometry, native_dtype(dtype))


def _parse(path: Path) -> tuple[np.dtype, Geometry, int]:
    block = content.head(path, _HEADER_SIZE)
    if len(block) < _HEADER_SIZE:
        raise FileUnreadableError(
            f"the header is cut short: expected {_HEADER_SIZE} bytes, found {len(block)}; copy it again"
        )
    try:
        header = MGHHeader(block, check=False)
        sizes, affine, dtype = header.get_data_shape(), header.get_affine(), cast(np.dtype, header.get_data_dtype())
    except (HeaderDataError, ValueError, KeyError) as error:
        raise FileUnreadableError(f"the header makes no sense: {' '.join(str(error).split())}") from error
    x, y, z, channels = (*map(int, sizes), *[1] * (4 - len(sizes)))
    if channels < 1:
        raise GeometryError(f"sizes must be positive, found {(x, y, z, channels)}")
    return dtype, Geometry((z, y, x), np.asarray(affine)[:, [2, 1, 0, 3]]), channels
