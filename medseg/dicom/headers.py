"""What a DICOM file says before its pixels: one frozen value an instance, read in parallel.

No name or date of a patient is read, and of the number only a salted hash is kept, so that none can reach a log, a
table or a message.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from medseg.dicom.files import begins_like_dicom, damaged, quiet_pydicom, require_syntax
from medseg.dicom.frames import Plane, frames_of, number, text
from medseg.dicom.siemens import CSA_IMAGE_HEADER, MOSAIC_COUNT, Mosaic, mosaic_of
from medseg.errors import FileUnreadableError
from medseg.progress import Progress, silent

_PIXEL_DATA = (Tag(0x7FE0, 0x0008), Tag(0x7FE0, 0x0009), Tag(0x7FE0, 0x0010))
_BITS_ALLOCATED = (1, 8, 16, 32, 64)
_THREADS = 8  # waiting for a disk or a network share, more than computing
_BEGINNING = 1 << 14  # most headers of classic files are shorter; the others are read from the file itself
_AT_ONCE = 256

_TAGS: list[Any] = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription",
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "InstanceNumber", "PatientID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "Units",
    "EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "InversionTime",
    "FlipAngle", "DiffusionBValue", "DiffusionGradientOrientation", "AcquisitionNumber", "ComplexImageComponent",
    "NominalPercentageOfCardiacPhase", "FrameReferenceTime", "SeriesTime", "AcquisitionTime",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", MOSAIC_COUNT, CSA_IMAGE_HEADER,
]  # fmt: skip


@dataclass(frozen=True)
class PixelLayout:
    """How one file stores its pixels.

    Attributes:
        rows, columns, samples: size of a frame, and values a pixel (3 for colour).
        signed: whether stored values are two's complement.
        offset: where the element with the pixels begins in the file; 0 where the whole file is compressed.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    transfer_syntax: str
    implicit: bool
    offset: int
    kind: str  # "integer", "float" or "double", by the element that holds the pixels
    has_lookup: bool  # a modality lookup table instead of slope and intercept


@dataclass(frozen=True)
class InstanceHeader:
    """One DICOM instance without its pixels. Texts are empty and numbers None where the file does not say.

    Attributes:
        patient: a number that tells patients apart, and means nothing in another process.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    patient: int | None
    modality: str
    description: str
    series_number: int | None
    instance_number: int | None
    image_type: tuple[str, ...]
    units: str
    pixels: PixelLayout | None
    mosaic: Mosaic | None
    planes: tuple[Plane, ...]
    per_frame: bool  # whether frames say each where they lie (enhanced multi-frame)


def read_headers(paths: Sequence[Path], progress: Progress = silent) -> tuple[list[InstanceHeader], dict[Path, str]]:
    """Headers of the files that are DICOM, and for files that look like DICOM and cannot be read, why.

    Other files are in neither. Order is that of ``paths``. The beginnings of files are fetched in parallel, which is
    what takes long on a network share; taking them apart is Python, which threads would only slow down.
    """
    headers: list[InstanceHeader] = []
    unreadable: dict[Path, str] = {}
    with quiet_pydicom(), ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            batch = paths[start : start + _AT_ONCE]
            for path, beginning in zip(batch, pool.map(_beginning, batch), strict=True):
                result = beginning if isinstance(beginning, str) else _attempt(path, beginning)
                if isinstance(result, InstanceHeader):
                    headers.append(result)
                elif result:
                    unreadable[path] = result
            progress(start + len(batch), len(paths), "reading DICOM headers")
    return headers, unreadable


def _beginning(path: Path) -> bytes | str:
    """The first bytes of a file, or why it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(_BEGINNING)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def read_header(path: str | os.PathLike[str]) -> InstanceHeader:
    """The header of one file.

    Raises:
        FileUnreadableError: it is not DICOM, or damaged.
    """
    with quiet_pydicom():
        beginning = _beginning(Path(path))
        result = beginning if isinstance(beginning, str) else _attempt(Path(path), beginning)
    if isinstance(result, InstanceHeader):
        return result
    raise FileUnreadableError(result or "is not DICOM; give a DICOM file, or a folder of them")


