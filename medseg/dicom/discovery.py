"""A folder tree becomes a table of series: what each is, and whether it makes a volume. Pixels are not read.

Slices are grouped by what their headers say and sorted by where they lie, never by file name or instance number.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medseg.dicom.frames import Plane
from medseg.dicom.geometry import Arrangement, arrange, grid
from medseg.dicom.headers import InstanceHeader, read_headers
from medseg.dicom.mosaic import expanded, tile_size
from medseg.dicom.splitting import split_stack
from medseg.errors import FileUnreadableError, GeometryError, UsageError
from medseg.progress import Progress, silent
from medseg.volume import Geometry

# What is no image, by storage class: the whole UID, or a beginning that ends with a dot.
_KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "surface",
    "1.2.840.10008.5.1.4.1.1.66.1": "registration",
    "1.2.840.10008.5.1.4.1.1.66.3": "registration",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.481.3": "structures",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose",
    "1.2.840.10008.5.1.4.1.1.481.5": "treatment plan",
    "1.2.840.10008.5.1.4.1.1.481.8": "treatment plan",
    "1.2.840.10008.5.1.4.1.1.88.": "report",
    "1.2.840.10008.5.1.4.1.1.11.": "presentation state",
    "1.2.840.10008.5.1.4.1.1.104.": "document",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "slide",
}
_KINDS_BY_MODALITY = {"SEG": "segmentation", "RTSTRUCT": "structures", "SR": "report", "RTDOSE": "dose"}
# Of these a picture without a position is a slice whose place is lost, unless it is a captured screen.
_SLICED_MODALITIES = ("CT", "MR", "PT")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_DICOMDIR = "1.2.840.10008.1.3.10"
# Direction cosines and (relative) pixel spacings of slices of one volume: rounded differently from file to file.
_ALIKE_WITHIN = 1e-3
_NOT_IN = (".git", "__MACOSX")


@dataclass(frozen=True, eq=False)
class Series:
    """One volume of a DICOM series, or one series of something else.

    Attributes:
        uid, study_uid, frame_of_reference_uid: empty where the files do not say.
        name: what tells this part from others of the same series ("echo 4.2", "b 1000"); empty where it is whole.
        kind: "volume", "single image", "localiser", "stack" (slices that make no volume), "frames" (without
            positions), "segmentation", "structures", "report", "dose" ...
        problem: why it cannot be read as a volume; empty if it can.
        files: in the order of slices along their normal; one if it is multi-frame.
        size: instances, or frames where the instance holds several.
        headers: of ``files``, in their order.
        planes: the slices, in order.
        arrangement: how the slices lie; None where they have no positions.
    """

    uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    description: str
    number: int | None
    name: str
    kind: str
    problem: str
    files: tuple[Path, ...]
    size: int
    headers: tuple[InstanceHeader, ...] = field(repr=False)
    planes: tuple[Plane, ...] = field(repr=False)
    arrangement: Arrangement | None = field(repr=False)

    @property
    def is_volume(self) -> bool:
        """Whether it is a stack of several slices that can be read as it is."""
        return self.kind == "volume"

    @property
    def channels(self) -> int:
        """Channels that it is read as: three of a colour image, else one."""
        layout = self.headers[0].pixels
        return 3 if layout is not None and (layout.samples == 3 or layout.photometric == "PALETTE COLOR") else 1

    @property
    def described(self) -> str:
        """What it is, in words that let a person choose among several."""
        named = f" {self.description!r}" if self.description else ""
        part = f" ({self.name})" if self.name else ""
        return f"{self.modality or 'image'}{named}{part} of {self.size} slices, UID {self.uid or 'unknown'}"

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Rows and columns of a slice; (0, 0) without pixels."""
        return tile_size(self.headers[0])

    @property
    def geometry(self) -> Geometry:
        """The grid of the volume that it is read as.

        Raises:
            GeometryError: it is no volume; says why.
        """
        rows, columns = self.plane_shape
        if self.arrangement is not None and not self.problem:
            return grid(self.arrangement, rows, columns)
        if self.kind == "single image" and not self.problem:
            spacing = self.planes[0].spacing_mm or (1.0, 1.0)
            return Geometry.from_spacing((1, rows, columns), (1.0, *spacing))
        raise GeometryError(f"{self}: {self.problem or 'not an image'}")

    def __str__(self) -> str:
        what = " ".join(part for part in (self.modality, self.kind, self.name and f"({self.name})") if part)
        return f"series {self.uid or 'without UID'} [{what}]"


