"""What is wrong with a dataset as one HTML page that needs nothing else: what mends it, and pictures to judge by."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg import atomic, io
from medseg.dataset import CaseRef, Dataset
from medseg.errors import MedsegError
from medseg.integrity import CaseRecord, Examination, Finding
from medseg.io.formats import is_picture
from medseg.report import examination_plots, overlays
from medseg.report.provenance import versions
from medseg.report.rendering import render
from medseg.volume import LabelVolume, Volume

EXAMINATION_FILE = "doctor.html"
MOST_FINDINGS = 500
"""Findings that are listed; the rest are counted."""
MOST_DRAWN = 16
"""Cases that are drawn: those that most severe findings are about."""
_TITLES = {
    "error": "Errors: cannot be used as it is",
    "warning": "Warnings: may spoil the result",
    "note": "Notes",
}
_COMMANDS = ("python -c ", "medseg ")


@dataclass(frozen=True)
class _Listed:
    """A finding for the page: its remedy in words, and the command apart."""

    finding: Finding
    words: str
    command: str
    anchor: str


@dataclass(frozen=True)
class _Drawn:
    """A case with its picture and what was found about it."""

    case: str
    anchor: str
    problems: list[str]
    note: str
    png: str


def examination_report(
    examination: Examination, folder: str | os.PathLike[str], *, title: str = "Dataset examination"
) -> Path:
    """Write ``doctor.html`` into a folder.

    The page holds names and places of files, since its commands do: it is for whoever keeps the dataset.

    Args:
        examination: what to report on; cases with findings are read again for the pictures.
        folder: made if need be.
        title: the heading.

    Returns:
        The path of the page.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    from markupsafe import Markup

    ranked, dataset, records = examination.ranked(), examination.dataset, examination.records
    drawn = [] if dataset is None else _draw(ranked, dataset)
    anchors = {one.case: one.anchor for one in drawn}
    listed: dict[str, list[_Listed]] = {}
    for finding in ranked[:MOST_FINDINGS]:
        words, command = _divided(finding.remedy)
        anchor = anchors.get(finding.case or "", "")
        listed.setdefault(_TITLES[finding.severity], []).append(_Listed(finding, words, command, anchor))
    seen = any(one.volumes_ml for one in examination.classes)
    images = "Cases" if dataset is not None else "Images"
    page = render(
        "examination.html",
        title=title if dataset is None else f"{title}: {dataset.name}",
        cards=[
            (images, len(records) if dataset is None else len(dataset.cases)),
            *((f"{name.capitalize()}s", examination.count(name)) for name in ("error", "warning", "note")),
        ],
        listed=listed,
        more=max(0, len(ranked) - MOST_FINDINGS),
        facts={**_facts(examination), "Made with": versions()},
        clusters=_clusters(records),
        balance=Markup(examination_plots.balance(examination.classes)) if seen else "",
        intensities=Markup(examination_plots.intensities(records, dataset.channels)) if dataset else "",
        drawn=drawn,
        color=overlays.REFERENCE_COLOR,
    )
    path = Path(folder) / EXAMINATION_FILE
    atomic.write_text(path, page)
    return path


def _facts(examination: Examination) -> dict[str, str]:
    dataset = examination.dataset
    if dataset is None:
        return {}
    labels = ", ".join(f"{name} ({', '.join(map(str, v))})" for name, v in dataset.labels.classes.items())
    masks = sum(record.voxels is not None for record in examination.records)
    groups = len({case.group for case in dataset.cases if case.group is not None})
    return {
        "Channels": ", ".join(dataset.channels),
        "Labels": labels,
        "Masks": f"{masks} that could be read",
        "Groups": f"{groups} patients" if groups else "none declared: every case counts as a patient of its own",
    }


def _clusters(records: Sequence[CaseRecord]) -> list[tuple[str, str, str, int]]:
    """Orientation, voxel size, grid (medians) and count of the images of each orientation, the commonest first."""
    found = []
    for orientation, count in Counter(record.geometry.orientation for record in records).most_common():
        members = [record for record in records if record.geometry.orientation == orientation]
        spacings = np.array([record.spacing_mm for record in members])
        shapes = np.array([record.geometry.changed(record.geometry.change_to("RAS")).shape for record in members])
        found.append((orientation, _ranges(spacings), _ranges(shapes), count))
    return found


def _ranges(rows: np.ndarray) -> str:
    """Along each axis the lowest and highest value."""
    pairs = zip(rows.min(axis=0), rows.max(axis=0), strict=True)
    return " x ".join(f"{low:.3g}" if np.isclose(low, high) else f"{low:.3g}-{high:.3g}" for low, high in pairs)


def _divided(remedy: str) -> tuple[str, str]:
    """A remedy's words, and the command at its end if there is one."""
    for start in _COMMANDS:
        if start in remedy:
            words, _, rest = remedy.partition(start)
            return words, start + rest
    return remedy, ""


def _draw(ranked: Sequence[Finding], dataset: Dataset) -> list[_Drawn]:
    """Pictures of the cases that errors and warnings are about; of duplicates both."""
    cases = {case.name: case for case in dataset.cases}
    problems: dict[str, list[str]] = {}
    for finding in ranked:
        if finding.severity != "note" and finding.case in cases:
            for name in (finding.case, *finding.others[:1]):
                problems.setdefault(name, []).append(finding.problem)
    drawn = []
    for name, said in problems.items():
        picture = _picture(cases[name], dataset)
        if picture is not None:
            note, png = picture
            drawn.append(_Drawn(name, f"case-{len(drawn)}", said, note, base64.b64encode(png).decode("ascii")))
        if len(drawn) == MOST_DRAWN:
            break
    return drawn


def _picture(case: CaseRef, dataset: Dataset) -> tuple[str, bytes] | None:
    """A note and a PNG of the first channel with the mask's outlines; None if the image cannot be read."""
    try:
        image = io.read(case.sources(dataset.channels)[0])
    except MedsegError:
        return None
    finite = np.nan_to_num(image.array[:1].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    image, note = Volume(finite, image.geometry), ""
    empty = LabelVolume(np.zeros(image.geometry.shape, np.uint8), image.geometry)
    mask = empty
    if case.label is not None and not io.holds_dicom(case.label):
        try:
            mask = io.read_labels(case.label)
        except MedsegError:
            note = "The mask cannot be read."
    if mask.geometry.shape != image.geometry.shape:
        mask, note = empty, "The mask has another size and is not drawn."
    elif mask.geometry != image.geometry:
        mask = LabelVolume(mask.array, image.geometry)
        note = "The mask's grid lies elsewhere; it is drawn voxel on voxel: if it fits, the grid can be taken over."
    values = tuple(int(value) for value in np.unique(mask.array) if value != dataset.labels.background)
    inside = np.isin(mask.array, values)
    limits = overlays.window(image.array[0], inside, image.geometry.spacing_mm)
    # Outlines of a reference without prediction: the mask alone, in the slices that show most of it.
    shown = overlays.views(empty, mask, values, image, oriented=not is_picture(case.images[0]))
    return note, overlays.draw(shown, values, [(value,) for value in values[:-1]], limits)
