"""Columns that ``compare`` adds on request; their names hold their parameter: ``surface_dice_2.5mm``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medseg.errors import UsageError
from medseg.metrics.boundary import boundary_iou
from medseg.metrics.centreline import cldice
from medseg.metrics.lesions import lesion_detection
from medseg.metrics.surface import SurfaceDistances, hausdorff_mm, surface_dice

Kind = Literal["hausdorff", "surface_dice", "boundary_iou", "cldice", "lesion_f1", "lesion_precision", "lesion_recall"]

_NUMBER = r"(\d+(?:\.\d+)?)"
_PATTERNS: dict[Kind, str] = {
    "hausdorff": rf"hausdorff{_NUMBER}_mm",
    "surface_dice": rf"surface_dice_{_NUMBER}mm",
    "boundary_iou": rf"boundary_iou_{_NUMBER}mm",
    "cldice": "cldice",
    "lesion_f1": "lesion_f1",
    "lesion_precision": "lesion_precision",
    "lesion_recall": "lesion_recall",
}
_EXAMPLES = "hausdorff99_mm, surface_dice_2mm, boundary_iou_2mm, cldice, lesion_f1, lesion_precision, lesion_recall"


@dataclass(frozen=True)
class Extra:
    """A metric, and its percentile, tolerance in mm or width in mm where it has one."""

    kind: Kind
    parameter: float = float("nan")


def parse_metrics(names: Sequence[str], smallest_spacing_mm: float = 0.0) -> dict[str, Extra]:
    """What the names of columns ask for; a name given twice counts once.

    Raises:
        UsageError: an unknown name, a parameter out of range, or a rim thinner than a voxel.
    """
    return {name: _parse(name, smallest_spacing_mm) for name in names}


def extra_values(
    extras: Mapping[str, Extra],
    masks: tuple[np.ndarray, np.ndarray],
    distances: SurfaceDistances,
    spacing_mm: tuple[float, ...],
) -> list[float]:
    """The figures of one label, from its boolean masks (cropped alike) and their surface distances."""
    if not masks[0].size:  # both are empty
        return [float("nan")] * len(extras)
    lesions = lesion_detection(*masks) if any(extra.kind.startswith("lesion") for extra in extras.values()) else None

    def value(extra: Extra) -> float:
        match extra.kind:
            case "hausdorff":
                return hausdorff_mm(distances, extra.parameter)
            case "surface_dice":
                return surface_dice(distances, extra.parameter)
            case "boundary_iou":
                return boundary_iou(*masks, spacing_mm, extra.parameter)
            case "cldice":
                return cldice(*masks)
            case _:
                return getattr(lesions, extra.kind.removeprefix("lesion_"))

    return [value(extra) for extra in extras.values()]


def _parse(name: str, smallest_spacing_mm: float) -> Extra:
    for kind, pattern in _PATTERNS.items():
        match = re.fullmatch(pattern, name)
        if match is None:
            continue
        if not match.groups():
            return Extra(kind)
        parameter = float(match[1])
        if not 0 < parameter <= (100 if kind == "hausdorff" else np.inf):
            raise UsageError(f"metrics: {name}: {match[1]} is out of range; expected names such as {_EXAMPLES}")
        if kind == "boundary_iou" and parameter < smallest_spacing_mm:
            raise UsageError(
                f"metrics: {name}: a rim thinner than a voxel of {smallest_spacing_mm:g} mm; give at least that width"
            )
        return Extra(kind, parameter)
    raise UsageError(f"metrics: {name!r} is not known; expected names such as {_EXAMPLES}")
