"""Where each frame of an instance lies, and what tells it from other frames at the same place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Traits:
    """What may differ between frames at one position. Empty or None where the file does not say.

    The order of the fields is the order in which they are tried to tell volumes of one series apart.
    """

    component: str = ""  # magnitude, phase, real ... or the whole image type
    stack: str = ""
    echo: float | None = None
    inversion: float | None = None
    flip_angle: float | None = None
    b_value: float | None = None
    gradient: Triple | None = None
    temporal_position: float | None = None
    cardiac_phase: float | None = None
    trigger: float | None = None
    reference_time: float | None = None
    acquisition: float | None = None
    acquisition_time: str = ""


@dataclass(frozen=True)
class Plane:
    """One frame of one file.

    Attributes:
        position: LPS mm of the centre of the first pixel, as the file has it.
        orientation: direction cosines in LPS of a row's pixels, then of a column's.
        spacing_mm: distance between rows, then between columns.
        slope, intercept: from stored values to the modality's.
    """

    path: Path
    frame: int
    position: Triple | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    between_mm: float | None
    slope: float
    intercept: float
    traits: Traits


def frames_of(dataset: Dataset, path: Path, count: int) -> tuple[tuple[Plane, ...], bool]:
    """The planes of an instance, and whether its frames say each where they lie."""
    per_frame = _items(dataset, "PerFrameFunctionalGroupsSequence")
    if not per_frame:
        plane = _plane(path, 0, dataset, dataset, dataset, dataset, _traits(dataset))
        return tuple(_moved(plane, frame) for frame in range(count)) if count > 1 else (plane,), False
    shared = (_items(dataset, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    planes = []
    for index, group in enumerate(per_frame[:count]):
        where = _group(group, shared, "PlanePositionSequence")
        direction = _group(group, shared, "PlaneOrientationSequence")
        measures = _group(group, shared, "PixelMeasuresSequence")
        values = _group(group, shared, "PixelValueTransformationSequence")
        planes.append(_plane(path, index, where, direction, measures, values, _frame_traits(dataset, group, shared)))
    return tuple(planes), len(planes) == count


def _moved(plane: Plane, frame: int) -> Plane:
    """Another frame of a classic multi-frame file, which does not say where it lies."""
    return Plane(
        plane.path, frame, None, plane.orientation, plane.spacing_mm, plane.thickness_mm, plane.between_mm,
        plane.slope, plane.intercept, plane.traits,
    )  # fmt: skip


def _plane(
    path: Path, frame: int, where: Dataset, direction: Dataset, measures: Dataset, values: Dataset, traits: Traits
) -> Plane:
    position = vector(where, "ImagePositionPatient", 3)
    spacing = vector(measures, "PixelSpacing", 2) or vector(measures, "ImagerPixelSpacing", 2)
    slope, intercept = number(values, "RescaleSlope"), number(values, "RescaleIntercept")
    return Plane(
        path=path,
        frame=frame,
        position=None if position is None else (position[0], position[1], position[2]),
        orientation=vector(direction, "ImageOrientationPatient", 6),
        spacing_mm=None if spacing is None or min(spacing) <= 0 else (spacing[0], spacing[1]),
        thickness_mm=_positive(number(measures, "SliceThickness")),
        between_mm=_positive(number(measures, "SpacingBetweenSlices")),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        traits=traits,
    )


def _traits(dataset: Dataset) -> Traits:
    gradient = vector(dataset, "DiffusionGradientOrientation", 3)
    return Traits(
        component=text(dataset, "ComplexImageComponent") or text(dataset, "ImageType"),
        echo=_first_of(dataset, "EchoTime", "EchoNumbers"),
        inversion=number(dataset, "InversionTime"),
        flip_angle=number(dataset, "FlipAngle"),
        b_value=number(dataset, "DiffusionBValue"),
        gradient=None if gradient is None else (gradient[0], gradient[1], gradient[2]),
        temporal_position=_first_of(dataset, "TemporalPositionIdentifier", "TemporalPositionIndex"),
        cardiac_phase=number(dataset, "NominalPercentageOfCardiacPhase"),
        trigger=number(dataset, "TriggerTime"),
        reference_time=number(dataset, "FrameReferenceTime"),
        acquisition=number(dataset, "AcquisitionNumber"),
        acquisition_time=text(dataset, "AcquisitionTime"),
    )


def _frame_traits(dataset: Dataset, group: Dataset, shared: Dataset) -> Traits:
    content = _group(group, shared, "FrameContentSequence")
    diffusion = _group(group, shared, "MRDiffusionSequence")
    direction = _group(diffusion, Dataset(), "DiffusionGradientDirectionSequence")
    gradient = vector(direction, "DiffusionGradientOrientation", 3)
    kind = next(
        (
            found
            for name in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
            if len(found := _group(group, shared, name))
        ),
        Dataset(),
    )
    return Traits(
        component=text(kind, "ComplexImageComponent") or text(kind, "FrameType") or text(dataset, "ImageType"),
        stack=text(content, "StackID"),
        echo=number(_group(group, shared, "MREchoSequence"), "EffectiveEchoTime"),
        inversion=number(_group(group, shared, "MRModifierSequence"), "InversionTimes"),
        flip_angle=number(_group(group, shared, "MRTimingAndRelatedParametersSequence"), "FlipAngle"),
        b_value=number(diffusion, "DiffusionBValue"),
        gradient=None if gradient is None else (gradient[0], gradient[1], gradient[2]),
        temporal_position=number(content, "TemporalPositionIndex")
        or number(_group(group, shared, "TemporalPositionSequence"), "TemporalPositionTimeOffset"),
        cardiac_phase=None,
        trigger=number(_group(group, shared, "CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"),
        acquisition=number(content, "FrameAcquisitionNumber"),
        acquisition_time=text(content, "FrameAcquisitionDateTime")[8:],  # the time without the date
    )


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    try:
        return list(dataset.get(keyword) or [])
    except Exception:  # a damaged sequence counts as none
        return []


def _group(group: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """The first item of a functional group: of the frame, else of all frames."""
    return (_items(group, keyword) or _items(shared, keyword) or [Dataset()])[0]


def text(dataset: Dataset, keyword: str) -> str:
    """A value as text, several joined as in the file; empty where absent or not to be read."""
    try:
        value = dataset.get(keyword)
    except Exception:
        return ""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if hasattr(value, "__iter__") and not isinstance(value, bytes):
        return "\\".join(str(part).strip() for part in value)
    return str(value).strip()


def numbers(value: Any) -> tuple[float, ...]:
    """A value of a data element as finite numbers; empty where it holds anything else."""
    parts = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
    try:
        found = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """The first of an element's numbers, None where absent or no number."""
    try:
        value = dataset.get(keyword)
    except Exception:
        return None
    found = numbers(value) if value not in (None, "") else ()
    return found[0] if found else None


def vector(dataset: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    """Exactly ``length`` numbers, None where absent or another count."""
    try:
        value = dataset.get(keyword)
    except Exception:
        return None
    found = numbers(value) if value is not None else ()
    return found if len(found) == length else None


def _first_of(dataset: Dataset, *keywords: str) -> float | None:
    return next((value for keyword in keywords if (value := number(dataset, keyword)) is not None), None)


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None
