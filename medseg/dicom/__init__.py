"""DICOM: series in a folder tree, series as volumes, segmentations and structure sets as masks.

The only room where pydicom and LPS coordinates appear; everything handed out is RAS.
"""

from __future__ import annotations

from medseg.dicom.discovery import FolderContent, Series, choose, find_series, survey_folder
from medseg.dicom.headers import looks_like_dicom
from medseg.dicom.volumes import find_volume, probe_series, read_series

__all__ = [
    "FolderContent",
    "Series",
    "choose",
    "find_series",
    "find_volume",
    "looks_like_dicom",
    "probe_series",
    "read_series",
    "survey_folder",
]
