"""A comparison of systems as one HTML page that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg import atomic
from medseg.comparing import BETTER, UNDECIDED, WORSE, Comparison
from medseg.report import comparison_plots
from medseg.report.provenance import versions
from medseg.report.rendering import render

COMPARISON_FILE = "comparison.html"
MOST_ROWS = 400
"""Rows of the table that are shown; the rest is in the files."""
MOST_DRAWN = 80
"""Pairs and labels that a figure has room for."""


def comparison_report(
    comparison: Comparison,
    folder: str | os.PathLike[str],
    *,
    title: str = "Comparison of systems",
    facts: Mapping[str, str] | None = None,
    links: Sequence[str] = (),
) -> Path:
    """Write ``comparison.html`` into a folder.

    Args:
        comparison: what to report on.
        folder: made if need be.
        title: the heading.
        facts: what else the reader should know, name to value.
        links: files in the folder to point to, relative to it.

    Returns:
        The path of the page.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    from markupsafe import Markup

    table, means = comparison.table, comparison.means
    rows = table.to_dict("records")
    drawn = 0 < len(table) <= MOST_DRAWN * len(comparison.metrics)
    page = render(
        "comparison.html",
        title=title,
        facts={
            **(facts or {}),
            "Systems": ", ".join(
                name if seeds == 1 else f"{name} ({seeds} seeds)"
                for name, seeds in zip(comparison.systems, comparison.seeds, strict=True)
            ),
            "Made with": versions(),
        },
        systems=comparison.systems,
        several_seeds=max(comparison.seeds) > 1,
        metrics=comparison.metrics,
        notes=comparison.notes,
        sentences=sentences(comparison),
        rows=[(row, "mm" in row["metric"]) for row in rows[:MOST_ROWS]],
        row_count=len(rows),
        means=_by_system(means.to_dict("records")),
        differences=Markup(comparison_plots.differences(comparison)) if drawn else "",
        places=Markup(comparison_plots.places(comparison)) if len(comparison.ranks) else "",
        classes={BETTER: "better", WORSE: "worse", UNDECIDED: "soft"},
        links=links,
    )
    path = Path(folder) / COMPARISON_FILE
    atomic.write_text(path, page)
    return path


def sentences(comparison: Comparison) -> list[str]:
    """What was found about each pair, in a sentence."""
    said = []
    table = comparison.table
    for system, against in dict.fromkeys(zip(table["system"], table["against"], strict=True)):
        rows = table.loc[(table["system"] == system) & (table["against"] == against), "verdict"]
        better, worse = int((rows == BETTER).sum()), int((rows == WORSE).sum())
        if better == worse == 0:
            said.append(f"{system} and {against} are not distinguishable.")
            continue
        parts = [f"{word} in {count} of {len(rows)}" for word, count in ((BETTER, better), (WORSE, worse)) if count]
        rest = len(rows) - better - worse
        tail = f", {UNDECIDED} in {rest}" if rest else ""
        said.append(f"{system} is {' and '.join(parts)} figures than {against}{tail}.")
    return said


def _by_system(means: Sequence[dict[Any, Any]]) -> dict[tuple[str, str], dict[str, dict[Any, Any]]]:
    """Of each label and metric the row of every system."""
    found: dict[tuple[str, str], dict[str, dict[Any, Any]]] = {}
    for row in means:
        found.setdefault((row["label"], row["metric"]), {})[row["system"]] = row
    return found
