"""Verbs to begin with: ``demo`` and ``doctor``."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg import atomic
from medseg.cli import SOME_FAILED
from medseg.cli.display import Display
from medseg.cli.options import DEFAULT_WORKSPACE, JsonOption, RootOption, WorkspaceOption
from medseg.cli.output import print_json, print_summary
from medseg.progress import Progress

_PACKAGES = ("numpy", "scipy", "torch", "nibabel", "SimpleITK", "pydicom", "blosc2", "dask")


def demo(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE / "demo",
    quick: Annotated[bool, typer.Option("--quick", help="One minute instead of four.")] = False,
) -> None:
    """Make a small dataset of phantoms and do the whole job on it: plan, train, predict, evaluate, report.

    Example: `medseg demo --quick`
    """
    from medseg.demonstration import run_demo
    from medseg.training.outcome import outcome_lines

    with Display() as display:
        result = run_demo(workspace, quick=quick, progress=display)
    print_summary(result.evaluation)
    trained = workspace / "workspace"
    typer.echo("\n".join(outcome_lines(result.outcome, f"medseg train -w {trained} --fold 0")))
    typer.echo(f"report: {result.report}")


def doctor(
    dataset: Annotated[Path | None, typer.Argument(help="Dataset, manifest, or any folder of scans.")] = None,
    root: RootOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the findings as a page.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folds to use (splits_final.json form).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can do; with a dataset, list every problem in it and the command that mends it.

    Example: `medseg doctor dataset/ -o examined/`
    """
    with Display(quiet=as_json) as display:
        report = describe_machine() if dataset is None else examine_dataset(dataset, root, output, splits, display)
    if as_json:
        print_json(report.document)
    else:
        typer.echo(report.text)
    if report.unusable:
        raise typer.Exit(SOME_FAILED)


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


def examine_dataset(
    path: Path, root: Path | None, output: Path | None, splits: Path | None, progress: Progress
) -> DoctorReport:
    """Every problem of a dataset or folder, the worst first; with an output folder also as a page and as JSON."""
    from medseg.errors import UsageError
    from medseg.integrity import examine

    if not path.exists():
        raise UsageError(f"{path}: no such file or folder; give a dataset, a manifest (.yaml) or a folder of scans")
    examination = examine(path, root=root, progress=progress, splits_file=splits)
    ranked = examination.ranked()
    lines = []
    for finding in ranked:
        where = ": ".join(str(part) for part in (finding.case, finding.file) if part)
        lines.append(f"{finding.severity.upper():8}{where}: {finding.problem}")
        if finding.remedy:
            lines.append(f"        -> {finding.remedy}")
    errors, warnings = examination.count("error"), examination.count("warning")
    lines.append(f"{errors} errors, {warnings} warnings" if ranked else "nothing to complain about")
    document = {
        "dataset": str(path),
        "errors": errors,
        "warnings": warnings,
        "findings": [
            {
                "severity": finding.severity,
                "case": finding.case,
                "others": list(finding.others),
                "file": None if finding.file is None else str(finding.file),
                "problem": finding.problem,
                "remedy": finding.remedy,
            }
            for finding in ranked
        ],
        "classes": [
            {"name": one.name, "masks": len(one.volumes_ml), "of": one.masks, "volume_ml": one.total_ml}
            for one in examination.classes
        ],
    }
    if output is not None:
        from medseg.report import examination_report

        lines.append(f"report: {examination_report(examination, output)}")
        atomic.write_text(output / "doctor.json", json.dumps(document, indent=1) + "\n")
    return DoctorReport("\n".join(lines), document, unusable=errors > 0)
