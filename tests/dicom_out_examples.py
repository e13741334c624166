"""Small series of DICOM images as files, and readers of masks that share nothing with the package."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medseg.volume import Geometry

PHI = {
    "PatientName": "Quux^Zebedee",
    "PatientID": "PID-77341",
    "PatientBirthDate": "19320704",
    "AccessionNumber": "ACC-99120",
}


def write_series(
    folder: Path,
    shape: Sequence[int] = (5, 12, 10),
    spacing_mm: Sequence[float] = (3.0, 1.0, 0.8),
    cosines: np.ndarray | None = None,
    origin_mm: Sequence[float] = (-10.0, 20.0, 30.0),
    step: np.ndarray | None = None,
    study: str | None = None,
    order: Sequence[int] | None = None,
) -> list[Path]:
    """A CT series (frames, rows, columns), files in the order given, LPS position and direction as given.

    ``step`` is the unit direction from one frame to the next: the normal unless told otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cosines = np.array([[1.0, 0, 0], [0, 1, 0]]) if cosines is None else cosines
    step = np.cross(*cosines) if step is None else step
    shared = {"StudyInstanceUID": study or generate_uid(), "SeriesInstanceUID": generate_uid()}
    frame_of_reference = generate_uid()
    files = []
    for place in range(shape[0]) if order is None else order:
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.Modality, image.StudyDate, image.StudyTime, image.StudyID = "CT", "20200102", "101112", "1"
        image.PatientSex, image.Manufacturer, image.ReferringPhysicianName = "O", "Nobody", ""
        for name, value in {**PHI, **shared, "FrameOfReferenceUID": frame_of_reference}.items():
            setattr(image, name, value)
        image.SeriesNumber, image.InstanceNumber, image.PositionReferenceIndicator = 3, len(files) + 1, ""
        image.ImagePositionPatient = [f"{v:.6f}"[:16] for v in np.asarray(origin_mm) + step * spacing_mm[0] * place]
        image.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in cosines.ravel()]
        image.PixelSpacing = [f"{v:.9g}" for v in spacing_mm[1:]]
        image.SliceThickness = "9.75"  # as wrong as it often is
        image.Rows, image.Columns, image.SamplesPerPixel = shape[1], shape[2], 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 1
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.RescaleIntercept, image.RescaleSlope = "0", "1"
        image.PixelData = np.full((shape[1], shape[2]), place, dtype=np.int16).tobytes()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = CTImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        path = folder / f"{len(files):04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def grid_of(files: Sequence[Path]) -> Geometry:
    """The grid (frames, rows, columns) of a series, by the standard's equations, in RAS."""
    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    along_row, along_column = np.array(images[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    positions = np.array([image.ImagePositionPatient for image in images], dtype=float)
    positions = positions[np.argsort(positions @ normal)]
    affine = np.eye(4)
    affine[:3, 0] = (positions[-1] - positions[0]) / max(len(images) - 1, 1) if len(images) > 1 else normal
    affine[:3, 1] = along_column * float(images[0].PixelSpacing[0])
    affine[:3, 2] = along_row * float(images[0].PixelSpacing[1])
    affine[:3, 3] = positions[0]
    affine[:2] *= -1
    return Geometry((len(images), int(images[0].Rows), int(images[0].Columns)), affine)


def read_segmentation(path: Path, geometry: Geometry) -> dict[str, np.ndarray]:
    """Each segment as a boolean array on a grid; every true pixel must fall on a voxel of it."""
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    along_row, along_column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(
        2, 3
    )
    between = [float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing]
    names = {item.SegmentNumber: item.SegmentLabel for item in dataset.SegmentSequence}
    masks = {name: np.zeros(geometry.shape, dtype=bool) for name in names.values()}
    for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        item, place = (
            (groups.get(name) or shared[name].value)[0]
            for name in ("SegmentIdentificationSequence", "PlanePositionSequence")
        )
        name = names[item.ReferencedSegmentNumber]
        position = np.array(place.ImagePositionPatient, dtype=float)
        row, column = np.nonzero(frame)
        mm = position + np.outer(row * between[0], along_column) + np.outer(column * between[1], along_row)
        index = geometry.to_index(mm * (-1, -1, 1))
        assert np.abs(index - np.rint(index)).max(initial=0) < 0.05
        masks[name][tuple(np.rint(index).astype(int).T)] = True
    return masks


def read_structures(path: Path, geometry: Geometry) -> dict[str, np.ndarray]:
    """Each region as a boolean array on a grid whose first axis crosses the contours' planes: even-odd, at centres."""
    dataset = pydicom.dcmread(path)
    names = {item.ROINumber: item.ROIName for item in dataset.StructureSetROISequence}
    masks = {name: np.zeros(geometry.shape, dtype=bool) for name in names.values()}
    for region in dataset.ROIContourSequence:
        for contour in region.get("ContourSequence", []):
            index = geometry.to_index(np.array(contour.ContourData, dtype=float).reshape(-1, 3) * (-1, -1, 1))
            plane = int(np.rint(index[:, 0].mean()))
            assert np.abs(index[:, 0] - plane).max() < 0.05
            masks[names[region.ReferencedROINumber]][plane] ^= _even_odd(index[:, 1:], geometry.shape[1:])
    return masks


def _even_odd(ring: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which pixel centres lie inside a ring: those with an odd number of its edges before them in their row."""
    (y1, x1), (y2, x2) = ring.T, np.roll(ring, -1, axis=0).T
    inside = np.zeros(shape, dtype=bool)
    for y in range(shape[0]):
        spans = (y1 > y) != (y2 > y)
        crossings = np.sort(x1[spans] + (y - y1[spans]) * (x2[spans] - x1[spans]) / (y2[spans] - y1[spans]))
        inside[y] = np.searchsorted(crossings, np.arange(shape[1])) % 2 == 1
    return inside


def write_ball(folder: Path, study: str | None = None, shape: Sequence[int] = (9, 16, 14)) -> list[Path]:
    """A series with a bright ball (1, around it 0) off every plane of symmetry, tilted a little in the patient."""
    angle = np.deg2rad(10)
    cosines = np.array([[np.cos(angle), np.sin(angle), 0.0], [-np.sin(angle), np.cos(angle), 0.0]])
    files = write_series(
        folder, shape, (2.0, 1.1, 0.9), cosines, study=study, order=(np.arange(shape[0]) * 7) % shape[0]
    )
    geometry = grid_of(files)
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    centre = geometry.to_mm((np.array(geometry.shape) - 1) * (0.4, 0.6, 0.35))
    inside = np.linalg.norm(geometry.to_mm(index) - centre, axis=-1) < 3.5
    normal = np.cross(*cosines)
    images = [pydicom.dcmread(file) for file in files]
    upwards = np.argsort([np.array(image.ImagePositionPatient, dtype=float) @ normal for image in images])
    for place, number in enumerate(upwards):
        images[number].PixelData = inside[place].astype(np.int16).tobytes()
        images[number].save_as(files[number], enforce_file_format=True)
    return files


def valid(path: Path) -> str:
    """What dciodvfy complains about; skips the test where it is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return "\n".join(line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error"))
