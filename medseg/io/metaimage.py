"""MetaImage (MHA, MHD), read and written by SimpleITK. ITK works in LPS; the change to RAS and back is here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medseg.errors import FileUnreadableError, GeometryError
from medseg.io.header import Header, native, storable
from medseg.volume import Geometry, LabelVolume, Volume

_LPS = np.diag([-1.0, -1.0, 1.0])
_NUMBERS = ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64", "Float32", "Float64")
_TYPES = {
    getattr(sitk, f"sitk{vector}{name}"): np.dtype(name.lower()) for name in _NUMBERS for vector in ("", "Vector")
}
_HEADER_SIZE = 1 << 14
_FIELD = re.compile(rb"^(\w+)[ \t]*=[ \t]*(.*?)\s*$", re.MULTILINE)
_COMPRESSION = 3
_STORED_BYTES = {"MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4}
_STORED_BYTES |= {"MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8}


def read(path: Path) -> Volume:
    """Read a file in its stored type.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    _require_whole(path)
    with _quiet():
        image = _reader(path).Execute()
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    geometry, channels = _parse(image)
    return Volume(native(np.ascontiguousarray(array).reshape(channels, *geometry.shape)), geometry)


def read_header(path: Path) -> Header:
    """Read everything but the voxels.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    reader = _reader(path)
    with _quiet():
        reader.ReadImageInformation()
    geometry, channels = _parse(reader)
    return Header(channels, geometry, _TYPES[reader.GetPixelID()])


def write(image: Volume | LabelVolume, path: Path, like: Path | None) -> None:
    """Write one file; origin, spacing and directions are taken from the MetaImage ``like``, digit for digit, if given.

    Raises:
        ValueError: voxels of a type that is not written.
    """
    array = storable(image.array.reshape(-1, *image.geometry.shape))
    source = None
    if like is not None:
        source = _reader(like)
        source.ReadImageInformation()
    # Negative spacings in a header are turned into directions as a file is read, but cannot be written.
    if source is not None and min(source.GetSpacing()) <= 0:
        source = None
    flat = source is not None and source.GetDimension() == 2
    picture = (
        sitk.GetImageFromArray(array[0, 0] if flat else array[0])
        if len(array) == 1
        else sitk.GetImageFromArray(np.moveaxis(array[:, 0] if flat else array, 0, -1), isVector=True)
    )
    if source is not None and source.GetDimension() == picture.GetDimension():
        picture.SetSpacing(source.GetSpacing())
        picture.SetDirection(source.GetDirection())
        picture.SetOrigin(source.GetOrigin())
    else:
        picture.SetSpacing(image.geometry.spacing_mm[::-1])
        directions = image.geometry.affine[:3, [2, 1, 0]] / np.array(image.geometry.spacing_mm[::-1])
        picture.SetDirection((_LPS @ directions).ravel().tolist())
        picture.SetOrigin((_LPS @ image.geometry.affine[:3, 3]).tolist())
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("MetaImageIO")
    writer.SetFileName(str(path))
    writer.SetUseCompression(True)
    writer.SetCompressionLevel(_COMPRESSION)
    try:
        writer.Execute(picture)
    except RuntimeError as error:
        raise OSError(f"SimpleITK reports: {_reason(error)}") from error


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    return reader


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's own warnings off the terminal; its errors arrive as ours."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except RuntimeError as error:
        raise FileUnreadableError(f"SimpleITK cannot read it: {_reason(error)}") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, where it says anything; those before name its own source files."""
    last = str(error).strip().splitlines()[-1].removeprefix("Reason: ")
    return "the header or the voxels are damaged" if last in ("Success", "No such file or directory") else last


def _parse(image: sitk.Image | sitk.ImageFileReader) -> tuple[Geometry, int]:
    """The grid and the number of channels."""
    sizes = list(image.GetSize())
    count = len(sizes)
    components = (
        image.GetNumberOfComponents()
        if isinstance(image, sitk.ImageFileReader)
        else image.GetNumberOfComponentsPerPixel()
    )
    if image.GetPixelID() not in _TYPES:
        raise FileUnreadableError(
            f"voxels are {sitk.GetPixelIDValueAsString(image.GetPixelID())}, expected real numbers"
        )
    if count > 4 or (count == 4 and components > 1):
        raise GeometryError(f"{count} axes of sizes {tuple(sizes)}, expected 2 or 3, or 4 with channels last; split it")
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(count, count) * np.array(image.GetSpacing())
    in_space = min(count, 3)
    affine[:in_space, :in_space] = directions[:in_space, :in_space]
    affine[:in_space, 3] = image.GetOrigin()[:in_space]
    affine[:3] = _LPS @ affine[:3]
    x, y, z, channels = sizes + [1] * (4 - count)
    return Geometry((z, y, x), affine[:, [2, 1, 0, 3]]), channels * components


def _require_whole(path: Path) -> None:
    """Find voxels that are missing or cut short before ITK does, whose reports say neither.

    Raises:
        FileUnreadableError: the file with the voxels is not there, or holds fewer bytes than the header declares.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_SIZE)
    fields = {key.decode("latin-1"): value.decode("latin-1") for key, value in _FIELD.findall(head)}
    place, start = fields.get("ElementDataFile", ""), 0
    if place == "LOCAL":
        place, start = path.name, head.index(b"\n", head.index(b"ElementDataFile")) + 1
    elif not place or place.startswith("LIST") or "%" in place:
        return
    voxels = path.parent / place
    if not voxels.is_file():
        raise FileUnreadableError(f"a header without voxels: {place} is not beside it; copy both files")
    there, expected = voxels.stat().st_size - start, _stored_bytes(fields)
    if there < expected:
        where = "" if voxels == path else f" in {place}"
        raise FileUnreadableError(f"voxels are cut short: expected {expected} bytes{where}, found {there}; copy again")


def _stored_bytes(fields: dict[str, str]) -> int:
    """How many bytes of voxels the header declares; 0 where it leaves that open."""
    try:
        if fields.get("CompressedData", "False").lower() == "true":
            return int(fields.get("CompressedDataSize", 0))
        itemsize = _STORED_BYTES[fields["ElementType"].removesuffix("_ARRAY")]
        channels = int(fields.get("ElementNumberOfChannels", 1))
        binary = fields.get("BinaryData", "False").lower() == "true"
        return prod(int(size) for size in fields["DimSize"].split()) * channels * itemsize if binary else 0
    except (KeyError, ValueError):
        return 0  # what is wrong there is for ITK to say
