"""What some verbs put together before they print: text and JSON from the library's results."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medseg.progress import Progress

if TYPE_CHECKING:
    from medseg.comparing import Comparison
    from medseg.planning.plan import Plan

_SHOWN = {
    "dice": "Dice",
    "iou": "IoU",
    "hausdorff95_mm": "HD95 mm",
    "assd_mm": "ASSD mm",
    "surface_dice": "surface Dice",
}
_PACKAGES = ("numpy", "scipy", "torch", "monai", "nibabel", "SimpleITK", "pydicom", "blosc2", "dask")


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


def compare_plans(plan: Plan, path: Path) -> str:
    """What differs from a plan to the one in a file, ours or nnU-Net's.

    nnU-Net's plans name neither channels nor labels: they come from the ``dataset.json`` beside, else from ``plan``.
    """
    from medseg import documents
    from medseg.interop.nnunet.plans import dataset_document
    from medseg.interop.nnunet.reading import from_nnunet
    from medseg.planning import compare
    from medseg.planning.plan import Plan

    document = documents.read_json(path)
    if not isinstance(document, dict) or "plans_name" not in document:
        return compare(plan, documents.from_json(Plan, document, where=str(path)))
    beside = path.with_name("dataset.json")
    dataset_json = documents.read_json(beside) if beside.is_file() else dataset_document(plan)
    return compare(plan, from_nnunet(document, dataset_json))


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
    metrics: Sequence[str],
    resample_to: Literal["reference"] | None,
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
        resample_to=resample_to,
        workers=workers,
        progress=progress,
    )
    if output is None:
        return EvaluationResult(evaluation, None)
    from medseg.report import evaluation_report

    write_tables(evaluation, output)
    scans = {}
    if images is not None:
        scans = {io.name_of(path).removesuffix("_0000"): path for path in sorted(images.iterdir())}
    facts = {"Predictions": predictions.name, "References": references.name}
    return EvaluationResult(evaluation, evaluation_report(evaluation, output, images=scans, facts=facts, links=FILES))


@dataclass(frozen=True)
class DoctorReport:
    """What the doctor has to say: for people, for programs, and whether the dataset cannot be used as it is."""

    text: str
    document: dict[str, Any]
    unusable: bool = False


def describe_machine() -> DoctorReport:
    """This machine, its devices, and the versions of what matters."""
    import psutil
    import torch

    from medseg import __version__
    from medseg.device import choose_device, choose_precision, describe

    device = choose_device("auto")
    precision = choose_precision("auto", device)
    memory = psutil.virtual_memory()
    document = {
        "medseg": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory_gb": round(memory.total / 1e9, 1),
        "memory_free_gb": round(memory.available / 1e9, 1),
        "cuda_devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "computes_with": describe(device, precision),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
    lines = [
        f"{name}: {', '.join(map(str, value)) or 'none'}" if isinstance(value, list) else f"{name}: {value}"
        for name, value in document.items()
        if name != "packages"
    ]
    lines.append("packages: " + ", ".join(f"{name} {version}" for name, version in document["packages"].items()))
    return DoctorReport("\n".join(lines), document)


def examine_dataset(path: Path, root: Path | None, progress: Progress) -> DoctorReport:
    """Every problem of a dataset or folder, the worst first."""
    from medseg.integrity import examine

    findings = examine(path, root=root, progress=progress)
    order = {"error": 0, "warning": 1, "note": 2}
    ranked = sorted(findings, key=lambda finding: order[finding.severity])
    lines = []
    for finding in ranked:
        where = ": ".join(str(part) for part in (finding.case, finding.file) if part)
        lines.append(f"{finding.severity.upper():8}{where}: {finding.problem}")
        if finding.remedy:
            lines.append(f"        -> {finding.remedy}")
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    lines.append(f"{errors} errors, {warnings} warnings" if findings else "nothing to complain about")
    document = {
        "dataset": str(path),
        "errors": errors,
        "warnings": warnings,
        "findings": [
            {
                "severity": finding.severity,
                "case": finding.case,
                "file": None if finding.file is None else str(finding.file),
                "problem": finding.problem,
                "remedy": finding.remedy,
            }
            for finding in ranked
        ],
    }
    return DoctorReport("\n".join(lines), document, unusable=errors > 0)
