"""Read and write images and masks. The content of a file decides how it is read, its ending how it is written.

Read: NIfTI-1/2 (.nii, .nii.gz, .hdr/.img), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), FreeSurfer (.mgz, .mgh), and
for two dimensions PNG, JPEG, BMP and TIFF; DICOM series as folders or files, and as masks DICOM SEG and RTSTRUCT.
Written: .nii, .nii.gz, .nrrd, .mha, .png, .tif.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medseg import atomic
from medseg.errors import DataError, LabelError, UsageError
from medseg.io import alignment, dicom_masks, formats
from medseg.io.formats import ENDINGS, Source, ending_of, is_image_name, mask_ending, name_of
from medseg.io.header import Header, narrowed
from medseg.io.sources import as_list, naming, resolve
from medseg.volume import EQUAL_WITHIN_VOXELS, Geometry, LabelVolume, Volume

__all__ = [
    "ENDINGS",
    "Header",
    "Source",
    "ending_of",
    "files_of",
    "holds_dicom",
    "is_image_name",
    "mask_ending",
    "name_of",
    "probe",
    "read",
    "read_labels",
    "require_finite",
    "require_writable",
    "resolve",
    "stamp",
    "write",
]

PathLike = str | os.PathLike[str]
T = TypeVar("T")

# How far a mask stored as real numbers may lie from integers: 0.99999997 is 1.
INTEGER_WITHIN = 1e-3
LARGEST_EXACT_INTEGER = 2.0**53


def read(path: Source | Sequence[Source], channels: int | None = None) -> Volume:
    """Read an image, or several files as the channels of one.

    A fourth axis holds channels. The stored type is kept, in native byte order; where a header scales the values, or
    channels are stored in different types, the result is float32. NaN and infinity are kept: see
    :func:`require_finite`.

    Args:
        channels: how many channels are expected. Grey pictures then count as colour or the reverse, where that loses
            nothing.

    Raises:
        FileUnreadableError: missing, damaged, cut short, or of an unknown format.
        GeometryError: a grid that makes no sense, more axes than four, or channels on different grids.
        DataError: another number of channels than expected, or DICOM without an image.
        UsageError: a folder of several DICOM volumes, or several DICOM masks.
    """
    parts = _each(path, lambda file: _reader(file).read(file))
    name, first = parts[0]
    for index, (other, volume) in enumerate(parts[1:], 1):
        if _to_be_resampled(other) and volume.geometry.distance_voxels(first.geometry) > EQUAL_WITHIN_VOXELS:
            parts[index] = other, alignment.onto(volume, first.geometry, str(other))
        else:
            first.geometry.require_equal(volume.geometry, str(name), str(other))
    if len(parts) > 1:
        arrays = [volume.array for _, volume in parts]
        dtype = arrays[0].dtype if len({array.dtype for array in arrays}) == 1 else np.dtype(np.float32)
        first = first.with_array(np.concatenate(arrays, dtype=dtype, casting="unsafe"))
    elif channels is not None and _is_picture(name):
        from medseg.io import pictures

        first = pictures.with_channels(first, channels)
    if channels is not None and first.channels != channels:
        raise DataError(
            f"{', '.join(str(file) for file, _ in parts)}: expected {channels} channels, found {first.channels};"
            " give one file a channel, or one file with all of them"
        )
    return first


def read_labels(
    path: PathLike,
    *,
    grid: Geometry | None = None,
    values: Mapping[str, int] | None = None,
    image: Source | Sequence[Source] | None = None,
) -> LabelVolume:
    """Read a mask as integers, in its stored type where that is an integer type, else in the smallest that fits.

    Args:
        path: a file, or a folder that holds one DICOM segmentation or structure set.
        grid: of the scan. DICOM segmentations and structure sets are put on it; for other files it has no meaning.
        values: of DICOM segments by name: what a voxel of each holds; others are left out. By default their numbers.
        image: the scan, to check that DICOM masks belong to it where it is DICOM too.

    Raises:
        LabelError: values further than 1e-3 from an integer, several channels that are not equal, DICOM segments that
            overlap although ``values`` does not say which lies on top, or none of the names in ``values``.
        FileUnreadableError, GeometryError, UsageError: as for :func:`read`.
    """
    file = Path(path)
    if (masks := dicom_masks.find(file)) is not None:
        return dicom_masks.read(masks, grid, values, image)
    ((_, volume),) = _each(path, _read_indices)
    array = volume.array[0]
    if any(not np.array_equal(array, other) for other in volume.array[1:]):
        raise LabelError(f"{file}: a mask has one channel, found {volume.channels}; store one integer a voxel")
    if array.dtype.kind == "f":
        array = _integers(array, file)
    return LabelVolume(array, volume.geometry)


def probe(path: Source | Sequence[Source]) -> Header:
    """Shape, grid and type of an image without reading its voxels (but for pictures, which are small).

    Raises:
        FileUnreadableError, GeometryError, UsageError: as for :func:`read`.
    """
    parts = _each(path, lambda file: _reader(file).read_header(file))
    name, first = parts[0]
    for other, header in parts[1:]:
        if not _to_be_resampled(other):
            first.geometry.require_equal(header.geometry, str(name), str(other))
    dtypes = {header.dtype for _, header in parts}
    dtype = first.dtype if len(dtypes) == 1 else np.dtype(np.float32)
    return Header(sum(header.channels for _, header in parts), first.geometry, dtype)


def write(image: Volume | LabelVolume, path: PathLike, like: Source | None = None) -> None:
    """Write an image or a mask, whole or not at all; the ending of ``path`` chooses the format.

    Masks keep their integer type, but for 64 bits, which few programs read: those shrink to the smallest that fits.

    Args:
        like: the scan that a mask belongs to. Where both have the same format, the numbers that place the grid in
            space are copied from it exactly, rather than computed anew.

    Raises:
        UsageError: an ending that is not written, or an image that the format cannot hold.
        GeometryError: the image does not lie on the grid of ``like``.
        StorageError: the folder cannot be written, or no space is left.
    """
    target = Path(path)
    source = None
    with naming(target):
        writer = formats.writer(target)
    if like is not None:
        image.geometry.require_equal(probe(like).geometry, "the mask to write", str(like))
        if isinstance(like, str | os.PathLike):
            origin = formats.grid_file(Path(like))
            source = origin if formats.reader(origin) is writer else None
    try:
        with atomic.replacing_file(target) as temporary:
            writer.write(image, temporary, source)
    except ValueError as error:
        raise UsageError(f"{target}: {error}") from error


def files_of(path: Path) -> list[Path]:
    """A file, or all files of a folder of DICOM; none where there is neither."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.exists() else []


