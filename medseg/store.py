"""Prepared cases on disk: a folder a case, written whole or not at all, read in part, every block with a checksum.

    CASE/case.json  image.blocks  labels.blocks  foreground.blocks  (of a cascade's second stage: previous.blocks)

The arrays lie in blocks (:mod:`medseg.blocks`); ``case.json`` says what they are and how they were prepared.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from medseg import atomic, documents
from medseg.blocks import ArrayRecord, StoredArray, block_shape, write_array
from medseg.errors import DocumentError, FileUnreadableError, UsageError
from medseg.preprocessing import Prepared, Trace
from medseg.volume import Box

_VOXEL_ROWS = 2048  # rows of a block of voxel indices


@dataclass(frozen=True)
class CaseRecord:
    """The document beside the arrays of a case.

    Attributes:
        key: what the case was made from, in the words of whoever wrote it.
        foreground_counts: voxels kept for each class; they follow each other in the array ``foreground`` (n, 3).
        previous: the previous stage's mask, in a cascade.
        checksum: CRC-32 of this document's text with 0 in this place.
    """

    version: Literal[1]
    case: str
    key: str
    image: ArrayRecord
    labels: ArrayRecord | None
    foreground: ArrayRecord
    foreground_counts: tuple[int, ...]
    trace: Trace
    previous: ArrayRecord | None = None
    checksum: int = 0

    def sealed(self) -> CaseRecord:
        """The same record with its checksum."""
        plain = dataclasses.replace(self, checksum=0)
        return dataclasses.replace(self, checksum=zlib.crc32(documents.to_text(plain).encode()))


@dataclass(frozen=True)
class StoredVoxels:
    """Voxel indices (n, 3) of one class on disk: ``voxels[i]`` reads one, ``numpy.asarray(voxels)`` all."""

    array: StoredArray
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> np.ndarray:
        if not -self.count <= i < self.count:
            raise IndexError(f"{i} of {self.count} voxels")
        return self.array.read((self.first + i % self.count, 0), (1, 3))[0]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self.array.read((self.first, 0), (self.count, 3)).astype(dtype or np.int32, copy=False)


@dataclass(frozen=True)
class StoredCase:
    """A prepared case on disk; several threads may read it at once.

    Reading compares each block that is touched with its checksum and raises ``FileUnreadableError`` for a damaged one.
    """

    folder: Path
    record: CaseRecord

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size (Z, Y, X)."""
        _, z, y, x = self.record.image.shape
        return z, y, x

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.record.image.shape[0]

    @property
    def trace(self) -> Trace:
        """What preparing did to the scan."""
        return self.record.trace

    @cached_property
    def image(self) -> StoredArray:
        """(C, Z, Y, X) float32."""
        return self._array("image", self.record.image)

    @cached_property
    def labels(self) -> StoredArray | None:
        """(Z, Y, X) int16, or None without a reference."""
        return None if self.record.labels is None else self._array("labels", self.record.labels)

    @cached_property
    def previous(self) -> StoredArray | None:
        """(Z, Y, X) int16 of the previous stage, or None outside of cascades."""
        return None if self.record.previous is None else self._array("previous", self.record.previous)

    @property
    def foreground(self) -> tuple[StoredVoxels, ...]:
        """For each class the voxels kept of it, left on disk."""
        array = self._array("foreground", self.record.foreground)
        counts = self.record.foreground_counts
        firsts = itertools.accumulate(counts[:-1], initial=0)
        return tuple(StoredVoxels(array, first, count) for first, count in zip(firsts, counts, strict=False))

    def read_image(self, box: Box | None = None) -> np.ndarray:
        """The image (C, Z, Y, X) float32 inside a box that lies within it, by default whole."""
        box = self._within(box)
        return self.image.read((0, *box.start), (self.channels, *box.shape))

    def read_labels(self, box: Box | None = None) -> np.ndarray:
        """The labels (Z, Y, X) int16 inside a box that lies within them, by default whole.

        Raises:
            UsageError: the case has no labels.
        """
        box = self._within(box)
        return self._require_labels().read(box.start, box.shape)

    def read_previous(self) -> np.ndarray | None:
        """The previous stage's mask (Z, Y, X) int16, or None outside of cascades."""
        return None if self.previous is None else self.previous.read((0, 0, 0), self.shape)

    def copy_patch(
        self, start: Sequence[int], image: np.ndarray, labels: np.ndarray, previous: np.ndarray | None = None
    ) -> None:
        """Fill ``image`` (C, Z, Y, X), ``labels`` and ``previous`` (Z, Y, X) from ``start``; outside they stay."""
        self.image.copy((0, *start), image)
        self._require_labels().copy(start, labels)
        if previous is not None and self.previous is not None:
            self.previous.copy(start, previous)

    def verify(self) -> None:
        """Compare all there is with its checksums.

        Raises:
            FileUnreadableError: something is missing, cut off or damaged; names the file and the command that mends it.
        """
        self.image.verify()
        for array in (self.labels, self.previous):
            if array is not None:
                array.verify()
        if self.foreground:
            self.foreground[0].array.verify()

    def _array(self, name: str, record: ArrayRecord) -> StoredArray:
        return StoredArray(self.folder / f"{name}.blocks", record, _remedy(self.folder))

    def _within(self, box: Box | None) -> Box:
        if box is None:
            return Box((0, 0, 0), self.shape)
        if min(box.start) < 0 or any(stop > size for stop, size in zip(box.stop, self.shape, strict=True)):
            raise UsageError(f"{self.record.case}: {box} reaches beyond the prepared image of {self.shape} voxels")
        return box

    def _require_labels(self) -> StoredArray:
        if self.labels is None:
            raise UsageError(f"{self.record.case}: was prepared without a reference mask, so there are no labels")
        return self.labels


