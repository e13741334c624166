"""Small DICOM files whose every number is chosen by the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "SR": "1.2.840.10008.5.1.4.1.1.88.33",
    "ENHANCED MR": "1.2.840.10008.5.1.4.1.1.4.1",
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PHI = {
    "PatientName": "Quux^Zebedee",
    "PatientID": "PID-77341",
    "PatientBirthDate": "19320704",
    "AccessionNumber": "ACC-99120",
}


def instance(kind: str = "CT", **elements: Any) -> Dataset:
    """An object without pixels that names a patient."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CLASSES[kind], generate_uid()
    dataset.Modality = kind.split()[-1]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
    for name, value in {**PHI, **elements}.items():
        if value is None:
            if name in dataset:
                delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def picture(pixels: np.ndarray, kind: str = "CT", **elements: Any) -> Dataset:
    """One slice (Y, X), or one in colour (Y, X, 3)."""
    dataset = instance(kind)
    bits = pixels.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0.0, 0.0, 0.0], list(AXIAL)
    dataset.PixelSpacing, dataset.SliceThickness = [1.0, 1.0], 1.0
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.add_new("PixelData", "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))
    for name, value in elements.items():
        if value is None:
            if name in dataset:
                delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def save(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def stack(
    folder: Path,
    array: np.ndarray,
    *,
    kind: str = "CT",
    positions: Sequence[Sequence[float]] | None = None,
    step: Sequence[float] = (0.0, 0.0, 1.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    prefix: str = "",
    each: Sequence[dict[str, Any]] | None = None,
    **elements: Any,
) -> list[Path]:
    """An array (Z, Y, X) as one file a slice, written backwards so that names mean nothing; LPS mm.

    ``each`` holds elements of the single slices.
    """
    if positions is None:
        positions = [[o + s * z for o, s in zip(origin, step, strict=True)] for z in range(len(array))]
    files = []
    for z, (pixels, position) in enumerate(zip(array, positions, strict=True)):
        own = {} if each is None else each[z]
        dataset = picture(
            pixels,
            kind,
            **{
                "ImagePositionPatient": [float(f"{v:.8g}") for v in position],
                "InstanceNumber": z + 1,
                **elements,
                **own,
            },
        )
        files.append(save(dataset, folder / f"{prefix}{len(array) - z:03d}.dcm"))
    return files


def count(*shape: int, dtype: str = "int16") -> np.ndarray:
    """An array in which every voxel has its own value."""
    return np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
