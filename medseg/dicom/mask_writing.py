"""A mask out of the house as DICOM: placed, written, read back, and only then given its name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from medseg import atomic
from medseg.dicom.description import Algorithm, Meaning, describe
from medseg.dicom.placement import place
from medseg.dicom.segmentation_writing import write_segmentation
from medseg.dicom.selfcheck import check_segmentation, check_structures
from medseg.dicom.sources import SourceSeries, read_sources
from medseg.dicom.structures_writing import write_structures
from medseg.errors import LabelError
from medseg.labels import LabelSet, value_counts
from medseg.volume import LabelVolume

MaskFormat = Literal["seg", "rtstruct"]
_KINDS = {"seg": (write_segmentation, check_segmentation), "rtstruct": (write_structures, check_structures)}


def write_masks(
    mask: LabelVolume,
    labels: LabelSet,
    files: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    format: MaskFormat,
    algorithm: Algorithm,
    meanings: Mapping[str, Meaning] | None = None,
) -> Path:
    """Write a mask as SEG or RTSTRUCT in the study of its series, and return where.

    The file is read back by independent arithmetic before it appears; see :mod:`medseg.dicom.selfcheck`.

    Args:
        mask: file values on any grid; on the series' own grid (axes exchanged or reversed as they may be) frames refer
            to images pixel by pixel, on another a SEG keeps the mask's grid and an RTSTRUCT is refused.
        labels: what the values mean; regions become overlapping segments. Voxels to be ignored are not written.
        files: the images of the series the mask belongs to, in any order.
        path: a file that ends in ``.dcm``, or a folder: then ``STUDY_UID/SERIES_UID.seg.dcm`` below it.
        algorithm: name and version of the model.
        meanings: code, side and colour of labels, by name; defaults in :mod:`medseg.dicom.description`.

    Raises:
        LabelError: the mask holds a value that is no label.
        DataError: the series or the mask cannot be expressed; says why and what to write instead.
        SelfCheckError: the file read back wrong; nothing was released.
        StorageError: the folder cannot be written, or no space is left.
    """
    series = read_sources(files)
    known = {labels.background, labels.ignore, *labels.values}
    strange = [value for value in value_counts(mask.array) if value not in known]
    if strange:
        raise LabelError(
            f"series {series.first.SeriesInstanceUID}: the mask holds values that no label has: {strange[:5]}; declared"
            f" are {sorted(labels.values)}"
        )
    segments = describe(labels, meanings)
    write, check = _KINDS[format]
    target = Path(path)
    if target.suffix != ".dcm":
        target = target / output_name(series, format)
    placement = place(mask, series)
    with atomic.replacing_file(target) as temporary:
        write(placement, series, segments, algorithm, temporary)
        check(temporary, mask, segments, files)
    return target


def output_name(series: SourceSeries, format: MaskFormat) -> Path:
    """Where a series' mask goes below an output folder: names are identifiers that tell nothing of the patient."""
    return Path(str(series.first.StudyInstanceUID)) / f"{series.first.SeriesInstanceUID}.{format}.dcm"