def holds_dicom(path: Path) -> bool:
    """Whether a file is DICOM, or a folder holds some."""
    if path.is_dir():
        return formats.holds_dicom(path)
    return ending_of(path) is None and path.is_file() and formats.is_dicom(path)


def stamp(source: Source) -> tuple[object, ...]:
    """Changes whenever what is read does: how it is read, and each file with its size and time."""
    if isinstance(source, str | os.PathLike):
        files: Sequence[Path] = files_of(Path(source))
        how: tuple[object, ...] = ()
    else:
        files, how = source.files, source.settings
    stats = [(file, file.stat()) for file in files]
    return (*how, *((str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in stats))


def require_finite(volume: Volume, where: str) -> None:
    """Raise where voxels are NaN or infinite. ``where`` names the file or case.

    Raises:
        DataError: says how many there are.
    """
    if volume.array.dtype.kind != "f":
        return
    count = sum(int(np.count_nonzero(~np.isfinite(channel))) for channel in volume.array)
    if count:
        raise DataError(
            f"{where}: {count} of {volume.array.size} voxels are NaN or infinite; replace them (for example by 0)"
        )


def require_writable(path: PathLike) -> None:
    """Raise where :func:`write` knows no format for the ending of ``path``.

    Raises:
        UsageError: lists the endings that are written.
    """
    with naming(Path(path)):
        formats.writer(Path(path))


def _each(path: Source | Sequence[Source], function: Callable[[Any], T]) -> list[tuple[Any, T]]:
    """What a function makes of each file; of DICOM series that were asked for or already found, of those."""
    sources = as_list(path)
    if not sources:
        raise UsageError("no file was given; give one, or one a channel")
    results = []
    for source in resolve(sources):
        with naming(source):
            results.append((source, function(formats.grid_file(source) if isinstance(source, Path) else source)))
    return results


def _to_be_resampled(source: Any) -> bool:
    return not isinstance(source, Path) and source.resample


def _reader(file: Any) -> Any:
    """The module that reads a file, or a series already found."""
    if isinstance(file, Path):
        return formats.reader(file)
    from medseg.io import series

    return series


def _is_picture(file: Any) -> bool:
    return isinstance(file, Path) and formats.is_picture(file)


def _read_indices(path: Path) -> Volume:
    """A mask as an image: a palette stands for its indices."""
    reader = formats.reader(path)
    if not formats.is_picture(path):
        return reader.read(path)
    from medseg.io import pictures

    return pictures.read(path, indices=True)


def _integers(array: np.ndarray, path: Path) -> np.ndarray:
    """A mask stored as real numbers as the integers that it means."""
    rounded = np.rint(array)
    with np.errstate(invalid="ignore"):
        # Written so that NaN and infinity count as far away.
        strange = array[~((np.abs(array - rounded) <= INTEGER_WITHIN) & (np.abs(array) < LARGEST_EXACT_INTEGER))]
    if strange.size:
        listed = ", ".join(f"{value:.6g}" for value in np.unique(strange)[:5])
        raise LabelError(
            f"{path}: a mask holds integers, found {strange.size} voxels that are none, such as {listed};"
            " this may be an image or a probability map"
        )
    return narrowed(rounded.astype(np.int64), (np.uint8, np.uint16, np.int16, np.int32, np.int64))
