"""From what a caller names to what is read: files, folders, DICOM series that are found when they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.errors import DataError, FileUnreadableError, UsageError
from medseg.io.formats import Source


def as_list(source: Source | Sequence[Source]) -> list[Any]:
    """One source, or several, as a list."""
    return list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]


def resolve(sources: Sequence[Any]) -> list[Any]:
    """Paths, and DICOM series found.

    Raises:
        GeometryError: the series must not be laid over each other.
    """
    found: list[Any] = []
    for source in sources:
        if isinstance(source, str | os.PathLike):
            found.append(Path(source))
            continue
        from medseg import dicom

        with naming(source):
            found += source.resolve() if isinstance(source, dicom.Request) else [source]
    series = [source for source in found if not isinstance(source, Path)]
    if len(series) > 1:
        from medseg import dicom

        dicom.require_one_place(series)
    return found


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Errors of one file become one line that begins with its path.

    Raises:
        FileUnreadableError: in the place of errors that are not medseg's own.
    """
    try:
        yield
    except (DataError, UsageError) as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise type(error)(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise FileUnreadableError(f"{path}: no such file; correct the path") from error
    except OSError as error:
        raise FileUnreadableError(
            f"{path}: cannot be read: {error.strerror or error}; see that you may read it"
        ) from error
    except MemoryError as error:
        raise FileUnreadableError(
            f"{path}: too large for the memory of this machine, or a damaged header; copy it again, or use more memory"
        ) from error
    except (ValueError, OverflowError) as error:
        raise FileUnreadableError(f"{path}: {' '.join(str(error).split())}") from error
