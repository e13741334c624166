"""PNG, JPEG, BMP and TIFF. Pictures carry no place in space: their grid has voxels of 1 mm.

A picture is (C, 1, Y, X). The pages of a TIFF become slices: (C, Z, Y, X). An alpha channel that is opaque everywhere
is dropped; a palette gives its colours for an image and its indices for a mask.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from medseg.errors import FileUnreadableError, GeometryError, MedsegError, UsageError
from medseg.io.header import Header, narrowed, native, storable
from medseg.volume import Geometry, LabelVolume, Volume

_PNG_MAGIC = b"\x89PNG"
# Bytes of a PNG that hold bits a channel and kind of colour, where 0 is grey without alpha.
_PNG_DEPTH, _PNG_COLOUR = 24, 25
_TIFF_MAGIC = (b"II", b"MM")
_TIFF_ENDINGS = (".tif", ".tiff")
# No compression packs this tightly: a damaged header, for which no memory should be sought.
_LARGEST_UNPACKING = 5000
_TIFF_CHANNELS, _TIFF_SLICES = "SC", "ZQIT"


def read(path: Path, *, indices: bool = False) -> Volume:
    """Read a picture in its stored type; with ``indices`` a palette gives its indices rather than its colours.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    with path.open("rb") as file:
        head = file.read(_PNG_COLOUR + 1)
    deep_colour = len(head) > _PNG_COLOUR and head[_PNG_DEPTH] == 16 and head[_PNG_COLOUR] != 0
    try:
        if head.startswith(_TIFF_MAGIC):
            array = _read_tiff(path)
        elif head.startswith(_PNG_MAGIC) and deep_colour:
            array = _read_itk(path, "PNGImageIO")  # Pillow keeps only 8 of the 16 bits of a colour.
        else:
            array = _read_pillow(path, indices)
    except MedsegError:
        raise
    except Exception as error:  # a damaged file makes Pillow and tifffile raise almost anything
        raise FileUnreadableError(f"the picture cannot be read: {' '.join(str(error).split())}") from error
    array = native(array)
    opaque = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    if len(array) in (2, 4) and bool((array[-1] == opaque).all()):
        array = array[:-1]
    return Volume(np.ascontiguousarray(array), Geometry.from_spacing(array.shape[1:], (1.0, 1.0, 1.0)))


def with_channels(volume: Volume, channels: int) -> Volume:
    """A grey picture as colour, or a colour picture that is grey everywhere as grey, where that is what was expected.

    Anything else comes back as it is.
    """
    array = volume.array
    if (len(array), channels) == (1, 3):
        return volume.with_array(np.repeat(array, 3, axis=0))
    if (len(array), channels) == (3, 1) and all(np.array_equal(array[0], other) for other in array[1:]):
        return volume.with_array(array[:1])
    return volume


def read_header(path: Path) -> Header:
    """Shape, grid and type. Whether alpha is opaque shows only in the pixels, so the picture is read.

    Raises:
        FileUnreadableError, GeometryError: see :func:`medseg.io.read`.
    """
    volume = read(path)
    return Header(volume.channels, volume.geometry, volume.array.dtype)


def write(image: Volume | LabelVolume, path: Path, like: Path | None) -> None:  # noqa: ARG001 (pictures have no grid)
    """Write a PNG (one slice, 8 or 16 bits) or a TIFF (any number of slices as pages).

    Raises:
        UsageError: the picture cannot hold such an image.
        ValueError: values that do not fit into 16 bits (PNG), or a type that is not written.
    """
    array = storable(image.array.reshape(-1, *image.geometry.shape))
    if len(array) not in (1, 3):
        raise UsageError(f"a picture has 1 or 3 channels, found {len(array)}; write .nii.gz instead")
    if path.suffix.lower() in _TIFF_ENDINGS:
        _write_tiff(array, path)
        return
    if array.shape[1] != 1:
        raise UsageError(f"a PNG holds one slice, found {array.shape[1]}; write .nii.gz or .tif instead")
    if array.dtype.kind == "f":
        raise UsageError(f"a PNG holds integers, found {array.dtype}; write .tif or .nii.gz instead")
    pixels = narrowed(array[:, 0], (np.uint8, np.uint16) if len(array) == 1 else (np.uint8,))
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1))).save(path)


def _write_tiff(array: np.ndarray, path: Path) -> None:
    if len(array) == 3:
        pages, axes, colour = np.moveaxis(array, 0, -1), "ZYXS", "rgb"
    else:
        pages, axes, colour = array[0], "ZYX", "minisblack"
    tifffile.imwrite(path, pages, photometric=colour, compression="zlib", metadata={"axes": axes})


def _read_pillow(path: Path, indices: bool) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode in ("P", "PA") and not indices:
            image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGB")
        pixels = np.asarray(image)
    return np.moveaxis(np.atleast_3d(pixels), -1, 0)[:, None]


def _read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise FileUnreadableError(f"the TIFF holds {len(file.series)} pictures of different shape; split it")
        series = file.series[0]
        if series.nbytes > _LARGEST_UNPACKING * path.stat().st_size:
            raise FileUnreadableError(f"the TIFF claims {series.nbytes} bytes of pixels; it is damaged, copy it again")
        try:
            array, axes = series.asarray(), series.axes
        except ValueError:
            return _read_itk(path, "TIFFImageIO")  # tifffile alone does not unpack LZW; ITK does.
    for axis in range(len(axes) - 1, -1, -1):
        if array.shape[axis] == 1 and axes[axis] not in "YX":
            array, axes = array.squeeze(axis), axes[:axis] + axes[axis + 1 :]
    channels = [axis for axis, name in enumerate(axes) if name in _TIFF_CHANNELS]
    slices = [axis for axis, name in enumerate(axes) if name in _TIFF_SLICES]
    rows, columns = axes.find("Y"), axes.find("X")
    if rows < 0 or columns < 0 or len(channels) > 1 or len(slices) > 1 or len(channels) + len(slices) + 2 != len(axes):
        raise GeometryError(f"TIFF axes {axes} of sizes {array.shape}, expected Y, X, pages and channels; split it")
    array = array.transpose(*channels, *slices, rows, columns)
    return array.reshape(-1 if channels else 1, *(array.shape[-3:] if slices else (1, *array.shape[-2:])))


def _read_itk(path: Path, reader: str) -> np.ndarray:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.ReadImage(str(path), imageIO=reader)
    array = sitk.GetArrayFromImage(image)
    array = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]
    return array if array.ndim == 4 else array[:, None]
