"""Which files make up which scan: inputs as a person names them become cases with one file a channel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg import dicom, io
from medseg.errors import FileUnreadableError, UsageError
from medseg.io import Source, formats
from medseg.progress import Progress, silent

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Scan:
    """A scan to predict: the name of its case, and its files or DICOM series, one a channel or one with all of them."""

    case: str
    images: tuple[Source, ...]


def find_scans(
    inputs: Sequence[Path],
    channels: Sequence[str],
    choice: dicom.SeriesChoice = dicom.ANY,
    *,
    progress: Progress = silent,
) -> tuple[Scan, ...]:
    """The scans in files and folders, in order of their names; those in DICOM are named by UIDs and come last.

    Files called ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` ... are the channels of one case; any other file is a case
    by itself. A picture ``CASE_0000.png`` without others may hold all channels, as in nnU-Net's folders. Files whose
    four digits cannot be a channel of the model are taken for cases by themselves. DICOM files, and folders that hold
    DICOM (in folders below, too) and no images of other kinds, are taken together: see
    :func:`medseg.dicom.scans_in`.

    Args:
        channels: names of the model's channels.
        choice: which DICOM series are meant, and how they are read.

    Raises:
        FileUnreadableError: an input does not exist.
        DataError: DICOM files, but no scan among them.
        UsageError: no scans, no case with all its channels, two scans of one name, or no series that fits the choice.
    """
    files: list[Path] = []
    series: list[Path] = []
    for path in inputs:
        if path.is_dir():
            images = sorted(entry for entry in path.iterdir() if entry.is_file() and io.is_image_name(entry))
            is_dicom = _holds_dicom(path, images)
            series += dicom.files_below(path) if is_dicom else []
            files += [] if is_dicom else images
        elif not path.exists():
            raise FileUnreadableError(f"{path}: no such file or folder; give a scan, or a folder of scans")
        elif formats.is_dicom(path):
            series.append(path)
        else:
            files.append(path)
    where = ", ".join(map(str, inputs)) if len(inputs) < 3 else f"{inputs[0]} and {len(inputs) - 1} more"
    if not files and not series:
        raise UsageError(f"{where}: no scans here; expected files such as CASE.nii.gz, .nrrd or .mha, or DICOM series")
    found = [*_scans_in_files(files, len(channels))]
    if series:
        content = dicom.survey_files(series, progress=progress)
        found += [Scan(name, parts) for name, parts in dicom.scans_in(content, channels, choice, where).items()]
    return _distinct(found)


def _holds_dicom(folder: Path, images: Sequence[Path]) -> bool:
    """Whether a folder is one of DICOM: pictures beside it are previews; images of other formats are the scans.

    Raises:
        UsageError: both lie there side by side.
    """
    if not images or all(formats.is_picture(image) for image in images):
        return formats.holds_dicom(folder)
    others = (entry for entry in folder.iterdir() if entry.is_file() and entry not in images)
    if beside := next((entry for entry in others if formats.is_dicom(entry)), None):
        raise UsageError(f"{folder}: holds DICOM ({beside.name}) beside {images[0].name}; give one or the other")
    return False


def _scans_in_files(files: Sequence[Path], channels: int) -> tuple[Scan, ...]:
    split = [_CHANNEL.fullmatch(io.name_of(path)) for path in files]
    if any(match is None or int(match["channel"]) >= channels for match in split):
        return tuple(Scan(io.name_of(path), (path,)) for path in files)
    grouped: dict[str, dict[int, Path]] = {}
    for path, match in zip(files, split, strict=True):
        assert match is not None
        grouped.setdefault(match["case"], {})[int(match["channel"])] = path
    missing = {case: _missing(found, channels) for case, found in grouped.items()}
    for case, absent in missing.items():
        beside = grouped[case][min(grouped[case])]
        if absent and all(missing.values()):
            names = ", ".join(f"{case}_{channel:04d}" for channel in absent)
            raise UsageError(f"{case}: expected {channels} channels, missing {names} beside {beside}; add them")
        # Beside whole cases it is one that fails, for the file that is not there.
        ending = io.ending_of(beside) or ""
        grouped[case] |= {channel: beside.with_name(f"{case}_{channel:04d}{ending}") for channel in absent}
    return tuple(Scan(case, tuple(found[channel] for channel in sorted(found))) for case, found in grouped.items())


def _missing(found: Mapping[int, Path], channels: int) -> list[int]:
    """The channels that a case lacks; a picture alone may hold all of them."""
    if set(found) == {0} and formats.is_picture(found[0]):
        return []
    return [channel for channel in range(channels) if channel not in found]


def _distinct(scans: list[Scan]) -> tuple[Scan, ...]:
    seen: dict[str, Scan] = {}
    for scan in scans:
        if scan.case in seen:
            raise UsageError(
                f"two scans are called {scan.case}: {seen[scan.case].images[0]} and {scan.images[0]}; rename one"
            )
        seen[scan.case] = scan
    return tuple(scans)
