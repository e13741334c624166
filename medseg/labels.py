"""What label values mean: names and file values outside, consecutive indices inside.

Files may hold any integers. Inside, background is 0, the declared values in ascending order are 1..n, and the ignore
label (voxels nobody annotated) is n + 1. ``encode`` and ``decode`` go between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from medseg.errors import DocumentError, LabelError
from medseg.terms import Meaning

BACKGROUND_NAME = "background"
IGNORE_NAME = "ignore"
# Values that lie closer together than this are looked up in a table, others sorted.
_LARGEST_TABLE = 70_000
_UNKNOWN = -1


@dataclass(frozen=True)
class LabelSet:
    """The labels of a dataset.

    Attributes:
        classes: foreground name to the file values it covers, in declared order. One value each for plain labels;
            where any class covers several, classes are regions that may overlap.
        background: file value of background.
        ignore: file value of voxels without annotation, if there are any.
        region_order: for regions, the file value written for each class, later ones over earlier ones.
        mirror_pairs: names of left and right counterparts, where whoever made the dataset states them; an empty
            tuple says that there are none. By default names decide (:mod:`medseg.laterality`).
        meanings: codes, side and colour of classes by name, where the dataset gives them.

    Raises:
        DocumentError: no classes, a value declared twice, a region order that does not fit, or pairs or meanings of
            other names.
    """

    classes: dict[str, tuple[int, ...]]
    background: int = 0
    ignore: int | None = None
    region_order: tuple[int, ...] | None = field(default=None)
    mirror_pairs: tuple[tuple[str, str], ...] | None = None
    meanings: dict[str, Meaning] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.classes:
            raise DocumentError("labels: no foreground label is declared; add at least one name with its value")
        if any(not values for values in self.classes.values()):
            raise DocumentError(f"labels: a class without values in {self.classes}; give it at least one")
        taken = [value for values in self.classes.values() for value in values]
        if self.background in taken or self.ignore in taken or self.ignore == self.background:
            raise DocumentError(
                f"labels: background ({self.background}){'' if self.ignore is None else f' and ignore ({self.ignore})'}"
                f" need values of their own, found {self.classes}; call the name of that value background"
            )
        if not self.has_regions and len(set(taken)) != len(taken):
            raise DocumentError(f"labels: a value stands for two names in {self.classes}; give each its own")
        if self.has_regions:
            if self.region_order is None or len(self.region_order) != len(self.classes):
                raise DocumentError(f"labels: regions need regions_class_order with {len(self.classes)} values")
            strange = set(self.region_order) - set(taken)
            if strange:
                raise DocumentError(f"labels: regions_class_order names {sorted(strange)}, which no class covers")
        paired = [name for pair in self.mirror_pairs or () for name in pair]
        if len(set(paired)) != len(paired) or not set(paired) <= set(self.classes):
            raise DocumentError(
                f"labels: mirror_pairs: expected each of {list(self.classes)} once at most, found {paired}"
            )
        unknown = sorted(set(self.meanings) - set(self.classes))
        if unknown:
            raise DocumentError(f"codes: {unknown} are no labels; labels are {list(self.classes)}")

    @classmethod
    def parse(
        cls,
        labels: Mapping[str, Any],
        region_order: Sequence[int] | None = None,
        mirror_pairs: Sequence[Sequence[str]] | None = None,
        meanings: Mapping[str, Meaning] | None = None,
    ) -> LabelSet:
        """Read a ``labels`` entry: name to value or list of values (nnU-Net), or value to name (MSD).

        Raises:
            DocumentError: the entry is neither, or the other entries do not fit it.
        """
        try:
            if labels and all(isinstance(value, str) for value in labels.values()):
                entries: dict[str, Any] = {str(name): int(value) for value, name in labels.items()}
                if len(entries) != len(labels):
                    raise DocumentError(f"labels: a name is used twice in {dict(labels)}")
                if not any(name.lower() == BACKGROUND_NAME for name in entries):
                    # Listed by value, 0 is background whatever it is called.
                    entries = {name if value else BACKGROUND_NAME: value for name, value in entries.items()}
            else:
                entries = dict(labels)
            parsed = {
                str(name): tuple(map(_integer, value)) if isinstance(value, list | tuple) else (_integer(value),)
                for name, value in entries.items()
            }
        except (TypeError, ValueError) as error:
            raise DocumentError(f"labels: expected name to integer value(s), found {dict(labels)}") from error
        by_lower = {name.lower(): name for name in parsed}
        background = parsed.pop(by_lower.get(BACKGROUND_NAME, BACKGROUND_NAME), (0,))
        ignore = parsed.pop(by_lower.get(IGNORE_NAME, IGNORE_NAME), None)
        if len(background) != 1 or (ignore is not None and len(ignore) != 1):
            raise DocumentError("labels: background and ignore are single values")
        if not any(len(values) > 1 for values in parsed.values()):
            region_order = None
        order = None if region_order is None else tuple(map(_integer, region_order))
        pairs = _name_pairs(mirror_pairs)
        return cls(parsed, background[0], None if ignore is None else ignore[0], order, pairs, dict(meanings or {}))

    @cached_property
    def values(self) -> tuple[int, ...]:
        """File values of the foreground in ascending order; index i + 1 inside stands for ``values[i]``."""
        return tuple(sorted({value for values in self.classes.values() for value in values}))

    @property
    def has_regions(self) -> bool:
        """Whether classes are regions (several values each, possibly overlapping)."""
        return any(len(values) > 1 for values in self.classes.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Foreground names in declared order."""
        return tuple(self.classes)

    @property
    def ignore_index(self) -> int | None:
        """Index inside of voxels without annotation."""
        return None if self.ignore is None else len(self.values) + 1

    @property
    def output_count(self) -> int:
        """Channels of the network's output: one a region, or background and one a label."""
        return len(self.classes) if self.has_regions else 1 + len(self.values)

    @property
    def entry_count(self) -> int:
        """Entries as nnU-Net counts them: background, classes, and ignore if declared."""
        return 1 + len(self.classes) + (self.ignore is not None)

    @property
    def class_indices(self) -> tuple[tuple[int, ...], ...]:
        """For each class, in declared order, the indices inside that it covers."""
        return tuple(tuple(self.values.index(value) + 1 for value in values) for values in self.classes.values())

    @property
    def region_order_indices(self) -> tuple[int, ...]:
        """For regions, the index inside that is written for each class."""
        return tuple(self.values.index(value) + 1 for value in self.region_order or ())

    @property
    def meaning(self) -> dict[str, int | tuple[int, ...]]:
        """Name to file value (or values, for regions): what a mask written with these labels holds."""
        return {name: values[0] if len(values) == 1 else values for name, values in self.classes.items()}

    @property
    def dtype(self) -> np.dtype:
        """The smallest integer type that holds every file value."""
        values = (self.background, *self.values, *(() if self.ignore is None else (self.ignore,)))
        lowest, highest = min(values), max(values)
        for dtype in (np.uint8, np.uint16, np.int16, np.int32):
            if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
                return np.dtype(dtype)
        return np.dtype(np.int64)

    def encode(self, array: np.ndarray, where: str) -> np.ndarray:
        """File values to indices inside, int16, same shape. ``where`` names the case for the error.

        Raises:
            LabelError: a value that is not declared; names the values and how many voxels hold them.
        """
        known = {self.background: 0, **{value: i + 1 for i, value in enumerate(self.values)}}
        if self.ignore is not None and self.ignore_index is not None:
            known[self.ignore] = self.ignore_index
        indices = _look_up(array, known)
        strange = indices == _UNKNOWN
        if strange.any():
            counts = value_counts(array[strange])
            listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(counts.items())[:5])
            raise LabelError(
                f"{where}: label values that the dataset does not declare: {listed}{' ...' if len(counts) > 5 else ''};"
                f" declared are {sorted(known)}; declare them or correct the mask"
            )
        return indices

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Indices inside back to file values, in the smallest type that holds them, same shape."""
        values = [self.background, *self.values]
        if self.ignore is not None:
            values.append(self.ignore)
        return np.array(values, dtype=self.dtype)[indices]


def _name_pairs(pairs: Any) -> tuple[tuple[str, str], ...] | None:
    if pairs is None:
        return None
    listed = isinstance(pairs, list | tuple)
    if not (listed and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)):
        raise DocumentError(f"labels: mirror_pairs: expected a list of [left name, right name], found {pairs!r}")
    return tuple((str(left), str(right)) for left, right in pairs)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(f"{value!r} is not an integer")
    return int(value)


def value_counts(array: np.ndarray) -> dict[int, int]:
    """Each value of an integer array and how often it occurs, in ascending order."""
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if high - low > _LARGEST_TABLE:
        values, counts = np.unique(array, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    counts = np.zeros(high - low + 1, dtype=np.int64)
    for plane in array:  # one at a time, since bincount makes a copy in 64 bits
        counts += np.bincount(np.ravel(plane).astype(np.int64) - low, minlength=len(counts))
    present = np.flatnonzero(counts)
    return dict(zip((present + low).tolist(), counts[present].tolist(), strict=True))


def _look_up(array: np.ndarray, known: Mapping[int, int]) -> np.ndarray:
    """Each value's entry in ``known`` as int16, ``_UNKNOWN`` where it has none."""
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if max(high, 0) - min(low, 0) > _LARGEST_TABLE:
        values, inverse = np.unique(array, return_inverse=True)
        table = np.array([known.get(value, _UNKNOWN) for value in values.tolist()], dtype=np.int16)
        return table[inverse].reshape(array.shape)
    # Negative values find their place from the end, as Python's negative indices do.
    table = np.full(max(high + 1, 0) - min(low, 0), _UNKNOWN, dtype=np.int16)
    for value, index in known.items():
        if low <= value <= high:
            table[value] = index
    return table[array]
