"""Seconds to evaluate a dataset, from files to tables and report, as a user runs it.

    python -m benchmarks.evaluation DATASET [--workers 2]

Predictions are the references of a dataset in MSD form, each moved by a voxel and with a corner cut off, so that every
case has errors to measure and to draw. The time is that of the whole command, the start of Python included; beside it
the time of processors, which tells more on a machine that others use.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medseg import io
from medseg.volume import LabelVolume


def spoil(mask: LabelVolume, number: int) -> LabelVolume:
    """A mask that is wrong in places."""
    array = np.roll(mask.array, number % 3 - 1, axis=number % 2 + 1)
    array[: array.shape[0] // 3, : array.shape[1] // 2] = 0
    return mask.with_array(array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--workers", default="2")
    given = parser.parse_args()
    references = sorted((given.dataset / "labelsTr").glob("*.nii.gz"))
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(references):
            io.write(spoil(io.read_labels(path), number), Path(folder) / "masks" / path.name)
        command = [sys.executable, "-m", "medseg", "evaluate", f"{folder}/masks", str(given.dataset / "labelsTr")]
        command += ["--images", str(given.dataset / "imagesTr"), "-o", f"{folder}/report", "--workers", given.workers]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = (Path(folder) / "report" / "report.html").stat().st_size
    print(
        f"{len(references)} cases with {given.workers} workers: {seconds:.1f} s,"
        f" {spent.ru_utime + spent.ru_stime:.1f} s of processor time, report of {size / 1e6:.1f} MB included"
    )


if __name__ == "__main__":
    main()
