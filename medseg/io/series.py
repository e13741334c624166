"""DICOM series as images, through :mod:`medseg.dicom`. The path is a file or a folder, or a series already found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg import dicom
from medseg.errors import DataError
from medseg.io.header import Header
from medseg.volume import Volume


def read(path: Path | dicom.Selection) -> Volume:
    """The whole image.

    Raises:
        As :func:`medseg.dicom.read_series`.
    """
    try:
        return path.read() if isinstance(path, dicom.Selection) else dicom.read_series(path)
    except DataError as error:
        if type(error) is DataError:  # the others are named by the caller
            raise DataError(f"{path}: {error}") from error
        raise


def read_header(path: Path | dicom.Selection) -> Header:
    """All but the voxels.

    Raises:
        As :func:`medseg.dicom.read_series`.
    """
    try:
        channels, geometry, dtype = path.probe() if isinstance(path, dicom.Selection) else dicom.probe_series(path)
    except DataError as error:
        if type(error) is DataError:
            raise DataError(f"{path}: {error}") from error
        raise
    return Header(channels, geometry, np.dtype(dtype))  # type: ignore[call-overload]
