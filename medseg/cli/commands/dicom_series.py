"""The verb ``series``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli import SOME_FAILED
from medseg.cli.display import Display
from medseg.cli.options import JsonOption
from medseg.cli.output import print_json

if TYPE_CHECKING:
    from medseg.dicom import FolderContent, Series

_HEADS = ("modality", "kind", "slices", "size mm", "number", "description", "UID")


def series(
    folder: Annotated[Path, typer.Argument(help="Folder with DICOM files, in folders below too, or one file.")],
    modality: Annotated[str, typer.Option("--modality", help="Only this: CT, MR, PT, SEG ...")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the DICOM series in a folder: what each is, whether it is a volume, and if not, why.

    Example: `medseg series STUDIES/ --modality CT`
    """
    from medseg.dicom import survey_folder

    with Display(quiet=as_json) as display:
        content = survey_folder(folder, progress=display)
    listed = [one for one in content.series if not modality or one.modality.upper() == modality.upper()]
    if as_json:
        print_json(_document(content, listed))
    else:
        typer.echo(_table(listed))
        for file, reason in content.unreadable.items():
            typer.echo(f"{file}: {reason}", err=True)
    if content.unreadable:
        raise typer.Exit(SOME_FAILED)


def _document(content: FolderContent, listed: Sequence[Series]) -> dict[str, Any]:
    """The series for programs; file names, but nothing of the patient."""
    return {
        "series": [
            {
                "uid": one.uid,
                "study_uid": one.study_uid,
                "frame_of_reference_uid": one.frame_of_reference_uid,
                "modality": one.modality,
                "description": one.description,
                "number": one.number,
                "part": one.name,
                "kind": one.kind,
                "is_volume": one.is_volume,
                "problem": one.problem,
                "slices": one.size,
                "shape": list(one.geometry.shape) if one.is_volume else None,
                "spacing_mm": [round(size, 6) for size in one.geometry.spacing_mm] if one.is_volume else None,
                "tilt_degrees": round(one.arrangement.tilt_degrees, 3) if _is_tilted(one) and one.arrangement else 0,
                "files": [str(file) for file in one.files],
            }
            for one in listed
        ],
        "unreadable": {str(file): reason for file, reason in content.unreadable.items()},
        "other_files": content.others,
    }


def _is_tilted(one: Series) -> bool:
    return one.arrangement is not None and one.arrangement.is_sheared


def _table(listed: Sequence[Series]) -> str:
    """A line a series, studies apart; below a series that is no volume though it looks like one, the reason."""
    if not listed:
        return "no DICOM series"
    rows = [_row(one) for one in listed]
    widths = [max(len(row[column]) for row in (_HEADS, *rows)) for column in range(len(_HEADS))]
    lines = [_line(_HEADS, widths)]
    study = None
    for one, row in zip(listed, rows, strict=True):
        if one.study_uid != study:
            study = one.study_uid
            lines.append(f"study {study or 'without UID'}")
        lines.append(_line(row, widths))
        if one.problem and one.planes:
            lines.append(f"    {one.problem}")
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def _row(one: Series) -> tuple[str, ...]:
    spacing = " x ".join(f"{size:.3g}" for size in one.geometry.spacing_mm) if one.is_volume else ""
    tilt = f" (tilted {one.arrangement.tilt_degrees:.1f} degrees)" if _is_tilted(one) and one.arrangement else ""
    number = "" if one.number is None else str(one.number)
    part = f" ({one.name})" if one.name else ""
    return one.modality, one.kind, str(one.size), spacing + tilt, number, one.description + part, one.uid
