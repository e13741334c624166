"""DICOM segmentations and structure sets as masks, through :mod:`medseg.dicom`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import LabelError
from medseg.io import formats
from medseg.io.formats import Source
from medseg.io.sources import as_list, naming, resolve
from medseg.volume import Geometry, LabelVolume

log = logging.getLogger(__name__)


def find(path: Path) -> Path | None:
    """The DICOM segmentation or structure set that a path is or, of a folder, holds; None where there is none."""
    if not path.exists():
        return None
    with naming(path):
        if not path.is_dir() and not formats.is_dicom(path):
            return None
        from medseg import dicom

        if path.is_dir():
            return dicom.find_masks(path)
        return path if dicom.holds_masks(path) else None


def read(
    file: Path, grid: Geometry | None, values: Mapping[str, int] | None, image: Source | Sequence[Source] | None
) -> LabelVolume:
    """The mask in a file; see :func:`medseg.io.read_labels`.

    Raises:
        LabelError: segments overlap although ``values`` does not say which lies on top, or none has a name in it.
        FileUnreadableError, GeometryError, UsageError: as :func:`medseg.dicom.read_masks`.
    """
    from medseg import dicom

    with naming(file):
        masks = dicom.read_masks(file, grid, series=_series_of(image), names=values)
        for note in masks.notes:
            log.warning("%s: %s", file, note)
        if values is not None:
            named = {segment.name.casefold() for segment in masks.segments}
            if absent := [name for name in values if name.casefold() not in named]:
                log.warning(
                    "%s: no segment for %s, which counts as absent; if it was never drawn, say so with annotated",
                    file,
                    ", ".join(absent),
                )
            merged, overlapping = masks.merged(values, str(file))
            if overlapping:
                log.warning("%s: labels overlap in %d voxels; the later in the list lies on top", file, overlapping)
            return merged
        first, *others = masks.volumes
        if others:
            names = ", ".join(repr(segment.name) for segment in masks.segments)
            raise LabelError(f"{file}: its segments overlap ({names}); name the labels, so that the later lies on top")
        return first


def _series_of(image: Source | Sequence[Source] | None) -> Any:
    """The DICOM series that an image (its first channel) is; None where it is of another format."""
    if image is None:
        return None
    first, *_ = resolve(as_list(image)[:1])
    if not isinstance(first, Path):
        return first.parts[0]
    with naming(first):
        if not (first.is_dir() or formats.is_dicom(first)):
            return None
        from medseg import dicom

        return dicom.find_volume(first)[0]
