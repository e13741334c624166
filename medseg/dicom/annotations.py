"""Masks of a scan from any DICOM object that holds some."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from medseg.dicom.discovery import find_series
from medseg.dicom.headers import read_header
from medseg.dicom.kinds import SEGMENTATIONS, STRUCTURES
from medseg.dicom.masks import MaskSet
from medseg.dicom.segmentation_reading import read_segmentation
from medseg.dicom.series import Series
from medseg.dicom.structures_reading import read_structures
from medseg.errors import GeometryError, UsageError
from medseg.volume import Geometry

_LISTED = 5


def holds_masks(path: str | os.PathLike[str]) -> bool:
    """Whether a DICOM file is a segmentation or a structure set.

    Raises:
        FileUnreadableError: it is not DICOM, or damaged.
    """
    header = read_header(path)
    return header.sop_class_uid in (STRUCTURES, *SEGMENTATIONS) or header.modality in ("SEG", "RTSTRUCT")


def find_masks(path: str | os.PathLike[str]) -> Path | None:
    """The one segmentation or structure set in a folder tree; None where there is none.

    Raises:
        FileUnreadableError: no such folder.
        UsageError: several.
    """
    found = [file for one in find_series(path) if one.kind in ("segmentation", "structures") for file in one.files]
    if len(found) > 1:
        listed = ", ".join(str(file.relative_to(path)) for file in found[:_LISTED])
        raise UsageError(f"{path}: expected one segmentation or structure set, found {len(found)}: {listed}; name one")
    return found[0] if found else None


def read_masks(
    path: str | os.PathLike[str],
    geometry: Geometry | None = None,
    *,
    series: Series | None = None,
    names: Collection[str] | None = None,
) -> MaskSet:
    """Read a segmentation or a structure set.

    Args:
        geometry: the grid of the scan; needed for a structure set.
        series: the scan, where it is DICOM, to check that the masks are meant for it.
        names: structures to draw; see :func:`medseg.dicom.structures_reading.read_structures`.

    Raises:
        UsageError: a structure set without a grid.
        GeometryError: the masks belong to another frame of reference, or do not lie on the grid.
        FileUnreadableError: damaged, or neither of the two.
    """
    header = read_header(path)
    if header.sop_class_uid == STRUCTURES or header.modality == "RTSTRUCT":
        if geometry is None:
            raise UsageError(f"{Path(path)}: contours are drawn on the grid of a scan; give the scan as well")
        return read_structures(path, geometry, series=series, names=names)
    found = read_segmentation(path, geometry)
    if series is not None and series.uid != found.series_uid:
        frames = (series.frame_of_reference_uid, found.frame_of_reference_uid)
        if all(frames) and frames[0] != frames[1]:
            raise GeometryError(
                f"{path}: lies in another frame of reference than {series}; give the scan it belongs to"
            )
    return found
