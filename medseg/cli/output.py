"""What verbs print: documents for programs, tables for people."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

_SHOWN = {
    "dice": "Dice",
    "iou": "IoU",
    "hausdorff95_mm": "HD95 mm",
    "assd_mm": "ASSD mm",
    "surface_dice": "surface Dice",
}


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False, default=str) + "\n")


def print_summary(evaluation: Any) -> None:
    """The main metrics of an evaluation."""
    typer.echo(summary_text(evaluation))


def summary_text(evaluation: Any) -> str:
    """Mean of the main metrics of each label over cases, and over labels, as a table for the terminal."""
    from medseg.evaluation.summary import foreground_mean, summarize

    summary = summarize(evaluation.table)
    means = summary.pivot(index="label", columns="metric", values="mean").reindex(summary["label"].unique())
    rows = [(str(label), [means.loc[label, metric] for metric in _SHOWN]) for label in means.index]
    overall = foreground_mean(summary).set_index("metric")["mean"]
    rows.append(("mean of labels", [overall[metric] for metric in _SHOWN]))
    width = max(len(name) for name, _ in rows)
    lines = ["  ".join([" " * width, *(f"{title:>12}" for title in _SHOWN.values())])]
    lines += ["  ".join([f"{name:<{width}}", *(f"{value:>12.4f}" for value in values)]) for name, values in rows]
    return "\n".join(lines)
