"""What a label stands for beyond its name: coded terms, a side of the body, a colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medseg.errors import DocumentError

_LONGEST = {"value": 16, "scheme": 16, "meaning": 64}


@dataclass(frozen=True)
class Code:
    """A coded term, such as ``Code("10200004", "SCT", "Liver")``; SCT is SNOMED CT."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Meaning:
    """What a dataset says about one of its labels; whatever it leaves out is None.

    Attributes:
        type: the code of the structure.
        category: the code of its category, such as Anatomical Structure (DICOM CID 7150).
        colour: red, green, blue from 0 to 255.

    Raises:
        DocumentError: a code or a colour that DICOM cannot hold.
    """

    type: Code | None = None
    category: Code | None = None
    side: Literal["left", "right"] | None = None
    colour: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for code in (self.type, self.category):
            for name, longest in _LONGEST.items() if code else ():
                text = getattr(code, name)
                if not 0 < len(text.strip()) <= longest or "\\" in text:
                    raise DocumentError(f"codes: expected a {name} of 1 to {longest} characters, found {text!r}")
        if self.colour is not None and not all(0 <= part <= 255 for part in self.colour):
            raise DocumentError(f"codes: a colour is red, green and blue from 0 to 255, found {list(self.colour)}")
