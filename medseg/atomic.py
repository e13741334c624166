"""Files and folders that appear whole or not at all: a temporary name beside the target, then a rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from medseg.errors import StorageError

PARTIAL_PREFIX = ".partial-"


@contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path with the same ending; on success it takes the place of ``path``.

    Parent folders are made. On any error the temporary file is removed and ``path`` stays as it was.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    target = Path(path)
    temporary = target.with_name(f"{PARTIAL_PREFIX}{uuid4().hex[:8]}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise storage_error(error, target) from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder; on success it takes the place of ``path``, whatever was there before.

    Raises:
        StorageError: the parent folder cannot be written, or no space is left.
    """
    target = Path(path)
    temporary = target.with_name(f"{PARTIAL_PREFIX}{uuid4().hex[:8]}-{target.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.exists():
            outgoing = target.with_name(f"{PARTIAL_PREFIX}{uuid4().hex[:8]}-{target.name}")
            os.replace(target, outgoing)
            os.replace(temporary, target)
            shutil.rmtree(outgoing)
        else:
            os.replace(temporary, target)
    except OSError as error:
        raise storage_error(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text whole or not at all.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def storage_error(error: OSError, path: Path) -> StorageError:
    """The one-line error for an ``OSError`` met while writing ``path``."""
    reason = error.strerror or str(error)
    return StorageError(f"cannot write {path}: {reason}; choose a folder with space that you may write to")
