"""Verbs that measure: ``evaluate`` and ``compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.cli import parse
from medseg.cli.display import Display
from medseg.cli.options import JsonOption, LabelsOption, ToleranceOption, WorkersOption
from medseg.cli.output import comparison_text, print_json, print_summary
from medseg.progress import Progress


class Grid(StrEnum):
    reference = "reference"


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Masks to measure: a folder or a file.")],
    references: Annotated[Path, typer.Argument(help="Reference masks of the same names.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for tables and report.")] = None,
    labels: LabelsOption = None,
    tolerance: ToleranceOption = 1.0,
    images: Annotated[Path | None, typer.Option(help="Folder of scans, for pictures in the report.")] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            help="Further ones, with commas: hausdorff99_mm, surface_dice_2mm, boundary_iou_2mm, cldice, lesion_f1,"
            " lesion_precision, lesion_recall; numbers as you like.",
        ),
    ] = None,
    resample_to: Annotated[
        Grid | None, typer.Option("--resample-to", help="Bring predictions onto this grid instead of refusing others.")
    ] = None,
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
            predictions,
            references,
            output,
            images,
            labels=labels,
            tolerance_mm=tolerance,
            metrics=parse.names(metrics),
            onto_reference=resample_to is Grid.reference,
            workers=parse.workers(workers),
            progress=display,
        )
    failures = result.evaluation.failures
    if as_json:
        print_json(metrics_document(result.evaluation))
    elif len(failures) < len(result.evaluation.cases):
        print_summary(result.evaluation)
        for warning in result.evaluation.warnings:
            typer.echo(warning, err=True)
        if result.report is not None:
            typer.echo(f"report: {result.report}")
    if failures:
        raise CasesFailedError("evaluate", failures, len(result.evaluation.cases))


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C...]",
            help="What `medseg evaluate -o` wrote, or folders of masks with --references. Seeds of one system with"
            " commas between them; NAME=... gives a name.",
        ),
    ],
    references: Annotated[
        Path | None, typer.Option("--references", help="Reference masks, if A, B ... are folders of masks.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for tables and report.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", help="[default: dice,surface_dice,hausdorff95_mm]")
    ] = None,
    labels: LabelsOption = None,
    tolerance: ToleranceOption = 1.0,
    workers: WorkersOption = "0",
    as_json: JsonOption = False,
) -> None:
    """Say which system is better on the same cases, by how much, and whether that is more than chance.

    Example: `medseg compare report_a/ report_b/ -o comparison/`
    """
    from medseg.comparing import DEFAULT_METRICS, comparison_document, write_comparison
    from medseg.comparing import compare as compare_systems

    with Display(quiet=as_json) as display:
        found = compare_systems(
            *parse.systems(systems),
            metrics=parse.names(metrics) or DEFAULT_METRICS,
            references=references,
            labels=labels,
            tolerance_mm=tolerance,
            workers=parse.workers(workers),
            progress=display,
        )
    report: Path | None = None
    if output is not None:
        from medseg.comparing.tables import FILES
        from medseg.report import comparison_report

        write_comparison(found, output)
        report = comparison_report(found, output, links=FILES)
    if as_json:
        print_json(comparison_document(found))
        return
    typer.echo(comparison_text(found))
    if report is not None:
        typer.echo(f"report: {report}")


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """A comparison, and the page about it if one was asked for."""

    evaluation: Any
    report: Path | None


def run_evaluation(
    predictions: Path,
    references: Path,
    output: Path | None,
    images: Path | None,
    *,
    labels: Path | None,
    tolerance_mm: float,
    metrics: Sequence[str],
    onto_reference: bool,
    workers: int | str,
    progress: Progress,
) -> EvaluationResult:
    """Compare masks with references; with an output folder, write tables and the report there."""
    from medseg import io
    from medseg.evaluation import evaluate_folders, write_tables
    from medseg.evaluation.tables import FILES

    evaluation = evaluate_folders(
        predictions,
        references,
        labels=labels,
        tolerance_mm=tolerance_mm,
        metrics=metrics,
        resample_to="reference" if onto_reference else None,
        workers=workers,
        progress=progress,
    )
    if output is None:
        return EvaluationResult(evaluation, None)
    from medseg.report import evaluation_report, facts_about

    write_tables(evaluation, output)
    scans = {}
    if images is not None:
        scans = {io.name_of(path).removesuffix("_0000"): path for path in sorted(images.iterdir())}
    facts = facts_about(predictions, references, labels)
    return EvaluationResult(evaluation, evaluation_report(evaluation, output, images=scans, facts=facts, links=FILES))
