"""The images of one series become stacks: alike in direction and size, told apart, each sorted along its normal.

Slices are grouped by what their headers say and sorted by where they lie, never by file name or instance number.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medseg.dicom.frames import Plane
from medseg.dicom.geometry import Arrangement, arrange
from medseg.dicom.headers import InstanceHeader
from medseg.dicom.mosaic import expanded, tile_size
from medseg.dicom.series import Series
from medseg.dicom.splitting import split_stack
from medseg.errors import GeometryError

# Of these modalities a picture without a position is a slice whose place is lost, unless it is a captured screen.
_SLICED_MODALITIES = ("CT", "MR", "PT")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Direction cosines and (relative) pixel spacings of slices of one volume: rounded differently from file to file.
_ALIKE_WITHIN = 1e-3


def series_from(kind: str, headers: list[InstanceHeader]) -> list[Series]:
    """The volumes of one DICOM series, or the series of something else.

    Args:
        kind: what its instances are (:func:`medseg.dicom.kinds.kind_of`); empty for images.
        headers: of instances of that kind, in any order.
    """
    if kind:
        return [_not_an_image(kind, headers)]
    problem = _of_several_patients(headers)
    if not problem:
        headers, problem = _without_copies(headers)
    if problem:
        return [_make("stack", headers, [plane for header in headers for plane in header.planes], "", problem)]
    by_path = {header.path: header for header in headers}
    found: list[Series] = []
    groups: list[_Alike] = []
    for header in headers:
        planes, problem = expanded(header)
        if problem:
            found.append(_make("stack", [header], planes, "", problem))
            continue
        for plane in planes:
            _group_of(header, plane, groups).planes.append(plane)
    for group in groups:
        if not group.is_placed:
            found += _without_positions(_in_use(group.planes, by_path), group.planes)
        else:
            found += [
                _stack(_in_use(part, by_path), part, name)
                for name, part in split_stack(group.planes, lambda plane: by_path[plane.path].instance_number)
            ]
    return _named_by_direction(found)


@dataclass(frozen=True, eq=False)
class _Alike:
    """Planes that can be slices of one volume: of one size, frame of reference, direction and pixel spacing."""

    exact: tuple[object, ...]
    about: np.ndarray
    planes: list[Plane] = field(default_factory=list)

    @property
    def is_placed(self) -> bool:
        return len(self.about) > 0


def _group_of(header: InstanceHeader, plane: Plane, groups: list[_Alike]) -> _Alike:
    """The group that a plane belongs to, appended to ``groups`` where there is none yet."""
    assert header.pixels is not None
    exact = (*tile_size(header), header.pixels.samples, header.frame_of_reference_uid)
    about = np.array(())
    if plane.position is not None and plane.orientation is not None and plane.spacing_mm is not None:
        about = np.array([*plane.orientation, *np.log(plane.spacing_mm)])
    # The latest group first: slices of one stack usually follow each other.
    for group in reversed(groups):
        if group.exact == exact and len(group.about) == len(about) and (abs(group.about - about) < _ALIKE_WITHIN).all():
            return group
    groups.append(_Alike(exact, about))
    return groups[-1]


def _in_use(planes: Sequence[Plane], by_path: dict[Path, InstanceHeader]) -> list[InstanceHeader]:
    return [by_path[path] for path in dict.fromkeys(plane.path for plane in planes)]


def _of_several_patients(headers: Sequence[InstanceHeader]) -> str:
    """What is wrong where slices of several patients share a series, or nothing."""
    patients = {header.patient for header in headers if header.patient is not None}
    if len(patients) < 2:
        return ""
    return f"its slices are of {len(patients)} patients (PatientID); give each patient's slices a series of their own"


def _without_copies(headers: list[InstanceHeader]) -> tuple[list[InstanceHeader], str]:
    """Each instance once. Copies of one file are harmless; two different files with one UID are not."""
    first: dict[str, InstanceHeader] = {}
    kept = []
    for header in headers:
        uid = header.sop_instance_uid
        if not uid or uid not in first:
            kept.append(header)
            first.setdefault(uid, header)
        elif _digest(header) != _digest(first[uid]):
            return headers, (
                f"two different images have the same instance UID: {first[uid].path.name} and {header.path.name};"
                " remove the wrong one"
            )
    return kept, ""


def _digest(header: InstanceHeader) -> tuple[object, ...]:
    """What an image is and where it lies, to compare two files of one instance UID."""
    with header.path.open("rb") as file:
        file.seek(header.pixels.offset if header.pixels else 0)
        content = hashlib.file_digest(file, "blake2b").digest()
    return content, tuple((plane.position, plane.orientation) for plane in header.planes)


def _without_positions(headers: list[InstanceHeader], planes: list[Plane]) -> list[Series]:
    if len(planes) > 1 and len(headers) == 1:
        return [_make("frames", headers, planes, "", "its frames have no positions, so they make no volume")]
    if headers[0].modality in _SLICED_MODALITIES and not headers[0].sop_class_uid.startswith(_SECONDARY_CAPTURE):
        lacking = {
            "position": any(plane.position is None for plane in planes),
            "orientation": any(plane.orientation is None for plane in planes),
            "pixel spacing": any(plane.spacing_mm is None for plane in planes),
        }
        listed = " and ".join(name for name, lacks in lacking.items() if lacks)
        slices = "a slice" if len(planes) == 1 else f"{len(planes)} slices"
        return [_make("stack", headers, planes, "", f"{slices} without {listed}; export them again")]
    return [_make("single image", [header], [plane], "", "") for header, plane in zip(headers, planes, strict=True)]


def _stack(headers: list[InstanceHeader], planes: list[Plane], name: str) -> Series:
    first = planes[0]
    assert first.orientation is not None and first.spacing_mm is not None
    try:
        arrangement = arrange(
            [plane.position for plane in planes if plane.position is not None],
            first.orientation,
            first.spacing_mm,
            first.between_mm or first.thickness_mm,
        )
    except GeometryError as error:
        return _make("stack", headers, planes, name, str(error))
    planes = [planes[index] for index in arrangement.order]
    by_path = {header.path: header for header in headers}
    headers = _in_use(planes, by_path)
    kind = "volume" if len(planes) > 1 else "single image"
    if any("LOCALIZER" in header.image_type for header in headers):
        kind = "localiser"
    elif arrangement.problem:
        kind = "stack"
    problem = arrangement.problem
    if arrangement.is_uneven:
        problem += "; resample them onto an even grid with --fix-spacing, or export all slices again"
    return _make(kind, headers, planes, name, problem, arrangement)


def _make(
    kind: str,
    headers: Sequence[InstanceHeader],
    planes: Sequence[Plane],
    name: str,
    problem: str,
    arrangement: Arrangement | None = None,
) -> Series:
    first = headers[0]
    return Series(
        uid=first.series_uid,
        study_uid=first.study_uid,
        frame_of_reference_uid=first.frame_of_reference_uid,
        modality=first.modality,
        description=first.description,
        number=first.series_number,
        name=name,
        kind=kind,
        problem=problem,
        files=tuple(header.path for header in headers),
        size=len(planes) or len(headers),
        headers=tuple(headers),
        planes=tuple(planes),
        arrangement=arrangement,
    )


def _not_an_image(kind: str, headers: list[InstanceHeader]) -> Series:
    return _make(kind, headers, [], "", f"holds {_in_words(kind)}, not an image")


def _in_words(kind: str) -> str:
    return "other DICOM data" if kind == "other" else f"a {kind}" if kind != "structures" else "structures"


def _named_by_direction(found: list[Series]) -> list[Series]:
    """Parts of a series that differ in direction, size or place get names, so that a person can tell them apart."""
    stacks = [one for one in found if one.arrangement is not None and not one.name]
    if len(stacks) < 2:
        return found
    facing = {id(one): _facing(one) for one in stacks}
    counts: dict[str, int] = defaultdict(int)
    named = []
    for one in found:
        if id(one) in facing:
            label = facing[id(one)]
            counts[label] += 1
            several = list(facing.values()).count(label) > 1
            named.append(replace(one, name=f"{label} {counts[label]}" if several else label))
        else:
            named.append(one)
    return named


def _facing(series: Series) -> str:
    assert series.arrangement is not None
    x, y, z = abs(series.arrangement.step)
    return "axial" if z >= max(x, y) else "coronal" if y >= x else "sagittal"
