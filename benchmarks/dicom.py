"""How fast a DICOM series becomes a volume, and how much memory that takes.

    python -m benchmarks.dicom [--slices 600] [--size 512] [--folder DIR]

Writes a synthetic CT (one file a slice, random order, 12 bits in 16, explicit little endian) into a temporary folder,
then compares, each in a process of its own and with the files in the page cache, the time that pydicom takes to read
the pixels of the same files one after the other with the time from folder to volume. Memory is the growth of the
process's peak during the reading, as a multiple of the volume.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

_TRIES = 3

_PEER = """
import sys, time, pydicom
from pathlib import Path
files = sorted(Path(sys.argv[1]).iterdir())
started = time.perf_counter()
for file in files:
    pydicom.dcmread(file).pixel_array
print(time.perf_counter() - started, 0)
"""
_OURS = """
import resource, sys, time
from medseg import dicom
import medseg.dicom.codecs, medseg.dicom.volumes, scipy.ndimage
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
volume = dicom.read_series(sys.argv[1])
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seconds, (peak - before) * 1024 / volume.array.nbytes)
"""


def write_series(folder: Path, slices: int, size: int) -> None:
    """A CT with a round body of soft tissue in air, noise in every voxel, named in an order that means nothing."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - size / 2
    body = np.where(np.hypot(y, x) < 0.4 * size, 1064, 24)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for index, name in enumerate(generator.permutation(slices)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, int(name) + 1
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient = [-size / 2 * 0.7, -size / 2 * 0.7, index * 1.0]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1.0
        dataset.Rows = dataset.Columns = size
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        pixels = body + generator.integers(-20, 20, body.shape, dtype=np.int16)
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset.save_as(folder / f"{name:05d}", enforce_file_format=True)


def _timed(code: str, folder: Path) -> tuple[float, float]:
    """The best of some runs: seconds, and memory as a multiple of the volume."""
    runs = []
    for _ in range(_TRIES):
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
        seconds, memory = map(float, done.stdout.split())
        runs.append((seconds, memory))
    return min(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--size", type=int, default=512)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_series(folder, arguments.slices, arguments.size)
        peer, _ = _timed(_PEER, folder)
        ours, memory = _timed(_OURS, folder)
    print(f"{arguments.slices} slices of {arguments.size} x {arguments.size}")
    print(f"pydicom, pixels of one file after the other: {peer:.2f} s")
    print(f"medseg, from folder to volume:               {ours:.2f} s ({ours / peer:.2f} times)")
    print(f"memory while reading:                        {memory:.2f} times the volume")


if __name__ == "__main__":
    main()
