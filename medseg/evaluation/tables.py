"""An evaluation as files: ``metrics.csv``, ``metrics.json``, and ``summary.json`` as nnU-Net v2 writes it."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from medseg import atomic, documents
from medseg.evaluation.results import COUNTS, Evaluation
from medseg.evaluation.summary import foreground_mean, metrics_of, summarize

VERSION = 1
CSV_FILE, PARQUET_FILE, JSON_FILE, NNUNET_FILE = "metrics.csv", "metrics.parquet", "metrics.json", "summary.json"
FILES = (CSV_FILE, PARQUET_FILE, JSON_FILE, NNUNET_FILE)
"""What ``write_tables`` writes."""


def write_tables(evaluation: Evaluation, folder: str | os.PathLike[str]) -> None:
    """Write ``metrics.csv``, ``metrics.parquet``, ``metrics.json`` and ``summary.json`` into a folder, made if need be.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    target = Path(folder)
    atomic.write_text(target / CSV_FILE, evaluation.table.to_csv(index=False, lineterminator="\n"))
    # A column of Parquet has one type; labels and values may be numbers or text.
    typed = evaluation.table.astype(dict.fromkeys(("case", "label", "value", "error"), str))
    with atomic.replacing_file(target / PARQUET_FILE) as temporary:
        typed.to_parquet(temporary, index=False)
    atomic.write_text(target / JSON_FILE, documents.to_text(metrics_document(evaluation)))
    # nnU-Net's readers are Python's, which take the bare NaN that it writes for a label absent from both masks.
    atomic.write_text(target / NNUNET_FILE, json.dumps(nnunet_summary(evaluation), indent=4) + "\n")


def metrics_document(evaluation: Evaluation) -> dict[str, Any]:
    """Everything in one JSON value: a record a case and label, and the summary. NaN and infinity become text."""
    import pandas as pd

    summary = summarize(evaluation.table)
    # Counts of failed cases are missing, which pandas 2 leaves as its own NA where JSON has null.
    table = evaluation.table.astype(dict.fromkeys(COUNTS, object)).replace({pd.NA: None})
    return documents.to_json(
        {
            "version": VERSION,
            "tolerance_mm": evaluation.tolerance_mm,
            "metrics": list(metrics_of(evaluation.table)),
            "resampled": list(evaluation.resampled),
            "labels": {str(label): list(values) for label, values in evaluation.labels.items()},
            "ignore": evaluation.ignore,
            "cases": table.to_dict("records"),
            "summary": summary.to_dict("records"),
            "foreground_mean": foreground_mean(summary).to_dict("records"),
            "failures": evaluation.failures,
            "warnings": list(evaluation.warnings),
        }
    )


def nnunet_summary(evaluation: Evaluation) -> dict[str, Any]:
    """The document that nnU-Net v2 calls ``summary.json``, over the cases that did not fail.

    Keys are label values, for regions text such as ``"(1, 2)"``. ``mean`` leaves out cases in which a label is in
    neither mask. ``foreground_mean`` leaves out labels that are in no case (nnU-Net's own turns NaN there).
    """
    keys = {label: str(values[0] if len(values) == 1 else values) for label, values in evaluation.labels.items()}
    figures = defaultdict(dict)
    for row in evaluation.done.to_dict("records") if keys else []:
        figures[row["case"]][keys[row["label"]]] = _figures(row)
    per_case = [
        {
            "metrics": metrics,
            "prediction_file": str(evaluation.pairs[case].prediction),
            "reference_file": str(evaluation.pairs[case].reference),
        }
        for case, metrics in figures.items()
    ]
    # A case that was not annotated for a label has no row of it.
    found = {key: [case["metrics"][key] for case in per_case if key in case["metrics"]] for key in keys.values()}
    mean = {key: _mean_of(values) for key, values in found.items() if values}
    return {"foreground_mean": _mean_of(list(mean.values())), "mean": mean, "metric_per_case": per_case}


def _figures(row: dict[Any, Any]) -> dict[str, float | int]:
    tp, fp, fn, tn = (int(row[count]) for count in ("tp", "fp", "fn", "tn"))
    return {
        "Dice": row["dice"],
        "FN": fn,
        "FP": fp,
        "IoU": row["iou"],
        "TN": tn,
        "TP": tp,
        "n_pred": tp + fp,
        "n_ref": tp + fn,
    }


def _mean_of(figures: list[dict[str, float | int]]) -> dict[str, float]:
    """The mean of each figure over those that are defined."""
    means = {}
    for name in figures[0] if figures else ():
        defined = [each[name] for each in figures if not math.isnan(each[name])]
        means[name] = float(np.mean(defined)) if defined else math.nan
    return means
