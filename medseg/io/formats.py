"""Which module reads a file, by its content, and which writes it, by its ending."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

from medseg.errors import FileUnreadableError, UsageError
from medseg.io import content
from medseg.io.header import Header
from medseg.volume import LabelVolume, Volume

if TYPE_CHECKING:
    from medseg.dicom import Request, Selection

# Longest first, so that ".nii.gz" is not taken for ".gz".
ENDINGS = (
    ".nii.gz",
    ".hdr.gz",
    ".img.gz",
    ".nii",
    ".hdr",
    ".img",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".mgz",
    ".mgh",
    ".png",
    ".tiff",
    ".tif",
    ".jpeg",
    ".jpg",
    ".bmp",
)

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MINC = (b"\x89HDF", b"CDF\x01", b"CDF\x02")
_HEAD_SIZE = 1024
_KNOWN = "NIfTI, NRRD, MetaImage, MGZ, DICOM, PNG, JPEG, BMP or TIFF"


# What is read: a file, a folder of DICOM files, DICOM series to be found in one, or a series already found.
Source: TypeAlias = Union[str, "os.PathLike[str]", "Request", "Selection"]


class Reader(Protocol):
    """What a module that reads a format offers."""

    @staticmethod
    def read(path: Path) -> Volume:
        """The whole image."""
        ...

    @staticmethod
    def read_header(path: Path) -> Header:
        """All but the voxels."""
        ...


class Writer(Protocol):
    """What a module that writes a format offers."""

    @staticmethod
    def write(image: Volume | LabelVolume, path: Path, like: Path | None) -> None:
        """Write the file, with the grid fields of ``like`` where one is given."""
        ...


def name_of(path: str | os.PathLike[str]) -> str:
    """The file's name without folder and known ending: ``"a/liver_1.nii.gz"`` gives ``"liver_1"``."""
    name = Path(path).name
    ending = ending_of(name)
    return name[: -len(ending)] if ending else name


def ending_of(path: str | os.PathLike[str]) -> str | None:
    """The known ending of a file's name, in lower case, or None."""
    name = Path(path).name.lower()
    return next((ending for ending in ENDINGS if name.endswith(ending) and len(name) > len(ending)), None)


def is_image_name(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name is that of an image. Hidden files and the second file of a pair are not."""
    return ending_of(path) not in (None, ".img", ".img.gz") and not Path(path).name.startswith((".", "_"))


def mask_ending(path: Source) -> str:
    """The ending in which a mask of an image is written: the image's own kind where that is written, else NIfTI."""
    if not isinstance(path, str | os.PathLike):
        return ".nii.gz"
    match ending_of(path):
        case ".nii" | ".nrrd" | ".mha" | ".png" | ".tif" | ".tiff" as same:
            return same
        case ".nhdr":
            return ".nrrd"
        case ".mhd":
            return ".mha"
        case ".jpg" | ".jpeg" | ".bmp":
            return ".png"
    return ".nii.gz"


def reader(path: Path) -> Reader:
    """The module that reads a file.

    Raises:
        FileUnreadableError: empty, a folder without DICOM, or of no known format.
    """
    if path.is_dir():
        if holds_dicom(path):
            from medseg.io import series

            return series
        raise FileUnreadableError("is a folder; give a file, one a channel, or a folder of DICOM files")
    head = content.head(path, _HEAD_SIZE)
    ending = ending_of(path)
    if not head:
        raise FileUnreadableError("is empty; copy it again")
    # Before TIFF, whose first bytes scanners write into the unused start of a DICOM file.
    if is_dicom(path):
        from medseg.io import series

        return series
    if head.startswith(b"NRRD"):
        from medseg.io import nrrd

        return nrrd
    if head.startswith(_PICTURES):
        from medseg.io import pictures

        return pictures
    if ending in (".mha", ".mhd") and b"NDims" in head:
        from medseg.io import metaimage

        return metaimage
    if ending in (".mgz", ".mgh") and head.startswith(b"\0\0\0\x01"):
        from medseg.io import mgh

        return mgh
    from medseg.io import nifti

    if nifti.is_header(head):
        return nifti
    from medseg import dicom

    if dicom.looks_like_dicom(path):  # without the mark; last, since little tells it from other files
        from medseg.io import series

        return series
    raise FileUnreadableError(_refusal(head))


def writer(path: Path) -> Writer:
    """The module that writes files with the ending of ``path``.

    Raises:
        UsageError: the ending is not written.
    """
    match ending_of(path):
        case ".nii" | ".nii.gz":
            from medseg.io import nifti

            return nifti
        case ".nrrd":
            from medseg.io import nrrd

            return nrrd
        case ".mha":
            from medseg.io import metaimage

            return metaimage
        case ".png" | ".tif" | ".tiff":
            from medseg.io import pictures

            return pictures
    raise UsageError("this ending is not written; use .nii.gz, .nii, .nrrd, .mha, or .png or .tif for pictures")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its mark, or by its name where the mark is missing."""
    if path.suffix.lower() == ".dcm" or path.name == "DICOMDIR":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def holds_dicom(folder: Path) -> bool:
    """Whether a DICOM file lies in a folder tree, with or without DICOM's mark."""
    from medseg import dicom

    files = (file for file in folder.rglob("*") if file.is_file() and ending_of(file) is None)
    return any(is_dicom(file) or dicom.looks_like_dicom(file) for file in files)


def is_minc(path: Path) -> bool:
    """Whether a file is MINC, or of another kind that is built on HDF5 or NetCDF."""
    with path.open("rb") as file:
        return file.read(4).startswith(_MINC)


def is_picture(path: Path) -> bool:
    """Whether a file is PNG, JPEG, BMP or TIFF. DICOM may begin like a TIFF and a folder has no content."""
    if path.is_dir():
        return False
    head = content.head(path, _HEAD_SIZE)
    return head.startswith(_PICTURES) and head[128:132] != b"DICM"


def grid_file(path: Path) -> Path:
    """Of a pair the file that holds the grid: the .hdr beside an .img; any other path as it is.

    Raises:
        FileUnreadableError: there is no such header.
    """
    if ending_of(path) not in (".img", ".img.gz"):
        return path
    beside = [path.with_name(name_of(path) + ending) for ending in (".hdr", ".hdr.gz", ".HDR")]
    for candidate in beside:
        if candidate.is_file():
            return candidate
    raise FileUnreadableError(f"voxels without a header: {beside[0].name} is not beside it; copy both files")


def _refusal(head: bytes) -> str:
    if int.from_bytes(head[:4], "little") == 348 or int.from_bytes(head[:4], "big") == 348:
        return "is ANALYZE 7.5, which knows no left and right; convert to NIfTI"
    if head.startswith(_MINC):
        return "is MINC or another HDF5/NetCDF file; convert to NIfTI, for example with mnc2nii"
    return f"is not {_KNOWN}; give an image, or convert it to NIfTI"
