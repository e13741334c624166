"""A case's image and reference mask as values, checked against what the dataset says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg import io
from medseg.dataset.cases import CaseRef
from medseg.errors import GeometryError, LabelError
from medseg.labels import LabelSet, value_counts
from medseg.volume import Geometry, LabelVolume, Volume


def load_case(case: CaseRef, labels: LabelSet, channels: tuple[str, ...]) -> tuple[Volume, LabelVolume | None]:
    """Read the image (C, Z, Y, X) and mask (Z, Y, X) of a case, and check them against the dataset.

    Returns:
        The image in its stored type, and the mask with the file's values, or None where the case has none.

    Raises:
        FileUnreadableError: a file is missing or damaged.
        DataError: another number of channels than declared, or voxels that are NaN or infinite.
        GeometryError: channels, or image and mask, lie on different grids.
        LabelError: the mask holds values that are not declared, or classes that the case is not annotated for.
    """
    sources = io.resolve(case.sources(channels))
    volume = io.read(sources, channels=len(channels))
    io.require_finite(volume, f"{case.name}: {', '.join(map(str, case.images))}")
    if case.label is None:
        return volume, None
    mask = read_reference(case.label, labels, case.segments, volume.geometry, sources)
    try:
        volume.geometry.require_equal(mask.geometry, str(case.images[0]), str(case.label))
    except GeometryError as error:
        raise GeometryError(f"{case.name}: {error}; see what to do with: medseg doctor DATASET") from error
    labels.encode(mask.array, where=f"{case.name}: {case.label}")  # for its check of the values
    _require_annotated(case, labels, mask.array)
    return volume, LabelVolume(mask.array, volume.geometry, labels.meaning)


def read_reference(
    label: Path,
    labels: LabelSet,
    segments: tuple[tuple[str, int], ...],
    grid: Geometry,
    image: Sequence[io.Source] | None = None,
) -> LabelVolume:
    """Read a reference mask; one in DICOM on the grid of its scan, with the values that its segments' names stand for.

    Args:
        segments: as of :class:`CaseRef`.
        image: the scan, to check that a DICOM mask belongs to it.

    Raises:
        As :func:`medseg.io.read_labels`.
    """
    values = dict(segments) or {name: values[0] for name, values in labels.classes.items() if len(values) == 1}
    return io.read_labels(label, grid=grid, values=values, image=image)


def _require_annotated(case: CaseRef, labels: LabelSet, mask: np.ndarray) -> None:
    if case.annotated is None:
        return
    shown = {value for name in case.annotated for value in labels.classes[name]}
    hidden = [value for value in labels.values if value not in shown]
    found = [value for value in value_counts(mask) if value in hidden]
    if found:
        raise LabelError(
            f"{case.name}: {case.label}: annotated for {', '.join(case.annotated)}, but holds the values {found};"
            " add their classes to annotated, or remove them from the mask"
        )
