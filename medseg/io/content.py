"""The bytes of a file, unpacked where it is gzipped: decided by content, since names lie."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from medseg.errors import FileUnreadableError

_GZIP_MAGIC = b"\x1f\x8b"
# Compressed bytes unpacked at a time; a mask can unpack to 400 times as much.
_PIECE = 1 << 16


def head(path: Path, size: int) -> bytes:
    """The first ``size`` bytes, fewer where the file is shorter.

    Raises:
        FileUnreadableError: a gzip stream that is damaged or cut off before.
    """
    found = bytearray()
    for piece in pieces(path, at_once=size):
        found += piece
        if len(found) >= size:
            break
    return bytes(found[:size])


def block(path: Path, start: int, size: int) -> bytearray:
    """``size`` bytes from ``start`` on. A gzip stream is unpacked to its end, so that its checksum is verified.

    Raises:
        FileUnreadableError: fewer bytes are there, or a gzip stream is damaged.
    """
    found = bytearray(size)
    position = -start
    for piece in pieces(path):
        first, last = max(position, 0), min(position + len(piece), size)
        if first < last:
            found[first:last] = memoryview(piece)[first - position : last - position]
        position += len(piece)
    if position < size:
        raise FileUnreadableError(
            f"voxels are cut short: expected {start + size} bytes, found {start + position}; copy the file again"
        )
    return found


def pieces(path: Path, at_once: int = _PIECE) -> Iterator[bytes]:
    """The content of a file, unpacked, piece by piece: what ``at_once`` bytes of the file hold at a time.

    Bytes behind the end of a gzip stream are ignored.

    Raises:
        FileUnreadableError: a gzip stream that is damaged or cut off.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        piece = file.read(at_once)
        if not piece.startswith(_GZIP_MAGIC):
            while piece:
                yield piece
                piece = file.read(at_once)
            return
        stream = zlib.decompressobj(wbits=31)
        while piece:
            try:
                yield stream.decompress(piece)
            except zlib.error as error:
                raise FileUnreadableError(f"the gzip stream is damaged ({error}); copy the file again") from error
            piece = file.read(at_once)
            if stream.eof:
                piece = stream.unused_data + piece
                # A second stream may follow the first; anything else there is not ours.
                if not piece.startswith(_GZIP_MAGIC):
                    return
                stream = zlib.decompressobj(wbits=31)
        raise FileUnreadableError("the gzip stream is cut off; copy the file again")
