"""Which files make up which scan: inputs as a person names them become cases with one file a channel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg import io
from medseg.errors import FileUnreadableError, UsageError
from medseg.io import formats

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class Scan:
    """A scan to predict: the name of its case, and its files, one a channel or one with all of them."""

    case: str
    images: tuple[Path, ...]


def find_scans(inputs: Sequence[Path], channels: int) -> tuple[Scan, ...]:
    """The scans in files and folders, in order of their names.

    Files called ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` ... are the channels of one case; any other file is a case
    by itself. A picture ``CASE_0000.png`` without others may hold all channels, as in nnU-Net's folders. Files whose
    four digits cannot be a channel of the model are taken for cases by themselves.

    Raises:
        FileUnreadableError: an input does not exist.
        UsageError: no scans, a case with missing channels, or two scans of one name.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            files += sorted(entry for entry in path.iterdir() if entry.is_file() and io.is_image_name(entry))
        elif path.exists():
            files.append(path)
        else:
            raise FileUnreadableError(f"{path}: no such file or folder")
    if not files:
        raise UsageError(
            f"{', '.join(map(str, inputs))}: no scans here; expected files such as CASE.nii.gz, .nrrd or .mha"
        )
    split = [_CHANNEL.fullmatch(io.name_of(path)) for path in files]
    if any(match is None or int(match["channel"]) >= channels for match in split):
        return _distinct([Scan(io.name_of(path), (path,)) for path in files])
    grouped: dict[str, dict[int, Path]] = {}
    for path, match in zip(files, split, strict=True):
        assert match is not None
        grouped.setdefault(match["case"], {})[int(match["channel"])] = path
    for case, found in grouped.items():
        missing = [channel for channel in range(channels) if channel not in found]
        if missing and not (set(found) == {0} and formats.is_picture(found[0])):
            names = ", ".join(f"{case}_{channel:04d}" for channel in missing)
            raise UsageError(f"{case}: expected {channels} channels, missing {names} beside {found[min(found)]}")
    return tuple(Scan(case, tuple(found[channel] for channel in sorted(found))) for case, found in grouped.items())


def _distinct(scans: list[Scan]) -> tuple[Scan, ...]:
    seen: dict[str, Scan] = {}
    for scan in scans:
        if scan.case in seen:
            raise UsageError(
                f"two scans are called {scan.case}: {seen[scan.case].images[0]} and {scan.images[0]}; rename one"
            )
        seen[scan.case] = scan
    return tuple(scans)
