"""Prompts for many scans from a table: a row is a box or a point of one object.

    case,label,object,z0,y0,x0,z1,y1,x1,z,y,x,positive,group
    scan_07,liver,1,10,40,52,18,60,80,,,,,patient_3
    scan_07,liver,1,,,,,,,12,44,60,-,patient_3

``case`` and ``label`` are needed, and one set of coordinates a row: ``z0,y0,x0,z1,y1,x1`` or ``z,y,x`` in voxels,
``x0_mm,y0_mm,z0_mm,x1_mm,y1_mm,z1_mm`` or ``x_mm,y_mm,z_mm`` in RAS+ millimetres.
"""

from __future__ import annotations

import csv
import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DataError, FileUnreadableError, UsageError
from medseg.labels import BACKGROUND_NAME, IGNORE_NAME
from medseg.prompting.prompts import Box, Point

BOX = ("z0", "y0", "x0", "z1", "y1", "x1")
BOX_MM = ("x0_mm", "y0_mm", "z0_mm", "x1_mm", "y1_mm", "z1_mm")
POINT = ("z", "y", "x")
POINT_MM = ("x_mm", "y_mm", "z_mm")
_FORMS = (BOX, BOX_MM, POINT, POINT_MM)
_COORDINATES = tuple(column for form in _FORMS for column in form)
_NEEDED = ("case", "label")
_COLUMNS = (*_NEEDED, "object", *_COORDINATES, "positive", "group")


@dataclass(frozen=True)
class Target:
    """One object of a scan, and what a person showed of it.

    Attributes:
        number: tells objects of one label in one scan apart.
        group: cases of one group (such as one patient) are never divided between training and validation.
    """

    case: str
    label: str
    number: int
    prompts: tuple[Box | Point, ...]
    group: str | None = None


def read_prompts(path: str | os.PathLike[str]) -> tuple[Target, ...]:
    """The objects of a table (CSV with commas or semicolons), in the order in which they first appear.

    Raises:
        FileUnreadableError: the file is missing or is no text.
        DataError: an unknown or missing column, or a row that shows no place or more than one; names the line.
    """
    found: dict[tuple[str, str, int], list[Box | Point]] = {}
    groups: dict[str, str] = {}
    for line, row in _rows(Path(path)):
        where = f"{path}: line {line}"
        case, label = row.get("case", ""), row.get("label", "")
        if not case or not label:
            raise DataError(f"{where}: the {'label' if case else 'case'} is empty; every row names both")
        if label.lower() in (BACKGROUND_NAME, IGNORE_NAME):
            raise DataError(f"{where}: {label} is no object; give the label of what lies in the box")
        number = _object_number(row.get("object", ""), where)
        found.setdefault((case, label, number), []).append(_prompt(row, where))
        group = row.get("group", "")
        if group and groups.setdefault(case, group) != group:
            raise DataError(f"{where}: {case} was in the group {groups[case]} before and is in {group} here")
    if not found:
        raise DataError(f"{path}: no rows below the header; give one a box or point")
    targets = tuple(Target(*key, tuple(prompts), groups.get(key[0])) for key, prompts in found.items())
    for target in targets:
        if not any(prompt.positive for prompt in target.prompts):
            raise DataError(
                f"{path}: {target.case}: {target.label} {target.number}: all its prompts are negative; show where it is"
            )
    return targets


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows with their line numbers; cells are stripped, empty lines left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileUnreadableError(f"{path}: no such file; give a table of boxes or points (CSV)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileUnreadableError(f"{path}: cannot be read as text; save it as CSV in UTF-8") from error
    lines = text.splitlines()
    header = lines[0] if lines else ""
    reader = csv.reader(lines, delimiter=";" if header.count(";") > header.count(",") else ",")
    columns = [name.strip() for name in next(reader, [])]
    for name in columns:
        if name not in _COLUMNS or columns.count(name) > 1:
            near = difflib.get_close_matches(name, _COLUMNS, n=1)
            hint = f"did you mean {near[0]}? known are" if near and name not in _COLUMNS else "known, once each, are"
            raise DataError(f"{path}: unexpected column {name!r}; {hint} {', '.join(_COLUMNS)}")
    for name in _NEEDED:
        if name not in columns:
            raise DataError(f"{path}: the column {name} is missing; expected {', '.join(_NEEDED)} and coordinates")
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(columns):
            raise DataError(f"{path}: line {reader.line_num}: {len(cells)} cells in {len(columns)} columns")
        rows.append((reader.line_num, dict(zip(columns, (cell.strip() for cell in cells), strict=False))))
    return rows


def _object_number(text: str, where: str) -> int:
    try:
        number = int(text or 1)
    except ValueError:
        number = 0
    if number < 1:
        raise DataError(f"{where}: object {text}: objects of a label are numbered from 1")
    return number


def _prompt(row: Mapping[str, str], where: str) -> Box | Point:
    given = [column for column in _COORDINATES if row.get(column)]
    form = next((form for form in _FORMS if sorted(form) == sorted(given)), None)
    if form is None:
        raise DataError(
            f"{where}: expected one box ({','.join(BOX)}) or one point ({','.join(POINT)}), or the same in mm;"
            f" found {','.join(given) or 'no coordinates'}"
        )
    sign = row.get("positive", "")
    if sign not in ("", "+", "-"):
        raise DataError(f"{where}: positive: expected +, - or nothing, found {sign!r}")
    try:
        values = [float(row[column]) for column in form]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where}: expected numbers in {','.join(form)}, found {[row[column] for column in form]}")
    space = "mm" if form in (BOX_MM, POINT_MM) else "voxel"
    try:
        if len(values) == 3:
            return Point((values[0], values[1], values[2]), positive=sign != "-", space=space)
        start, stop = (values[0], values[1], values[2]), (values[3], values[4], values[5])
        return Box(start, stop, positive=sign != "-", space=space)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from error
