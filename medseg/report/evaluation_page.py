"""An evaluation as one HTML page that needs nothing else: tables, plots, and the worst cases drawn on their scans.

The page holds no script and no link to the outside. Of a patient it holds what the names of files say, and pictures.
"""

from __future__ import annotations

import base64
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg import atomic, io
from medseg.errors import DataError
from medseg.evaluation import (
    Evaluation,
    Pair,
    findings,
    foreground_mean,
    labels_found,
    never_found_text,
    summarize,
)
from medseg.io.formats import is_picture
from medseg.report import overlays, plots
from medseg.report.plots import limits_of_agreement
from medseg.report.provenance import versions
from medseg.report.rendering import figure_text, render

if TYPE_CHECKING:
    import pandas as pd

REPORT_FILE = "report.html"
WORST_CASES = 8
"""Cases that are drawn."""
MOST_FINDINGS = 60
"""Findings that are listed; the rest are counted."""
MOST_CELLS = 20_000
"""Figures in the table of all cases; with more, each case has its mean and its lowest alone."""

# Name, unit and digits of the metrics in the table of results.
_SUMMARY_METRICS = {
    "dice": ("Dice", "", 3),
    "surface_dice": ("Surface Dice", "", 3),
    "hausdorff95_mm": ("HD95", " mm", 2),
    "assd_mm": ("ASSD", " mm", 2),
    "precision": ("Precision", "", 3),
    "recall": ("Recall", "", 3),
}
_KINDS = {"failed": "not evaluated", "missed": "missed", "invented": "invented", "poor": "poor overlap"}


@dataclass(frozen=True)
class _Drawn:
    """A case with its picture."""

    case: str
    anchor: str
    label: int | str
    figures: str
    note: str
    png: str


