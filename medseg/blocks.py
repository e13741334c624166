"""Arrays on disk in blocks: compressed, read in part by several threads at once, every block with a checksum.

A ``.blocks`` file holds an array cut into blocks, in C order of the blocks, each compressed on its own (LZ4 after
byte shuffling, by blosc2) and cut off at the array's edge; then, for each block, its size in bytes and the CRC-32 of
those bytes, as two little-endian uint32. Shape, block shape, type and file size are kept elsewhere, in an
:class:`ArrayRecord`. ``docs/store.md`` says what was measured.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal

import numpy as np

from medseg.errors import FileUnreadableError

# A block of float32 then takes at most 128 KiB: compressed, shuffled and plain copies fit a core's second cache.
BLOCK_VOXELS = 32 * 1024
_COMPRESSION_LEVEL = 5


@dataclass(frozen=True)
class ArrayRecord:
    """What a ``.blocks`` file holds."""

    dtype: Literal["float32", "int16", "int32"]
    shape: tuple[int, ...]
    block: tuple[int, ...]
    file_bytes: int


@dataclass(frozen=True)
class StoredArray:
    """An array on disk; several threads may read it at once.

    ``remedy`` says in errors what to do about a damaged file.
    """

    path: Path
    record: ArrayRecord
    remedy: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return self.record.shape

    def read(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """The part of that shape from ``start``, which lies within the array.

        Raises:
            FileUnreadableError: the file is missing, cut off or damaged.
        """
        part = np.empty(tuple(shape), dtype=self.record.dtype)
        self.copy(start, part)
        return part

    def copy(self, start: Sequence[int], target: np.ndarray) -> None:
        """Fill ``target`` from ``start``, which may reach beyond the array; voxels outside it stay as they are.

        Raises:
            FileUnreadableError: the file is missing, cut off or damaged.
        """
        low = [max(begin, 0) for begin in start]
        high = [min(b + n, size) for b, n, size in zip(start, target.shape, self.shape, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return
        *rows, columns = (range(a // n, -(-b // n)) for a, b, n in zip(low, high, self.record.block, strict=True))
        with self._open() as file:
            for row in itertools.product(*rows):
                for position, data in self._read_blocks(file, row, columns):
                    origin = [i * n for i, n in zip(position, self.record.block, strict=True)]
                    block = self._decompress(data, origin)
                    begin = [max(a, o) for a, o in zip(low, origin, strict=True)]
                    end = [min(b, o + n) for b, o, n in zip(high, origin, block.shape, strict=True)]
                    take = tuple(slice(a - o, b - o) for a, b, o in zip(begin, end, origin, strict=True))
                    put = tuple(slice(a - s, b - s) for a, b, s in zip(begin, end, start, strict=True))
                    target[put] = block[take]

    def verify(self) -> None:
        """Compare every block with its checksum.

        Raises:
            FileUnreadableError: the file is missing, cut off or damaged.
        """
        *rows, columns = (range(count) for count in _block_counts(self.shape, self.record.block))
        with self._open() as file:
            for row in itertools.product(*rows):
                for _ in self._read_blocks(file, row, columns):
                    pass

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of the blocks and of the end of the last, and their checksums."""
        count = prod(_block_counts(self.shape, self.record.block))
        with self._open() as file:
            file.seek(self.record.file_bytes - 8 * count)
            data = file.read()
        if len(data) != 8 * count:
            raise self._damaged(f"expected {self.record.file_bytes} bytes")
        sizes, checksums = np.frombuffer(data, dtype="<u4").reshape(count, 2).T
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if offsets[-1] + len(data) != self.record.file_bytes:
            raise self._damaged("its index does not add up")
        return offsets, checksums

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            with open(self.path, "rb") as file:
                yield file
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from error

    def _read_blocks(
        self, file: BinaryIO, row: tuple[int, ...], columns: range
    ) -> Iterator[tuple[tuple[int, ...], memoryview]]:
        """Yield position and compressed bytes of neighbouring blocks, which follow each other in the file."""
        if not columns:
            return
        offsets, checksums = self._index
        counts = _block_counts(self.shape, self.record.block)
        first = int(np.ravel_multi_index((*row, columns[0]), counts))
        ends = offsets[first : first + len(columns) + 1].tolist()
        file.seek(ends[0])
        data = memoryview(file.read(ends[-1] - ends[0]))
        for i, column in enumerate(columns):
            compressed = data[ends[i] - ends[0] : ends[i + 1] - ends[0]]
            if zlib.crc32(compressed) != checksums[first + i]:
                raise self._damaged(f"block {first + i} does not match its checksum")
            yield (*row, column), compressed

    def _decompress(self, data: memoryview, origin: Sequence[int]) -> np.ndarray:
        shape = [min(n, size - o) for n, size, o in zip(self.record.block, self.shape, origin, strict=True)]
        block = np.empty(shape, dtype=self.record.dtype)
        _blosc2().decompress2(data, dst=block, nthreads=1)
        return block

    def _damaged(self, problem: str) -> FileUnreadableError:
        return FileUnreadableError(f"{self.path}: missing or damaged ({problem}); {self.remedy}")


def write_array(
    path: Path, array: np.ndarray, dtype: Literal["float32", "int16", "int32"], block: tuple[int, ...]
) -> ArrayRecord:
    """Write an array in blocks of that shape.

    Raises:
        OSError: the file cannot be written.
    """
    blosc2 = _blosc2()
    index = bytearray()
    with open(path, "wb") as file:
        for position in itertools.product(*(range(0, size, n) for size, n in zip(array.shape, block, strict=True))):
            part = array[tuple(slice(a, a + n) for a, n in zip(position, block, strict=True))]
            data = blosc2.compress2(
                np.ascontiguousarray(part, dtype=dtype),
                codec=blosc2.Codec.LZ4,
                clevel=_COMPRESSION_LEVEL,
                filters=[blosc2.Filter.SHUFFLE],
                filters_meta=[0],
                typesize=np.dtype(dtype).itemsize,
                nthreads=1,
            )
            file.write(data)
            index += np.array([len(data), zlib.crc32(data)], dtype="<u4").tobytes()
        file.write(index)
        return ArrayRecord(dtype, array.shape, block, file.tell())


def block_shape(shape: tuple[int, int, int], patch_size: Sequence[int]) -> tuple[int, int, int]:
    """Blocks that cut a patch about equally often along each axis, so that a patch at any place touches little more
    than itself, of at most ``BLOCK_VOXELS`` voxels; no larger than the array."""
    patch = (1,) * (3 - len(patch_size)) + tuple(patch_size)
    cuts = [1, 1, 1]
    block = list(patch)
    while prod(block) > BLOCK_VOXELS:
        axis = min((axis for axis in range(3) if block[axis] > 1), key=lambda axis: cuts[axis])
        cuts[axis] += 1
        block[axis] = -(-patch[axis] // cuts[axis])
    z, y, x = (max(1, min(size, whole)) for size, whole in zip(block, shape, strict=True))
    return z, y, x


def _block_counts(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // n) for size, n in zip(shape, block, strict=True))


@cache
def _blosc2() -> ModuleType:
    """blosc2, imported when first needed and told to let other threads run while it works."""
    import blosc2

    blosc2.set_releasegil(True)
    return blosc2
