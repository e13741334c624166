"""What an evaluation is about, as far as the files beside the masks tell: which model, which data."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from medseg import __version__, documents
from medseg.errors import DocumentError

RECORD_FILE = "predictions.json"
"""What ``medseg predict`` leaves beside its masks."""
VALIDATION_FOLDER = "validation"


def facts_about(predictions: Path, references: Path, labels: Path | None = None) -> dict[str, str]:
    """Name to value: model, data, and the names (not the places) of the folders compared.

    Args:
        labels: a ``dataset.json``, if it is not in or beside the references.
    """
    facts = {}
    model = _model(predictions)
    if model:
        facts["Model"] = model
    for path in (labels, references / "dataset.json", references.parent / "dataset.json"):
        name = _document(path).get("name") if path is not None else None
        if isinstance(name, str):
            facts["Data"] = name
            break
    return {**facts, "Predictions": predictions.name, "References": references.name}


def versions() -> str:
    """The versions of what computes the figures."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "scipy"))
    return f"medseg {__version__}, {packages}, Python {platform.python_version()}"


def _model(predictions: Path) -> str:
    said = _document(predictions / RECORD_FILE).get("model")
    if isinstance(said, str):
        return said
    fold = predictions.absolute().parent
    if predictions.name == VALIDATION_FOLDER and fold.name.startswith("fold_"):
        return f"{fold.parent.name}, fold {fold.name.removeprefix('fold_')}, on the cases that it has not seen"
    return ""


def _document(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is none."""
    try:
        found = documents.read_json(path)
    except DocumentError:
        return {}
    return found if isinstance(found, dict) else {}