def evaluation_report(
    evaluation: Evaluation,
    folder: str | os.PathLike[str],
    *,
    images: Mapping[str, str | os.PathLike[str]] | None = None,
    title: str = "Segmentation report",
    facts: Mapping[str, str] | None = None,
    links: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` into a folder.

    Args:
        evaluation: what to report on; its masks are read again for the pictures.
        folder: made if need be.
        images: the scan of each case, on the grid of its masks; cases without are drawn on black.
        title: the heading.
        facts: what the reader should know of model and data, name to value, shown in this order.
        links: files in the folder to point to, relative to it.
        notes: sentences about the model to show at the top, such as those of
            :func:`medseg.training.outcome.outcome_lines`.

    Returns:
        The path of the page.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    from markupsafe import Markup

    anchors = {case: f"case-{index}" for index, case in enumerate(evaluation.cases)}
    cases = _case_rows(evaluation)
    unscaled = any(is_picture(pair.reference) for pair in evaluation.pairs.values() if pair.reference.is_file())
    summary = summarize(evaluation.table)
    found = [
        replace(finding, text=_without_folders(finding.text, evaluation.pairs.get(finding.case)))
        for finding in findings(evaluation.table)
    ]
    page = render(
        "evaluation.html",
        title=title,
        evaluation=evaluation,
        facts={**(facts or {}), **_standing_facts(evaluation, unscaled)},
        unscaled=unscaled,
        headline=_headline(summary),
        notes=notes,
        never_found=never_found_text(labels_found(evaluation)),
        absent=[
            row["label"] for row in summary.to_dict("records") if row["metric"] == "dice" and math.isnan(row["mean"])
        ],
        found=found[:MOST_FINDINGS],
        found_count=len(found),
        kinds=_KINDS,
        anchors=anchors,
        metrics=_shown(evaluation),
        rows=_summary_rows(evaluation, summary),
        distributions=Markup(plots.distributions(evaluation.done, anchors)) if cases else "",
        agreement=Markup(plots.agreement(evaluation.done, anchors)) if cases else "",
        drawn=_draw_worst(evaluation, cases, images or {}, anchors),
        colors=(overlays.REFERENCE_COLOR, overlays.PREDICTION_COLOR),
        cases=cases,
        columns=list(evaluation.labels) if len(evaluation.table) <= MOST_CELLS else [],
        links=links,
    )
    path = Path(folder) / REPORT_FILE
    atomic.write_text(path, page)
    return path


def _standing_facts(evaluation: Evaluation, unscaled: bool) -> dict[str, str]:
    labels = ", ".join(
        str(label) if label == values[0] else f"{label} ({', '.join(map(str, values))})"
        for label, values in evaluation.labels.items()
    )
    facts = {
        "Labels": labels or "none found",
        "Tolerance of surface Dice": f"{evaluation.tolerance_mm:g} mm",
        "Made with": versions(),
    }
    if evaluation.ignore is not None:
        facts["Not counted"] = f"voxels whose reference holds {evaluation.ignore}"
    if evaluation.resampled:
        facts["On another grid"] = f"{len(evaluation.resampled)} predictions, brought onto the reference's"
    if unscaled:
        facts["Lengths"] = "pictures have no scale: a pixel counts as 1 mm"
    return facts


def _headline(summary: pd.DataFrame) -> list[tuple[str, str]]:
    """The few numbers at the top: means over labels."""
    means = {row["metric"]: row["mean"] for row in foreground_mean(summary).to_dict("records")}
    return [
        (name, figure_text(means[metric], digits) + unit)
        for metric, (name, unit, digits) in list(_SUMMARY_METRICS.items())[:4]
        if metric in means
    ]


def _shown(evaluation: Evaluation) -> dict[str, tuple[str, str, int]]:
    """The metrics in the table of results: the standing ones, and those that were asked for."""
    asked = {
        metric: (metric.removesuffix("_mm").replace("_", " "), " mm", 2)
        if metric.endswith("_mm")
        else (metric.replace("_", " "), "", 3)
        for metric in evaluation.metrics
    }
    return {**_SUMMARY_METRICS, **asked}


@dataclass(frozen=True)
class _Row:
    """One label in the table of results."""

    label: int | str
    cells: list[dict[Any, Any]]
    volume: tuple[float, float, float]


def _summary_rows(evaluation: Evaluation, summary: pd.DataFrame) -> list[_Row]:
    figures = {(row["label"], row["metric"]): row for row in summary.to_dict("records")}
    errors: dict[str | int, list[float]] = {label: [] for label in evaluation.labels}
    for row in evaluation.done.to_dict("records"):
        if not math.isnan(row["dice"]) and not math.isnan(row["volume_error_ml"]):
            errors[row["label"]].append(row["volume_error_ml"])
    return [
        _Row(
            label,
            [figures[label, metric] for metric in _shown(evaluation)],
            limits_of_agreement(np.array(errors[label])),
        )
        for label in evaluation.labels
    ]


@dataclass(frozen=True)
class _CaseRow:
    """One case in the table of all cases; ``lowest`` is the row of the label with the lowest Dice, if any has one."""

    mean: float
    lowest: dict[Any, Any] | None
    cells: list[dict[Any, Any]]


def _case_rows(evaluation: Evaluation) -> dict[str, _CaseRow]:
    """Every case that did not fail; none where nothing has a label."""
    by_case = defaultdict(list)
    for row in evaluation.done.to_dict("records") if evaluation.labels else []:
        by_case[row["case"]].append(row)
    cases = {}
    for case, rows in by_case.items():
        defined = [row for row in rows if not math.isnan(row["dice"])]
        mean = sum(row["dice"] for row in defined) / len(defined) if defined else math.nan
        cases[case] = _CaseRow(mean, min(defined, key=lambda row: row["dice"], default=None), rows)
    return cases


def _draw_worst(
    evaluation: Evaluation,
    cases: Mapping[str, _CaseRow],
    images: Mapping[str, str | os.PathLike[str]],
    anchors: Mapping[str, str],
) -> dict[str, list[_Drawn]]:
    """Pictures under their headings: the cases with the lowest mean Dice, and one from the middle."""
    lowest = {case: row.lowest for case, row in cases.items() if row.lowest is not None}
    ranked = sorted(lowest, key=lambda case: cases[case].mean)
    chosen = {"Worst cases": ranked[:WORST_CASES]}
    if len(ranked) > 2 * WORST_CASES:
        chosen["For comparison, the case in the middle"] = [ranked[len(ranked) // 2]]
    return {
        heading: [_draw_case(evaluation, lowest[case], images.get(case), anchors[case]) for case in chosen_cases]
        for heading, chosen_cases in chosen.items()
    }


def _draw_case(
    evaluation: Evaluation, worst: dict[Any, Any], image_path: str | os.PathLike[str] | None, anchor: str
) -> _Drawn:
    """A case's picture at one label, given by its row."""
    pair = evaluation.pairs[worst["case"]]
    prediction, reference = pair.read(evaluation.labels)
    image, note = None, ""
    if image_path is not None:
        try:
            image = io.read(image_path)
            reference.geometry.require_equal(image.geometry, "the masks", "the scan")
        except DataError as error:
            image, note = None, f"Drawn without the scan: {str(error).replace(str(image_path), Path(image_path).name)}"
    values = evaluation.labels[worst["label"]]
    limits = (0.0, 1.0)
    if image is not None:
        limits = overlays.window(image.array[0], np.isin(reference.array, values), reference.geometry.spacing_mm)
    picture = overlays.draw(
        overlays.views(prediction, reference, values, image, oriented=not is_picture(pair.reference)),
        values,
        [other for label, other in evaluation.labels.items() if label != worst["label"]],
        limits,
    )
    return _Drawn(
        case=worst["case"],
        anchor=anchor,
        label=worst["label"],
        figures=", ".join(
            f"{name} {figure_text(worst[metric], digits)}{unit}"
            for metric, (name, unit, digits) in list(_SUMMARY_METRICS.items())[:3]
        ),
        note=note,
        png=base64.b64encode(picture).decode("ascii"),
    )


def _without_folders(text: str, pair: Pair | None) -> str:
    """A message with names in the place of paths: where files lie is nobody's business in a page that is passed on."""
    for path in (pair.prediction, pair.reference) if pair else ():
        text = text.replace(str(path), path.name)
    return text
