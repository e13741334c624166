"""What verbs print: documents for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from medseg.comparing import Comparison
    from medseg.planning.sizing import Sizing

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


def print_summary(evaluation: Any, notes: Sequence[str] | None = None) -> None:
    """The main metrics of an evaluation, then lines about it; by default one that names labels never found."""
    from medseg.evaluation import labels_found, never_found_text

    typer.echo(summary_text(evaluation))
    if notes is None:
        missing = never_found_text(labels_found(evaluation))
        notes = [f"never found: {missing}"] if missing else []
    for note in notes:
        typer.echo(note)


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


def sizing_text(sizing: Sizing, folds: int = 1) -> str:
    """What a budget buys, for the terminal."""
    from medseg.planning.sizing import duration
    from medseg.planning.wording import configuration_values, lengths

    chosen, values = sizing.configuration, configuration_values(sizing.configuration)
    many = "" if folds == 1 else f" per fold, {duration(folds * sizing.budget_s)} for {folds} folds"
    held_out = "all held-out cases" if sizing.measures_all else "a sample of the held-out cases"
    low, middle, high = sizing.expected.low, sizing.expected.middle, sizing.expected.high
    lines = {
        "budget": f"{duration(sizing.budget_s)}{many}: preparing {duration(sizing.preparation_s)}, training"
        f" {duration(sizing.training_s)}, predicting and measuring {held_out} {duration(sizing.held_out_s)}",
        "network": f"{values['network']}; {chosen.dimensions}D patches of {values['patch_size']}"
        f" at {lengths(chosen.spacing_mm, 'mm')}, batch {chosen.batch_size}",
        "steps": f"about {sizing.steps}, {sizing.step_s:.2g} s each",
        "expected": f"mean Dice {middle:.2f} ({low:.2f} to {high:.2f})",
        "memory": f"about {sizing.memory_bytes / 1e9:.1f} GB beside the prepared cases",
        "end": f"{_end(sizing, folds):%Y-%m-%d %H:%M}, if it is started now",
        "why": sizing.because,
    }
    return "\n".join(f"{name:<10}{text}" for name, text in lines.items())


def sizing_json(sizing: Sizing) -> dict[str, Any]:
    """The same for programs."""
    from medseg import documents

    return {**documents.to_json(sizing), "end": _end(sizing).isoformat(timespec="seconds")}


def _end(sizing: Sizing, folds: int = 1) -> datetime:
    return datetime.now().astimezone() + timedelta(seconds=folds * sizing.budget_s)


def comparison_text(comparison: Comparison) -> str:
    """Every pair, label and metric in a line for the terminal, then a sentence a pair and what to know."""
    from medseg.report.comparison_page import sentences

    lines = []
    rows = comparison.table.to_dict("records")
    heads = [f"{row['system']} - {row['against']}" for row in rows]
    widths = [
        max((len(str(text)) for text in texts), default=0)
        for texts in (heads, [row["label"] for row in rows], [row["metric"] for row in rows])
    ]
    for head, row in zip(heads, rows, strict=True):
        lines.append(
            f"{head:<{widths[0]}}  {row['label']:<{widths[1]}}  {row['metric']:<{widths[2]}}"
            f"  {row['difference']:>+9.4f}  [{row['low']:+.4f}, {row['high']:+.4f}]  n {row['cases']}"
            f"  p {row['p_holm']:.3f}  {row['verdict']}"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in comparison.notes), *sentences(comparison)])
