"""A mask out of the house as DICOM: placed, written, read back, and only then given its name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from medseg import atomic
from medseg.dicom.description import Algorithm, describe
from medseg.dicom.files import quiet_pydicom
from medseg.dicom.placement import place
from medseg.dicom.segmentation_writing import write_segmentation
from medseg.dicom.selfcheck import check_segmentation, check_structures
from medseg.dicom.series import Series
from medseg.dicom.sources import read_sources
from medseg.dicom.structures_writing import write_structures
from medseg.errors import LabelError, SelfCheckError
from medseg.labels import LabelSet, value_counts
from medseg.volume import LabelVolume

MaskFormat = Literal["seg", "rtstruct"]
_KINDS = {"seg": (write_segmentation, check_segmentation), "rtstruct": (write_structures, check_structures)}


def write_masks(
    mask: LabelVolume,
    labels: LabelSet,
    series: Series,
    path: str | os.PathLike[str],
    *,
    format: MaskFormat,
    algorithm: Algorithm,
) -> None:
    """Write a mask as SEG or RTSTRUCT in the study of its series.

    The file is read back by independent arithmetic before it appears; see :mod:`medseg.dicom.selfcheck`.

    Args:
        mask: file values on any grid; on the series' own grid (axes exchanged or reversed as they may be) frames refer
            to images pixel by pixel, on another a SEG keeps the mask's grid and an RTSTRUCT is refused.
        labels: what the values mean; regions become overlapping segments. Voxels to be ignored are not written.
        series: the scan that the mask belongs to.
        algorithm: name and version of the model.

    Raises:
        LabelError: the mask holds a value that is no label.
        DataError: the series or the mask cannot be expressed; says why and what to write instead.
        SelfCheckError: the file read back wrong; nothing was released.
        StorageError: the folder cannot be written, or no space is left.
    """
    known = {labels.background, labels.ignore, *labels.values}
    strange = [value for value in value_counts(mask.array) if value not in known]
    if strange:
        raise LabelError(
            f"{series}: the mask holds values that no label has: {strange[:5]}; declared are {sorted(labels.values)}"
        )
    segments = describe(labels)
    write, check = _KINDS[format]
    with quiet_pydicom():
        sources = read_sources(series)
        placement = place(mask, sources)
        with atomic.replacing_file(path) as temporary:
            write(placement, sources, segments, algorithm, temporary)
            try:
                check(temporary, mask, segments, series.files)
            except (AttributeError, LookupError, TypeError, ValueError) as error:  # its words may quote a patient
                raise SelfCheckError(
                    f"{series}: the {format.upper()} cannot be read back ({type(error).__name__}) and was not released;"
                    " write NIfTI and report this"
                ) from error


def output_name(series: Series, format: MaskFormat) -> Path:
    """Where a series' mask goes below an output folder: identifiers, which tell nothing of the patient."""
    name = series.uid if not series.name else f"{series.uid}_{_plain(series.name)}"
    return Path(_plain(series.study_uid)) / f"{_plain(name)}.{format}.dcm"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "unknown"
