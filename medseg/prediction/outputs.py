"""What is written beside a mask: probabilities, and maps of how sure the prediction is. Written whole or not at all.

CASE.npz                  probabilities (K, Z, Y, X) float32
CASE_entropy.nii.gz       0-100: how undecided the probabilities are, as part of what is possible
CASE_disagreement.nii.gz  0-100: share of the folds that would give another label than the mask
"""

from __future__ import annotations

import math
import mmap
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medseg import atomic, io
from medseg.prediction.extras import Extras
from medseg.prediction.memory import Wanted
from medseg.prediction.predictor import Predictor
from medseg.trust import TrustDocument
from medseg.volume import LabelVolume, Volume

MAP_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Wishes:
    """What is to be written beside the masks.

    Attributes:
        trust: by which to say how far each mask can be trusted.
    """

    probabilities: bool = False
    uncertainty: bool = False
    trust: TrustDocument | None = None

    def wanted(self, predictor: Predictor) -> Wanted:
        """What that means for memory."""
        several = _voters(predictor) > 1
        listened = self.trust is not None
        maps = self.uncertainty * (1 + several)
        return Wanted(self.probabilities or listened, several and (self.uncertainty or listened), maps)

    def paths(self, mask: Path, case: str, predictor: Predictor) -> tuple[Path, ...]:
        """Files that will lie beside a mask."""
        names = [f"{case}.npz"] if self.probabilities else []
        if self.uncertainty:
            names.append(f"{case}_entropy{MAP_ENDING}")
            if _voters(predictor) > 1:
                names.append(f"{case}_disagreement{MAP_ENDING}")
        return tuple(mask.parent / name for name in names)


NO_WISHES = Wishes()


@contextmanager
def extras_for(wishes: Wishes, predictor: Predictor, volume: Volume, mask: Path, case: str) -> Iterator[Extras | None]:
    """Arrays for what is wished; at the end of the block they are written beside the mask.

    Probabilities lie on disk while they are filled, so they take no memory to speak of.

    Raises:
        StorageError: nothing can be written there, or no space is left.
    """
    if not (wishes.probabilities or wishes.uncertainty):
        yield None
        return
    shape = volume.geometry.shape
    maps = [np.zeros(shape, np.uint8) for _ in range(wishes.wanted(predictor).maps)]
    entropy, disagreement = (*maps, None, None)[:2]
    if wishes.probabilities:
        path = mask.parent / f"{case}.npz"
        with _array_file(path, (predictor.plan.labels.output_count, *shape)) as (likely, drop):
            yield Extras(likely, entropy, disagreement, filled=drop)
    else:
        yield Extras(None, entropy, disagreement)
    for name, values in (("entropy", entropy), ("disagreement", disagreement)):
        if values is not None:
            io.write(LabelVolume(values, volume.geometry), mask.parent / f"{case}_{name}{MAP_ENDING}")


@contextmanager
def _array_file(path: Path, shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, Callable[[], None]]]:
    """A float32 array on disk, which becomes the entry ``probabilities`` of a compressed .npz at the end.

    The function with it takes what was written out of the process's memory.
    """
    with atomic.replacing_file(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        )
        start = file.tell()
        file.truncate(start + 4 * math.prod(shape))
        mapped = mmap.mmap(file.fileno(), 0)
        yield np.ndarray(shape, np.float32, mapped, start), partial(_drop, mapped)
        mapped.flush()
        file.seek(0)
        with (
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("probabilities.npy", "w", force_zip64=True) as member,
        ):
            shutil.copyfileobj(file, member, 1 << 20)


def _drop(mapped: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):  # elsewhere the system sees to it when memory gets short
        mapped.madvise(mmap.MADV_DONTNEED)


def _voters(predictor: Predictor) -> int:
    return sum(len(member.networks) for member in predictor.members)
