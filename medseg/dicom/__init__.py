"""DICOM: series in a folder tree, series as volumes, segmentations and structure sets as masks.

The only room where pydicom and LPS coordinates appear; everything handed out is RAS.
"""

from __future__ import annotations

from medseg.dicom.annotations import find_masks, holds_masks, read_masks
from medseg.dicom.channels import Request, scans_in
from medseg.dicom.discovery import FolderContent, choose, files_below, find_series, survey_files, survey_folder
from medseg.dicom.files import looks_like_dicom
from medseg.dicom.masks import Code, MaskSet, Segment
from medseg.dicom.segmentation_reading import read_segmentation
from medseg.dicom.selection import ANY, Selection, SeriesChoice, require_one_place
from medseg.dicom.series import Series
from medseg.dicom.structures_reading import read_structures
from medseg.dicom.volumes import find_volume, probe_series, read_series

__all__ = [
    "ANY",
    "Code",
    "FolderContent",
    "MaskSet",
    "Request",
    "Segment",
    "Selection",
    "Series",
    "SeriesChoice",
    "choose",
    "files_below",
    "find_masks",
    "find_series",
    "find_volume",
    "holds_masks",
    "looks_like_dicom",
    "probe_series",
    "read_masks",
    "read_segmentation",
    "read_series",
    "read_structures",
    "require_one_place",
    "scans_in",
    "survey_files",
    "survey_folder",
]
