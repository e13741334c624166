"""DICOM series as images, through :mod:`medseg.dicom`. The path is a file or a folder, or a series already found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg import dicom
from medseg.io.header import Header
from medseg.volume import Volume


def read(path: Path | dicom.Selection) -> Volume:
    """The whole image.

    Raises:
        As :func:`medseg.dicom.read_series`.
    """
    return path.read() if isinstance(path, dicom.Selection) else dicom.read_series(path)


def read_header(path: Path | dicom.Selection) -> Header:
    """All but the voxels.

    Raises:
        As :func:`medseg.dicom.read_series`.
    """
    channels, geometry, dtype = path.probe() if isinstance(path, dicom.Selection) else dicom.probe_series(path)
    return Header(channels, geometry, np.dtype(dtype))  # type: ignore[call-overload]