@dataclass(frozen=True, eq=False)
class FolderContent:
    """What lies in a folder tree: its series, files that should be DICOM and cannot be read (with the reason), and how
    many files are something else."""

    series: tuple[Series, ...]
    unreadable: dict[Path, str]
    others: int


def find_series(path: str | os.PathLike[str], *, progress: Progress = silent) -> tuple[Series, ...]:
    """The series in a folder tree or in one file, whatever else lies there, ordered by study and number.

    Raises:
        FileUnreadableError: there is no such file or folder, or it is a DICOMDIR.
    """
    return survey_folder(path, progress=progress).series


def survey_folder(path: str | os.PathLike[str], *, progress: Progress = silent) -> FolderContent:
    """Like :func:`find_series`, with the files that could not be read.

    Raises:
        FileUnreadableError: there is no such file or folder.
    """
    return survey_files(files_below(Path(path)), progress=progress)


def survey_files(files: Sequence[Path], *, progress: Progress = silent) -> FolderContent:
    """Like :func:`survey_folder`, of files that are listed.

    Raises:
        FileUnreadableError: the only one is a DICOMDIR.
    """
    headers, unreadable = read_headers(files, progress)
    groups: dict[tuple[str, ...], list[InstanceHeader]] = defaultdict(list)
    if len(files) == 1 and headers and headers[0].sop_class_uid == _DICOMDIR:
        raise FileUnreadableError(f"{files[0]}: is a DICOMDIR, an index without pixels; give the folder it lies in")
    for header in headers:
        if header.sop_class_uid == _DICOMDIR:
            continue
        # Without a series' UID only the folder says what belongs together.
        place = header.series_uid or str(header.path.parent)
        groups[header.study_uid, place, _kind(header)].append(header)
    series = [one for (_, _, kind), group in groups.items() for one in _series(kind, group)]
    series.sort(key=_order)
    return FolderContent(tuple(series), unreadable, len(files) - len(headers) - len(unreadable))


def choose(
    series: Iterable[Series], *, uid: str | None = None, description: str | None = None, modality: str | None = None
) -> tuple[Series, ...]:
    """The series with a UID, a part of whose description is as given (in any case of letters), or of a modality.

    Raises:
        UsageError: none is left.
    """
    found = tuple(
        one
        for one in series
        if (uid is None or one.uid == uid)
        and (description is None or description.casefold() in one.description.casefold())
        and (modality is None or one.modality.casefold() == modality.casefold())
    )
    if not found:
        asked = ", ".join(
            f"{key} {value!r}"
            for key, value in (("UID", uid), ("description", description), ("modality", modality))
            if value is not None
        )
        raise UsageError(f"no series with {asked}; see what is there with: medseg series FOLDER")
    return found


def files_below(path: Path) -> list[Path]:
    """The files of a folder tree that may be DICOM; of a file, that one.

    Raises:
        FileUnreadableError: there is no such file or folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileUnreadableError(f"{path}: no such file or folder")
    found = []
    for folder, names, files in os.walk(path):
        names[:] = sorted(name for name in names if name not in _NOT_IN)
        # Hidden files are not ours: the shadows that file systems of other machines leave begin like their originals.
        found += [Path(folder, file) for file in sorted(files) if not file.startswith(".")]
    return [file for file in found if file.is_file()]


def _kind(header: InstanceHeader) -> str:
    """What an instance is by its storage class; empty for an image."""
    uid = header.sop_class_uid
    for known, kind in _KINDS.items():
        if uid == known or (known.endswith(".") and uid.startswith(known)):
            return kind
    if header.modality in _KINDS_BY_MODALITY and not uid:
        return _KINDS_BY_MODALITY[header.modality]
    return "" if header.pixels is not None else "other"


def _series(kind: str, headers: list[InstanceHeader]) -> list[Series]:
    if kind:
        return [_not_an_image(kind, headers)]
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


def _order(series: Series) -> tuple[object, ...]:
    number = series.number if series.number is not None else 1 << 30
    return series.study_uid, number, series.uid, -series.size if not series.name else 0
