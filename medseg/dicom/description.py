"""What a written segment says about itself: its code, its colour, and the algorithm that made it.

Codes come from the dataset where it gives them. Otherwise a name that is, word for word, a term of DICOM's own table of
anatomical structures (CID 7192), with or without "left" or "right", gets that term's code; any other name gets the
code of a tissue and is told apart by its name alone.
"""

from __future__ import annotations

import colorsys
import re
from dataclasses import dataclass
from functools import cache

from pydicom.sr.codedict import codes

from medseg.errors import DocumentError
from medseg.labels import LabelSet
from medseg.terms import Code, Meaning

_LONGEST_NAME = 64  # characters of DICOM's LO
_GOLDEN_ANGLE = 0.381966  # of a turn of hue: neighbours differ however many there are


TISSUE = Code("85756007", "SCT", "Tissue")
ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
_SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}


@dataclass(frozen=True)
class Segment:
    """A segment to write: its ``number`` from 1, ``name``, the file ``values`` that it covers, and what they mean."""

    number: int
    name: str
    values: tuple[int, ...]
    type: Code
    category: Code
    side: Code | None
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Algorithm:
    """What made a mask: the ``name`` and ``version`` of the model."""

    name: str
    version: str


def describe(labels: LabelSet) -> tuple[Segment, ...]:
    """The segments of a mask with these labels, numbered in ascending order of values (regions: in declared order).

    Every declared label is there, whether a mask holds it or not: absent is not the same as never looked for.

    Raises:
        DocumentError: two names that DICOM's 64 characters cannot tell apart.
    """
    classes = list(labels.classes.items())
    if not labels.has_regions:
        classes.sort(key=lambda entry: entry[1])
    segments = []
    for number, (name, values) in enumerate(classes, start=1):
        given = labels.meanings.get(name, Meaning())
        found, side = (None, None) if given.type else _standard_term(name)
        segments.append(
            Segment(
                number=number,
                name=_written(name),
                values=values,
                type=given.type or found or TISSUE,
                category=given.category or (ANATOMICAL_STRUCTURE if found else TISSUE),
                side=_SIDES[given.side] if given.side else side,
                colour=given.colour or _colour(number),
            )
        )
    if len({segment.name for segment in segments}) < len(segments):
        raise DocumentError(f"label names must differ in their first {_LONGEST_NAME} characters, found {labels.names}")
    return tuple(segments)


def _written(name: str) -> str:
    return name.replace("\\", "/")[:_LONGEST_NAME].strip()


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((number - 1) * _GOLDEN_ANGLE % 1.0, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _standard_term(name: str) -> tuple[Code | None, Code | None]:
    """The code of a name among DICOM's anatomical structures, and its side; None where the table has no such term."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    sides = [word for word in words if word in ("left", "right")]
    rest = "".join(word for word in words if word not in ("left", "right"))
    code = _anatomical_terms().get(rest)
    if code is None or len(sides) > 1:
        return None, None
    return code, _SIDES[sides[0]] if sides else None


@cache
def _anatomical_terms() -> dict[str, Code]:
    table = codes.cid7192.concepts
    return {
        keyword.lower(): Code(term.value, term.scheme_designator, term.meaning[:64])
        for keyword, term in table.items()
        if term.scheme_designator == "SCT"
    }
