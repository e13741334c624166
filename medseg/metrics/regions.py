"""Which labels of a pair of arrays are compared, and where: a ``Region`` is some values and the box that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index

import numpy as np

from medseg.errors import UsageError
from medseg.metrics.masks import Box, label_boxes, union


@dataclass(frozen=True)
class Region:
    """Label values that count as one structure.

    Attributes:
        label: what its row in a table is called: the value itself, or the name it was given.
        values: the label values it covers.
        box: where they lie, in either array.
    """

    label: int | str
    values: tuple[int, ...]
    box: Box

    def mask(self, array: np.ndarray) -> np.ndarray:
        """Its voxels in the box, as booleans."""
        inside = array[self.box]
        return inside == self.values[0] if len(self.values) == 1 else np.isin(inside, self.values)


def label_regions(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Sequence[int] | Mapping[str, int | Sequence[int]] | None,
) -> list[Region]:
    """The regions named by ``labels``; for none, every value above 0 in either array.

    Raises:
        UsageError: labels that are not integers, or a name without values.
    """
    found = [label_boxes(prediction), label_boxes(reference)]
    if labels is None:
        labels = sorted(value for value in found[0].keys() | found[1].keys() if value > 0)
    everywhere = tuple(slice(0, length) for length in reference.shape)
    nowhere = tuple(slice(0, 0) for _ in reference.shape)
    regions = []
    for label, values in _entries(labels):
        boxes = [boxes[value] for boxes in found for value in values if value in boxes]
        regions.append(Region(label, values, everywhere if 0 in values else union(boxes) or nowhere))
    return regions


def _entries(labels: Sequence[int] | Mapping[str, int | Sequence[int]]) -> list[tuple[int | str, tuple[int, ...]]]:
    try:
        if isinstance(labels, Mapping):
            return [(name, _values(value)) for name, value in labels.items()]
        return [(index(value), (index(value),)) for value in labels]
    except TypeError as error:
        raise UsageError(
            f"metrics: expected labels as integers or as names with one or several integers, found {labels!r}; "
            "write for example [1, 2] or {'kidney': 1, 'whole tumour': (2, 3)}"
        ) from error


def _values(value: int | Sequence[int]) -> tuple[int, ...]:
    values = tuple(map(index, value)) if isinstance(value, Iterable) else (index(value),)
    if not values:
        raise TypeError("a name without values")
    return values
