"""What a DICOM instance is, by its storage class: an image, or one of the things that are none."""

from __future__ import annotations

from medseg.dicom.headers import InstanceHeader

STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# What is no image, by storage class: the whole UID, or a beginning that ends with a dot.
_KINDS = {
    **dict.fromkeys(SEGMENTATIONS, "segmentation"),
    "1.2.840.10008.5.1.4.1.1.66.5": "surface",
    "1.2.840.10008.5.1.4.1.1.66.1": "registration",
    "1.2.840.10008.5.1.4.1.1.66.3": "registration",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    STRUCTURES: "structures",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose",
    "1.2.840.10008.5.1.4.1.1.481.5": "treatment plan",
    "1.2.840.10008.5.1.4.1.1.481.8": "treatment plan",
    "1.2.840.10008.5.1.4.1.1.88.": "report",
    "1.2.840.10008.5.1.4.1.1.11.": "presentation state",
    "1.2.840.10008.5.1.4.1.1.104.": "document",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "slide",
}
_KINDS_BY_MODALITY = {"SEG": "segmentation", "RTSTRUCT": "structures", "SR": "report", "RTDOSE": "dose"}


def kind_of(header: InstanceHeader) -> str:
    """What an instance is by its storage class; empty for an image."""
    uid = header.sop_class_uid
    for known, kind in _KINDS.items():
        if uid == known or (known.endswith(".") and uid.startswith(known)):
            return kind
    if header.modality in _KINDS_BY_MODALITY and not uid:
        return _KINDS_BY_MODALITY[header.modality]
    return "" if header.pixels is not None else "other"
