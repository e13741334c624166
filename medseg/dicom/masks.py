"""Masks read from DICOM objects: what each segment means, and where it is, overlaps kept apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset

from medseg.dicom.frames import text
from medseg.errors import LabelError
from medseg.terms import Code
from medseg.volume import Geometry, LabelVolume

_LISTED = 8


@dataclass(frozen=True)
class Segment:
    """One segment of a segmentation, or one region of a structure set.

    Attributes:
        number: as in the object; the value of its voxels.
        category, type: coded meaning, None where the object does not say.
        algorithm: "MANUAL", "SEMIAUTOMATIC", "AUTOMATIC", or empty.
    """

    number: int
    name: str
    category: Code | None = None
    type: Code | None = None
    algorithm: str = ""


@dataclass(frozen=True, eq=False)
class MaskSet:
    """The masks of one DICOM object on one grid.

    Attributes:
        segments: in the object's order, empty ones too.
        volumes: voxels hold segment numbers; segments that overlap lie in different volumes. At least one volume.
        frame_of_reference_uid, series_uid: what the object says it belongs to; empty where it does not.
        notes: one line for everything that was left aside.
    """

    segments: tuple[Segment, ...]
    volumes: tuple[LabelVolume, ...]
    frame_of_reference_uid: str = ""
    series_uid: str = ""
    notes: tuple[str, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """The grid of all volumes."""
        return self.volumes[0].geometry

    def mask(self, number: int) -> np.ndarray:
        """Where one segment is, (Z, Y, X) bool.

        Raises:
            LabelError: there is no such segment.
        """
        if all(segment.number != number for segment in self.segments):
            raise LabelError(f"no segment {number}; there are {[segment.number for segment in self.segments]}")
        found = np.zeros(self.geometry.shape, dtype=bool)
        for volume in self.volumes:
            found |= volume.array == number
        return found

    def merged(self, values: Mapping[str, int], where: str) -> tuple[LabelVolume, int]:
        """One mask of the segments with given names (in any case of letters), holding the values given for them.

        Where they overlap, the one that ``values`` names later lies on top. Segments that it does not name are
        background.

        Returns:
            The mask, and how many voxels lie in several of its segments.

        Raises:
            LabelError: none of the names occurs, or two segments have one of them.
        """
        by_name: dict[str, list[Segment]] = {}
        for segment in self.segments:
            by_name.setdefault(_folded(segment.name), []).append(segment)
        chosen = [(name, by_name[_folded(name)]) for name in values if _folded(name) in by_name]
        for name, segments in chosen:
            if len(segments) > 1:
                raise LabelError(f"{where}: {len(segments)} segments are called {name!r}; rename all but one")
        if not chosen:
            listed = ", ".join(repr(segment.name) for segment in self.segments[:_LISTED])
            more = " ..." if len(self.segments) > _LISTED else ""
            raise LabelError(
                f"{where}: none of the labels {list(values)} occurs among its segments: {listed or 'none'}{more};"
                " give labels the names of segments"
            )
        largest = max(values.values(), default=0)
        out = np.zeros(self.geometry.shape, np.uint8 if largest < 256 else np.int32)
        covered = np.zeros(self.geometry.shape, dtype=bool)
        overlapping = 0
        for name, (segment, *_) in chosen:
            mask = self.mask(segment.number)
            overlapping += int(np.count_nonzero(mask & covered))
            covered |= mask
            out[mask] = values[name]
        return LabelVolume(out, self.geometry, dict(values)), overlapping


@dataclass
class Layers:
    """Collects masks into as few volumes as they fit in without overlapping, first come first served."""

    geometry: Geometry
    dtype: np.dtype
    arrays: list[np.ndarray] = field(default_factory=list)
    names: list[dict[str, int]] = field(default_factory=list)

    def add(self, segment: Segment, mask: np.ndarray) -> None:
        """Put a (Z, Y, X) bool mask into the first volume with room for it."""
        free = (layer for layer in zip(self.arrays, self.names, strict=True) if not layer[0][mask].any())
        array, names = next(free, (None, {}))
        if array is None:
            array = np.zeros(self.geometry.shape, self.dtype)
            self.arrays.append(array)
            self.names.append(names)
        array[mask] = segment.number
        # Names need not be unique; the number then tells them apart.
        names[segment.name if segment.name not in names else f"{segment.name} ({segment.number})"] = segment.number

    def volumes(self) -> tuple[LabelVolume, ...]:
        """The volumes; an empty one where nothing was added."""
        arrays = self.arrays or [np.zeros(self.geometry.shape, self.dtype)]
        names: Sequence[dict[str, int]] = self.names or [{}]
        return tuple(LabelVolume(array, self.geometry, named) for array, named in zip(arrays, names, strict=True))


def smallest_dtype(numbers: Iterable[int]) -> np.dtype:
    """The smallest type that holds all segment numbers."""
    return np.dtype(np.uint8) if max(numbers, default=0) < 256 else np.dtype(np.int32)


def code_of(items: Sequence[Dataset] | None) -> Code | None:
    """The first concept of a code sequence."""
    if not items:
        return None
    item = items[0]
    return Code(text(item, "CodeValue"), text(item, "CodingSchemeDesignator"), text(item, "CodeMeaning"))


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()
