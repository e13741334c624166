"""Which scans a folder of studies holds, and which series are their channels, by names that say nothing of patients."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.dicom.discovery import FolderContent, files_below, survey_folder
from medseg.dicom.selection import ANY, Selection, SeriesChoice
from medseg.dicom.series import Series
from medseg.dicom.volumes import share_grid
from medseg.errors import DataError, FileUnreadableError, UsageError

# Words in the names of channels that say which modality is meant.
_MODALITIES = {"ct": "CT", "mr": "MR", "mri": "MR", "pt": "PT", "pet": "PT"}
_LISTED = 6
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A folder or file in which the series of some channels shall be found when they are needed."""

    path: Path
    choice: SeriesChoice
    channels: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files below the path; which of them are read is not known yet."""
        return tuple(files_below(self.path))

    @property
    def settings(self) -> tuple[object, ...]:
        """How it is read."""
        return self.choice, self.channels

    def resolve(self) -> tuple[Selection, ...]:
        """The one scan that fits: one selection a channel, or one with all channels.

        Raises:
            FileUnreadableError: no such file or folder, or no DICOM there.
            DataError, GeometryError: nothing there can be a scan.
            UsageError: nothing, or more than one scan, fits the choice.
        """
        found = scans_in(survey_folder(self.path), self.channels, self.choice, str(self.path))
        if len(found) > 1:
            listed = "; ".join(parts[0].parts[0].described for parts in list(found.values())[:_LISTED])
            raise UsageError(
                f"{self.path}: holds {len(found)} scans, expected one: {listed}; choose one by UID, description or"
                " modality (see them with: medseg series FOLDER)"
            )
        return next(iter(found.values()))

    def __str__(self) -> str:
        return str(self.path)


def scans_in(
    content: FolderContent, channels: Sequence[str], choice: SeriesChoice = ANY, where: str = "folder"
) -> dict[str, tuple[Selection, ...]]:
    """The scans of a folder tree, in its order, by name: for each one selection a channel, or one with all channels.

    What can be a scan are volumes and stacks, or where there are none single images. Without a modality or series in
    ``choice`` the names of channels choose: a channel called CT is not looked for among MR. With one channel every
    series is a scan, named by its UID. With several, parts of one series on one grid (echoes, colours) make a scan if
    they are as many as the channels; else each study is a scan, named by its UID, with one series a channel.

    A stack with a problem is a scan too: reading it says what is wrong, so that it is not passed over in silence. So
    is a series beside whose files lies a damaged one, which may be a slice of it.

    Args:
        channels: names.
        where: names the folder in messages.

    Raises:
        FileUnreadableError: no DICOM, or nothing but damaged files.
        DataError: no image among what is there.
        UsageError: nothing fits the choice, or a channel fits no series or several.
    """
    kinds: tuple[str, ...] = ("volume", "stack", "frames")
    if not any(one.kind in kinds for one in content.series):
        kinds = ("single image",)
    candidates = [one for one in content.series if one.kind in kinds]
    if not candidates:
        raise _nothing(content, where)
    chosen = _of_modality(candidates, channels, choice, where)
    found = _split_by_channels(chosen, channels, choice, where)
    scans = {}
    for name, groups in found.items():
        scans[name] = tuple(
            Selection(parts, _name_of(parts), _damage(parts, content), choice.fix_spacing, choice.suv, choice.resample)
            for parts in groups
        )
    return scans


def _nothing(content: FolderContent, where: str) -> DataError:
    if content.unreadable:
        file, reason = next(iter(content.unreadable.items()))
        return FileUnreadableError(f"{where}: {len(content.unreadable)} DICOM files cannot be read: {file} {reason}")
    if not content.series:
        return FileUnreadableError(f"{where}: holds no DICOM files; give a DICOM file, or a folder of them")
    kinds = sorted({one.kind for one in content.series})
    return DataError(f"{where}: holds no scan, only {', '.join(kinds)}; give the folder of the scan")


def _of_modality(candidates: list[Series], channels: Sequence[str], choice: SeriesChoice, where: str) -> list[Series]:
    """Those of the modality that is chosen or, where nothing is chosen, that the only channel names."""
    wanted = choice.modality.upper()
    implied = "" if wanted or choice.series or len(channels) != 1 else _modality_of(channels[0])
    kept = [one for one in candidates if one.modality.upper() in (wanted or implied or one.modality.upper(), "")]
    if not kept:
        there = ", ".join(sorted({one.modality for one in candidates}))
        hint = "choose another with --modality, or series with --series" if wanted else "choose series with --series"
        raise UsageError(
            f"{where}: expected series of modality {wanted or implied}, found {there}; {hint}"
            " (see them with: medseg series FOLDER)"
        )
    if implied and len(kept) < len(candidates):
        log.warning(
            "%s: %d series of other modalities than %s are left out", where, len(candidates) - len(kept), implied
        )
    return kept


def _modality_of(channel: str) -> str:
    """The modality that a channel's name speaks of; empty if it is none or several."""
    named = {_MODALITIES[word] for word in re.split(r"[^a-z]+", channel.lower()) if word in _MODALITIES}
    return named.pop() if len(named) == 1 else ""


