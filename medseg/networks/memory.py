"""Memory of feature maps on a CPU: kept for the next step instead of given back to the system after each layer."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt(3). Setting one ends glibc's own adjustment of the two thresholds, so afterwards they
# are put where that adjustment ends for a process that frees large blocks: 32 MiB and twice as much.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER_TRIM, _NO_MMAPS = -1, 0
_USUAL_MMAPS, _USUAL_MMAP_BYTES = 65_536, 32 * 2**20


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While inside, freed memory stays with the process; at the end it is given back.

    glibc returns large blocks to the system at once, and the system clears every page of the next one: a fifth of the
    time of a training step on large patches. Does nothing where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, _NO_MMAPS)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _USUAL_MMAPS)
        libc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _USUAL_MMAP_BYTES)
        libc.malloc_trim(0)


def give_back_freed_memory() -> None:
    """What the process has freed but kept goes back to the system, so that its size tells what it holds."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