def write_case(folder: Path, name: str, prepared: Prepared, *, patch_size: Sequence[int], key: str) -> None:
    """Write a prepared case into ``folder / name``, whole or not at all, in the place of what was there.

    Args:
        patch_size: what will mostly be read: (Z, Y, X), or (Y, X) of single slices. Blocks are cut to suit.
        key: what the case was made from; :func:`is_complete` compares it.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    z, y, x = prepared.image.shape[1:]
    block = block_shape((z, y, x), patch_size)
    voxels = np.concatenate([np.empty((0, 3), np.int32), *prepared.foreground]).astype(np.int32)
    with atomic.replacing_folder(folder / name) as case:
        record = CaseRecord(
            version=1,
            case=name,
            key=key,
            image=write_array(case / "image.blocks", prepared.image, "float32", (1, *block)),
            labels=None
            if prepared.labels is None
            else write_array(case / "labels.blocks", prepared.labels, "int16", block),
            foreground=write_array(case / "foreground.blocks", voxels, "int32", (_VOXEL_ROWS, 3)),
            foreground_counts=tuple(map(len, prepared.foreground)),
            trace=prepared.trace,
            previous=None
            if prepared.previous is None
            else write_array(case / "previous.blocks", prepared.previous, "int16", block),
        )
        documents.save(record.sealed(), case / "case.json")


def open_case(folder: Path, name: str) -> StoredCase:
    """A prepared case. Checks that its document is sound and its files have their sizes, not yet what they hold.

    Raises:
        FileUnreadableError: the case is missing, half there or damaged; names the command that mends it.
    """
    where = folder / name
    try:
        record = documents.load(CaseRecord, where / "case.json")
    except DocumentError as error:
        raise _damaged(where, str(error)) from error
    if record.sealed() != record:
        raise _damaged(where, "case.json does not match its checksum")
    arrays = {
        "image": record.image,
        "labels": record.labels,
        "foreground": record.foreground,
        "previous": record.previous,
    }
    for file, array in arrays.items():
        path = where / f"{file}.blocks"
        found = path.stat().st_size if path.is_file() else 0
        if array is not None and found != array.file_bytes:
            raise _damaged(where, f"{path.name} should have {array.file_bytes} bytes, found {found}")
    return StoredCase(where, record)


def is_complete(folder: Path, name: str, key: str) -> bool:
    """Whether a case is there whole and was made from what ``key`` stands for."""
    try:
        return open_case(folder, name).record.key == key
    except FileUnreadableError:
        return False


def discard_partial(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder. Nobody may be writing there."""
    for leftover in folder.glob(f"{atomic.PARTIAL_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _damaged(case: Path, problem: str) -> FileUnreadableError:
    return FileUnreadableError(f"{case}: prepared case missing or damaged ({problem}); {_remedy(case)}")


def _remedy(case: Path) -> str:
    return f"delete {case} and run: medseg preprocess -c {case.parent.name}"