def _split_by_channels(
    chosen: list[Series], channels: Sequence[str], choice: SeriesChoice, where: str
) -> dict[str, list[tuple[Series, ...]]]:
    """Scan to the series of each of its channels, or to one series with all of them."""
    wanted = choice.series
    if len(wanted) <= 1:
        if wanted and not (chosen := [one for one in chosen if _fits(one, wanted[0])]):
            raise UsageError(f"{where}: no series fits {wanted[0]!r}; see what is there with: medseg series FOLDER")
        whole = _by_series(chosen, len(channels))
        if len(channels) == 1 or all(sum(one.channels for one in parts) == len(channels) for parts in whole.values()):
            return {name: [parts] for name, parts in whole.items()}
    elif len(channels) == 1:
        several = [one for one in chosen if any(_fits(one, text) for text in wanted)]
        if lost := [text for text in wanted if not any(_fits(one, text) for one in chosen)]:
            raise UsageError(f"{where}: no series fits {lost[0]!r}; see what is there with: medseg series FOLDER")
        return {name: [parts] for name, parts in _by_series(several, 1).items()}
    elif len(wanted) != len(channels):
        raise UsageError(
            f"{where}: expected one --series for each of {len(channels)} channels ({', '.join(channels)}),"
            f" found {len(wanted)}"
        )
    studies: dict[str, list[Series]] = defaultdict(list)
    for one in chosen:
        studies[one.study_uid].append(one)
    texts = wanted if len(wanted) == len(channels) else [""] * len(channels)
    return {
        study or "study": [
            (_for_channel(members, channel, text, f"{where}: study {study}"),)
            for channel, text in zip(channels, texts, strict=True)
        ]
        for study, members in studies.items()
    }


def _for_channel(series: Sequence[Series], channel: str, text: str, where: str) -> Series:
    """The one series of a study for a channel: by what is asked, else by the channel's name or modality."""
    modality = _modality_of(channel)
    tries = (
        [[one for one in series if _fits(one, text)]]
        if text
        else [
            [one for one in series if one.description.casefold() == channel.casefold()],
            [one for one in series if not modality and channel.casefold() in one.description.casefold()],
            [one for one in series if modality and one.modality == modality],
        ]
    )
    found = next(filter(None, tries), [])
    if len(found) == 1:
        return found[0]
    listed = "; ".join(one.described for one in (found or series)[:_LISTED])
    raise UsageError(
        f"{where}: expected one series for the channel {channel}, found {len(found)} among {listed};"
        " name them with --series, once a channel"
    )


def _fits(series: Series, text: str) -> bool:
    return series.uid == text or text.casefold() in series.description.casefold()


def _by_series(chosen: Sequence[Series], channels: int) -> dict[str, tuple[Series, ...]]:
    """Name to series, or to parts of one series on one grid that are as many as the channels."""
    grouped: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for one in chosen:
        # Single images of one series are scans of their own, not channels.
        grouped[one.study_uid, one.uid].append(one)
    named: dict[str, tuple[Series, ...]] = {}
    for parts in grouped.values():
        together = len(parts) == channels and share_grid(parts)
        for group in [tuple(parts)] if together else [(one,) for one in parts]:
            name = _name_of(group) + ("" if together or len(parts) == 1 else f"_{_suffix(group[0])}")
            number = 2
            unique = name
            while unique in named:
                unique, number = f"{name}_{number}", number + 1
            named[unique] = group
    return named


def _name_of(parts: Sequence[Series]) -> str:
    first = parts[0]
    return first.uid or first.headers[0].sop_instance_uid or first.files[0].stem


def _suffix(series: Series) -> str:
    text = series.headers[0].sop_instance_uid if series.kind == "single image" else series.name
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "part"


def _damage(parts: Sequence[Series], content: FolderContent) -> str:
    folders = {file.parent for part in parts for file in part.files}
    beside = [file for file in content.unreadable if file.parent in folders]
    if not beside:
        return ""
    return (
        f"{len(beside)} files beside its slices cannot be read and may belong to it: {beside[0].name}"
        f" {content.unreadable[beside[0]]}, or remove it if it is no slice"
    )
