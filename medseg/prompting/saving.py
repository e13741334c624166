"""A session's mask as a file: in the format that its name asks for, or as SEG of a DICOM series."""

from __future__ import annotations

import os
from pathlib import Path

from medseg import __version__, dicom, io
from medseg.dicom.description import Algorithm
from medseg.dicom.mask_writing import write_masks
from medseg.errors import UsageError
from medseg.io import formats
from medseg.labels import LabelSet
from medseg.volume import LabelVolume

PathLike = str | os.PathLike[str]


def require_writable(path: PathLike, image: PathLike) -> None:
    """Find out before the work whether the mask of an image can be written under a name.

    Raises:
        UsageError: an ending that is not written, or a SEG of what is no DICOM series.
    """
    if _is_seg(path):
        if not _is_dicom(Path(image)):
            raise UsageError(
                f"-o {path}: a SEG refers to DICOM images, found {image}; give the series, or write .nii.gz"
            )
        return
    try:
        formats.writer(Path(path))
    except UsageError as error:
        raise UsageError(f"-o {path}: {error}") from error


def save_mask(mask: LabelVolume, path: PathLike, image: PathLike, engine: str) -> None:
    """Write the mask of an image, whole or not at all; a name that ends in ``.dcm`` becomes a SEG.

    Args:
        engine: what made the mask, as it stands in a SEG.

    Raises:
        UsageError: as :func:`require_writable`.
        GeometryError: the mask does not lie on the image's grid.
        DataError, SelfCheckError: the SEG cannot be written; see :func:`medseg.dicom.mask_writing.write_masks`.
        StorageError: the folder cannot be written, or no space is left.
    """
    if not _is_seg(path):
        io.write(mask, path, like=image if io.ending_of(image) else None)
        return
    require_writable(path, image)
    labels = LabelSet({name: (value,) for name, value in mask.labels.items() if isinstance(value, int)})
    algorithm = Algorithm(f"medseg prompt {engine}", __version__)
    write_masks(mask, labels, dicom.find_volume(image)[0], path, format="seg", algorithm=algorithm)


def _is_seg(path: PathLike) -> bool:
    return Path(path).suffix.lower() == ".dcm"


def _is_dicom(image: Path) -> bool:
    return image.is_dir() or (image.is_file() and (formats.is_dicom(image) or dicom.looks_like_dicom(image)))
