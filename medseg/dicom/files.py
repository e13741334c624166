"""DICOM files as pydicom reads them: known by their content, in silence, and damage said in one line."""

from __future__ import annotations

import logging
import warnings
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from threading import Lock

import pydicom
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from medseg.errors import FileUnreadableError

_pydicom_log = logging.getLogger("pydicom")
_PREAMBLE = 128
# Files without the mark "DICM" begin with an element of one of these groups, whose elements are small.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")


class _Quiet:
    """pydicom made silent while anybody, in any thread, needs it so."""

    def __init__(self) -> None:
        self._lock, self._users, self._undo = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._undo.callback(
                    setattr, config.settings, "reading_validation_mode", config.settings.reading_validation_mode
                )
                self._undo.callback(_pydicom_log.setLevel, _pydicom_log.level)
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                config.settings.reading_validation_mode = config.IGNORE
                _pydicom_log.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._undo.close()


_quiet = _Quiet()


def quiet_pydicom() -> AbstractContextManager[None]:
    """Values that break the standard pass without a warning, which would quote them (and with them, a patient)."""
    return _quiet


def looks_like_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does: with its mark, or without it by a first element that is one of DICOM's."""
    with path.open("rb") as file:
        return begins_like_dicom(file.read(_PREAMBLE + 4))


def begins_like_dicom(head: bytes) -> bool:
    """Like :func:`looks_like_dicom`, of the first bytes of a file: 132 of them, or more."""
    if head[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    return len(head) >= 8 and head[:2] in _FIRST_GROUPS and head[2:4] != b"\0\0" and _plausible_first_element(head)


def _plausible_first_element(head: bytes) -> bool:
    """Either a value representation of two capitals follows the tag, or a short length does."""
    order = "big" if head[:2] == b"\x00\x08" else "little"
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return int.from_bytes(head[2:4], order) <= 0x0100 and (explicit or int.from_bytes(head[4:8], order) <= 512)


def read_dataset(path: Path, *, pixels: bool = True) -> Dataset:
    """A whole DICOM file, with or without its pixels. To be called inside :func:`quiet_pydicom`.

    Raises:
        FileUnreadableError: it is not DICOM, or damaged.
    """
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
        require_syntax(dataset)
        return dataset
    except OSError:
        raise
    except Exception as error:
        raise FileUnreadableError(damaged(error)) from error


def damaged(error: Exception) -> str:
    """What to say of a file that pydicom fails to read with some error."""
    # The text of the error may quote a value of the file, so only its type is passed on.
    return f"is damaged DICOM ({type(error).__name__} while its header was read); copy or export it again"


def require_syntax(dataset: Dataset) -> None:
    """Name the transfer syntax in a dataset whose file does not: the one that pydicom found by looking."""
    if not getattr(dataset, "file_meta", None):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        syntax = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
