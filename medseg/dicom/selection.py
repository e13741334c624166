"""Which scans a folder of studies holds, each under a name that says nothing about the patient."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.dicom.discovery import FolderContent, Series
from medseg.dicom.volumes import PathLike, find_volume, probe_series, read_series
from medseg.errors import FileUnreadableError, GeometryError
from medseg.progress import Progress, silent
from medseg.volume import Geometry, Volume


@dataclass(frozen=True, eq=False)
class Selection:
    """A scan that is still to be read, and how. It takes the place of a path.

    Attributes:
        parts: one series, or the parts of one that become channels.
        name: of the case: UIDs, never anything of the patient.
        problem: why it must not be read although its slices look well; empty if it may.
    """

    parts: tuple[Series, ...]
    name: str
    problem: str = ""
    fix_spacing: bool = False
    suv: bool = False

    def read(self, progress: Progress = silent) -> Volume:
        """See :func:`medseg.dicom.read_series`, with the same errors."""
        self._require_whole()
        return read_series(self.parts, fix_spacing=self.fix_spacing, suv=self.suv, progress=progress)

    def probe(self) -> tuple[int, Geometry, object]:
        """See :func:`medseg.dicom.probe_series`, with the same errors."""
        self._require_whole()
        return probe_series(self.parts, fix_spacing=self.fix_spacing)

    def _require_whole(self) -> None:
        if self.problem:
            raise FileUnreadableError(self.problem)
        for part in self.parts:
            if part.problem and not (self.fix_spacing and part.arrangement is not None and part.arrangement.is_uneven):
                raise GeometryError(part.problem)

    def __str__(self) -> str:
        return f"series {self.name}"


def scans_in(
    content: FolderContent, channels: int, *, fix_spacing: bool = False, suv: bool = False
) -> tuple[Selection, ...]:
    """The scans of a folder tree, in its order: volumes and stacks, or where there are none single images.

    Parts of one series on one grid make one scan if they are as many as ``channels``, else each makes its own. A stack
    with a problem is a scan too: reading it says what is wrong, so that it is not passed over in silence. So is a
    series beside whose files lies a damaged one, which may be a slice of it.
    """
    kinds: tuple[str, ...] = ("volume", "stack", "frames")
    if not any(one.kind in kinds for one in content.series):
        kinds = ("single image",)
    chosen = [one for one in content.series if one.kind in kinds]
    grouped: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for one in chosen:
        grouped[one.study_uid, one.uid].append(one)
    found: list[Selection] = []
    for parts in grouped.values():
        groups = (
            [tuple(parts)] if len(parts) == channels and _one_grid(parts, fix_spacing) else [(one,) for one in parts]
        )
        for group in groups:
            name = group[0].uid or group[0].headers[0].sop_instance_uid or group[0].files[0].stem
            if len(groups) > 1:
                part = group[0].name if kinds[0] == "volume" else group[0].headers[0].sop_instance_uid
                name = f"{name}_{_plain(part)}"
            found.append(Selection(group, name, _damage(group, content), fix_spacing, suv))
    return _distinct(found)


def _one_grid(parts: Sequence[Series], fix_spacing: bool) -> bool:
    if len(parts) == 1:
        return True
    try:
        find_volume(parts, fix_spacing=fix_spacing)
    except GeometryError:
        return False
    return True


def _damage(parts: Sequence[Series], content: FolderContent) -> str:
    folders = {file.parent for part in parts for file in part.files}
    beside = [file for file in content.unreadable if file.parent in folders]
    if not beside:
        return ""
    return (
        f"{len(beside)} files beside its slices cannot be read and may belong to it: {beside[0].name}"
        f" {content.unreadable[beside[0]]}"
    )


def _distinct(selections: list[Selection]) -> tuple[Selection, ...]:
    """Names that occur more than once get a number."""
    counts: dict[str, int] = defaultdict(int)
    named = []
    for selection in selections:
        counts[selection.name] += 1
        number = counts[selection.name]
        named.append(selection if number == 1 else replace(selection, name=f"{selection.name}_{number}"))
    return tuple(named)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "part"


def single_scan(
    path: PathLike, content: FolderContent, *, fix_spacing: bool = False, suv: bool = False
) -> Selection | None:
    """The scan of a folder that holds no other, named after the folder; None where it holds several or none."""
    volumes = [one for one in content.series if one.kind in ("volume", "stack", "frames", "single image")]
    if not volumes or len({(one.study_uid, one.uid) for one in volumes}) > 1:
        return None
    found = scans_in(content, len([one for one in volumes if one.is_volume]), fix_spacing=fix_spacing, suv=suv)
    return replace(found[0], name=Path(path).resolve().name) if len(found) == 1 else None
