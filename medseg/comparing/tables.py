"""A comparison as files: ``comparison.csv`` and ``comparison.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medseg import atomic, documents
from medseg.comparing.comparison import Comparison
from medseg.comparing.statistics import CONFIDENCE, RESAMPLES

VERSION = 1
CSV_FILE, JSON_FILE = "comparison.csv", "comparison.json"
FILES = (CSV_FILE, JSON_FILE)
"""What ``write_comparison`` writes."""


def write_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> None:
    """Write both files into a folder, made if need be.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    target = Path(folder)
    atomic.write_text(target / CSV_FILE, comparison.table.to_csv(index=False, lineterminator="\n"))
    atomic.write_text(target / JSON_FILE, documents.to_text(comparison_document(comparison)))


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Everything in one JSON value; NaN and infinity become text."""
    return documents.to_json(
        {
            "version": VERSION,
            "systems": dict(zip(comparison.systems, comparison.seeds, strict=True)),
            "metrics": list(comparison.metrics),
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "comparisons": comparison.table.to_dict("records"),
            "means": comparison.means.to_dict("records"),
            "ranks": comparison.ranks.to_dict("records"),
            "notes": list(comparison.notes),
        }
    )