def _attempt(path: Path, beginning: bytes) -> InstanceHeader | str | None:
    """The header, or why there is none; None for a file that does not even look like DICOM."""
    try:
        if not begins_like_dicom(beginning):
            named = path.suffix.lower() == ".dcm"
            return "is named .dcm, but its content is not DICOM; copy it again" if named else None
        if len(beginning) == _BEGINNING:
            try:
                header, end = _read(path, io.BytesIO(beginning))
                # Behind the header the first bytes of the pixels must be here too, or more of it may be missing.
                if end + 16 <= _BEGINNING:
                    return header
            except Exception:  # cut off in the middle of an element: nothing is known yet
                pass
        with path.open("rb") as file:
            return _read(path, file)[0]
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except FileUnreadableError as error:
        return str(error)
    except Exception as error:  # pydicom meets damage with errors of every type
        return damaged(error)


def _read(path: Path, file: BinaryIO) -> tuple[InstanceHeader, int]:
    """The header in an open file, and the offset behind it."""
    dataset = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=_TAGS)
    end = offset = file.tell()
    require_syntax(dataset)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    following = _tag(file.read(4), syntax != "1.2.840.10008.1.2.2")
    if syntax == "1.2.840.10008.1.2.1.99":  # deflated: offsets in the file mean nothing
        offset, following = 0, _PIXEL_DATA[2]
    pixels = None
    if following is not None and following in _PIXEL_DATA:
        pixels = _layout(dataset, syntax, offset, following)
    announced = str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    sop_class = text(dataset, "SOPClassUID") or announced
    is_image = any(UID(uid).name.endswith("Image Storage") for uid in (sop_class, announced))
    if pixels is None and (not sop_class or is_image):
        # A slice that lost its end must not pass for something that was never meant to be one.
        raise FileUnreadableError("ends before any pixels, although it should be an image; copy or export it again")
    mosaic = mosaic_of(dataset)
    planes, per_frame = frames_of(dataset, path, 1 if pixels is None else pixels.frames)
    header = InstanceHeader(
        path=path,
        sop_class_uid=sop_class,
        sop_instance_uid=text(dataset, "SOPInstanceUID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        frame_of_reference_uid=text(dataset, "FrameOfReferenceUID"),
        patient=hash(identity) if (identity := text(dataset, "PatientID").strip()) else None,
        modality=text(dataset, "Modality"),
        description=text(dataset, "SeriesDescription"),
        series_number=_whole(dataset, "SeriesNumber"),
        instance_number=_whole(dataset, "InstanceNumber"),
        image_type=tuple(part for part in text(dataset, "ImageType").split("\\") if part),
        units=text(dataset, "Units"),
        pixels=pixels,
        mosaic=mosaic,
        planes=planes,
        per_frame=per_frame,
    )
    return header, end


def _tag(four: bytes, little: bool) -> BaseTag | None:
    order = "little" if little else "big"
    if len(four) < 4:
        return None
    return Tag(int.from_bytes(four[:2], order), int.from_bytes(four[2:], order))  # type: ignore[arg-type]


def _layout(dataset: Dataset, syntax: str, offset: int, tag: BaseTag) -> PixelLayout | None:
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    frames = 1
    if text(dataset, "NumberOfFrames"):
        counted = _whole(dataset, "NumberOfFrames")
        if counted is None or counted < 1:
            raise FileUnreadableError("its number of frames is no number above 0; export it again")
        frames = counted
    kinds = {_PIXEL_DATA[0]: "float", _PIXEL_DATA[1]: "double", _PIXEL_DATA[2]: "integer"}
    allocated = _whole(dataset, "BitsAllocated") or {"float": 32, "double": 64}.get(kinds[tag])
    if not rows or not columns or not allocated:
        raise FileUnreadableError("says no size of its picture (rows, columns, bits allocated); export it again")
    if allocated not in _BITS_ALLOCATED:
        raise FileUnreadableError(f"stores {allocated} bits a pixel, expected {_BITS_ALLOCATED}; export it again")
    stored = _whole(dataset, "BitsStored") or allocated
    return PixelLayout(
        rows=rows,
        columns=columns,
        samples=_whole(dataset, "SamplesPerPixel") or 1,
        frames=frames,
        bits_allocated=allocated,
        bits_stored=min(stored, allocated),
        high_bit=_whole(dataset, "HighBit") or min(stored, allocated) - 1,
        signed=_whole(dataset, "PixelRepresentation") == 1,
        photometric=text(dataset, "PhotometricInterpretation") or "MONOCHROME2",
        transfer_syntax=syntax,
        implicit=syntax == "1.2.840.10008.1.2",
        offset=offset,
        kind=kinds[tag],
        has_lookup=bool(dataset.get("ModalityLUTSequence")),
    )


def _whole(dataset: Dataset, keyword: str) -> int | None:
    value = number(dataset, keyword)
    return None if value is None else int(value)
