"""The verb ``evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.cli import parse
from medseg.cli.display import Display
from medseg.cli.options import JsonOption, WorkersOption
from medseg.cli.output import print_json, print_summary
from medseg.progress import Progress


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Masks to measure: a folder or a file.")],
    references: Annotated[Path, typer.Argument(help="Reference masks of the same names.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for tables and report.")] = None,
    labels: Annotated[Path | None, typer.Option(help="dataset.json that names the labels.")] = None,
    tolerance: Annotated[float, typer.Option(help="Of the surface Dice, in mm.")] = 1.0,
    images: Annotated[Path | None, typer.Option(help="Folder of scans, for pictures in the report.")] = None,
    workers: WorkersOption = "0",
    as_json: JsonOption = False,
) -> None:
    """Compare masks with references: Dice, IoU, distances in mm and surface Dice, a table and a report.

    Example: `medseg evaluate masks/ dataset/labelsTr -o report/`
    """
    from medseg.errors import CasesFailedError
    from medseg.evaluation.tables import metrics_document

    with Display(quiet=as_json) as display:
        result = run_evaluation(
            predictions, references, output, labels, tolerance, images, parse.workers(workers), display
        )
    if as_json:
        print_json(metrics_document(result.evaluation))
    else:
        print_summary(result.evaluation)
        for warning in result.evaluation.warnings:
            typer.echo(warning, err=True)
        if result.report is not None:
            typer.echo(f"report: {result.report}")
    failures = result.evaluation.failures
    if failures:
        raise CasesFailedError("evaluate", failures, len(result.evaluation.cases))


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """A comparison, and the page about it if one was asked for."""

    evaluation: Any
    report: Path | None


def run_evaluation(
    predictions: Path,
    references: Path,
    output: Path | None,
    labels: Path | None,
    tolerance_mm: float,
    images: Path | None,
    workers: int | str,
    progress: Progress,
) -> EvaluationResult:
    """Compare masks with references; with an output folder, write tables and the report there."""
    from medseg import io
    from medseg.evaluation import evaluate_folders, write_tables

    evaluation = evaluate_folders(
        predictions, references, labels=labels, tolerance_mm=tolerance_mm, workers=workers, progress=progress
    )
    if output is None:
        return EvaluationResult(evaluation, None)
    from medseg.report import evaluation_report

    write_tables(evaluation, output)
    scans = {}
    if images is not None:
        scans = {io.name_of(path).removesuffix("_0000"): path for path in sorted(images.iterdir())}
    facts = {"Predictions": predictions.name, "References": references.name}
    tables = ("metrics.csv", "metrics.json", "summary.json")
    return EvaluationResult(evaluation, evaluation_report(evaluation, output, images=scans, facts=facts, links=tables))
