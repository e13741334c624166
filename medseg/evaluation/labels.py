"""Which labels are compared: those that are declared, or else the values that masks hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg import documents, io
from medseg.errors import DocumentError, LabelError
from medseg.evaluation.pairing import Pair
from medseg.labels import BACKGROUND_NAME, IGNORE_NAME, LabelSet
from medseg.metrics.masks import label_boxes

# More distinct values than any atlas has; beyond it, somebody passed images for masks.
MOST_LABELS = 2000
Labels = LabelSet | Mapping[str, Any] | str | os.PathLike[str] | None


def held_values(side: str, case: tuple[str, Pair]) -> list[int]:
    """The values above 0 in the ``"reference"`` or ``"prediction"`` of a case.

    Raises:
        LabelError: a DICOM mask, whose segments have no values of their own, or an image that is no mask.
        DataError: as :func:`medseg.io.read_labels`.
    """
    path = case[1].reference if side == "reference" else case[1].prediction
    if io.holds_dicom(path):
        raise LabelError(f"{path}: segments are told apart by their names; name the labels with --labels")
    values = [value for value in label_boxes(io.read_labels(path).array) if value > 0]
    if len(values) > MOST_LABELS:
        raise LabelError(
            f"{path} holds {len(values)} different values, expected at most {MOST_LABELS} labels; "
            "give masks, not images, or name the labels"
        )
    return values


def dataset_json_near(references: Path) -> Path | None:
    """The ``dataset.json`` in or beside the references."""
    folder = references if references.is_dir() else references.parent
    return next((path for path in (folder / "dataset.json", folder.parent / "dataset.json") if path.is_file()), None)


def declared_labels(labels: Labels) -> LabelSet | None:
    """Labels from names and values, or from a ``dataset.json``; None where none are given.

    Raises:
        DocumentError: they cannot be read.
    """
    if labels is None or isinstance(labels, LabelSet):
        return labels
    if isinstance(labels, Mapping):
        entries = labels
    else:
        document = documents.read_json(labels)
        entries = document.get("labels") if isinstance(document, dict) else None
        if not isinstance(entries, dict):
            raise DocumentError(f"{labels}: expected an object with 'labels', names and their values; add them")
    foreground = [value for name, value in entries.items() if name.lower() not in (BACKGROUND_NAME, IGNORE_NAME)]
    # In which order regions would be written to a mask plays no part in comparing them, so any order will do.
    return LabelSet.parse(entries, [value[0] if isinstance(value, list | tuple) else value for value in foreground])
