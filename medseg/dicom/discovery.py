"""A folder tree becomes a table of series: what each is, and whether it makes a volume. Pixels are not read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.dicom.headers import InstanceHeader, read_headers
from medseg.dicom.kinds import kind_of
from medseg.dicom.series import Series
from medseg.dicom.stacks import series_from
from medseg.errors import FileUnreadableError, UsageError
from medseg.progress import Progress, silent

_DICOMDIR = "1.2.840.10008.1.3.10"
_NOT_IN = (".git", "__MACOSX")


@dataclass(frozen=True, eq=False)
class FolderContent:
    """What lies in a folder tree: its series, files that should be DICOM and cannot be read (with the reason), and how
    many files are something else."""

    series: tuple[Series, ...]
    unreadable: dict[Path, str]
    others: int


def find_series(path: str | os.PathLike[str], *, progress: Progress = silent) -> tuple[Series, ...]:
    """The series in a folder tree or in one file, whatever else lies there, ordered by study and number.

    Raises:
        FileUnreadableError: there is no such file or folder, or it is a DICOMDIR.
    """
    return survey_folder(path, progress=progress).series


def survey_folder(path: str | os.PathLike[str], *, progress: Progress = silent) -> FolderContent:
    """Like :func:`find_series`, with the files that could not be read.

    Raises:
        FileUnreadableError: there is no such file or folder.
    """
    return survey_files(files_below(Path(path)), progress=progress)


def survey_files(files: Sequence[Path], *, progress: Progress = silent) -> FolderContent:
    """Like :func:`survey_folder`, of files that are listed.

    Raises:
        FileUnreadableError: the only one is a DICOMDIR.
    """
    headers, unreadable = read_headers(files, progress)
    groups: dict[tuple[str, ...], list[InstanceHeader]] = defaultdict(list)
    if len(files) == 1 and headers and headers[0].sop_class_uid == _DICOMDIR:
        raise FileUnreadableError(f"{files[0]}: is a DICOMDIR, an index without pixels; give the folder it lies in")
    for header in headers:
        if header.sop_class_uid == _DICOMDIR:
            continue
        # Without a series' UID only the folder says what belongs together.
        place = header.series_uid or str(header.path.parent)
        groups[header.study_uid, place, kind_of(header)].append(header)
    series = [one for (_, _, kind), group in groups.items() for one in series_from(kind, group)]
    series.sort(key=_order)
    return FolderContent(tuple(series), unreadable, len(files) - len(headers) - len(unreadable))


def choose(
    series: Iterable[Series], *, uid: str | None = None, description: str | None = None, modality: str | None = None
) -> tuple[Series, ...]:
    """The series with a UID, a part of whose description is as given (in any case of letters), or of a modality.

    Raises:
        UsageError: none is left.
    """
    found = tuple(
        one
        for one in series
        if (uid is None or one.uid == uid)
        and (description is None or description.casefold() in one.description.casefold())
        and (modality is None or one.modality.casefold() == modality.casefold())
    )
    if not found:
        asked = ", ".join(
            f"{key} {value!r}"
            for key, value in (("UID", uid), ("description", description), ("modality", modality))
            if value is not None
        )
        raise UsageError(f"no series with {asked}; see what is there with: medseg series FOLDER")
    return found


def files_below(path: Path) -> list[Path]:
    """The files of a folder tree that may be DICOM; of a file, that one.

    Raises:
        FileUnreadableError: there is no such file or folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileUnreadableError(f"{path}: no such file or folder; give a DICOM file, or a folder of them")
    found = []
    for folder, names, files in os.walk(path):
        names[:] = sorted(name for name in names if name not in _NOT_IN)
        # Hidden files are not ours: the shadows that file systems of other machines leave begin like their originals.
        found += [Path(folder, file) for file in sorted(files) if not file.startswith(".")]
    return [file for file in found if file.is_file()]


def _order(series: Series) -> tuple[object, ...]:
    number = series.number if series.number is not None else 1 << 30
    return series.study_uid, number, series.uid, -series.size if not series.name else 0
