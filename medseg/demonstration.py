"""The whole job on phantoms: what ``medseg demo`` does, with the same public functions that everybody calls."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from medseg.crossvalidation import FoldResult, size_for_budget, train
from medseg.dataset import Dataset
from medseg.device import choose_device, choose_precision, machine_name
from medseg.evaluation import Evaluation, evaluate_folders, write_tables
from medseg.evaluation.tables import FILES
from medseg.phantoms import PhantomKind, write_dataset
from medseg.prediction import predict_files
from medseg.progress import Progress, silent
from medseg.report import evaluation_report
from medseg.training.outcome import TrainingOutcome, outcome_lines, train_command
from medseg.workspace import Workspace, plan_workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demo:
    """How large the demo is: cases to learn from, unseen cases, size of scans, and time to train."""

    training: int
    test: int
    kind: PhantomKind
    budget_seconds: float


SMALL_SCANS = PhantomKind(extent_mm=(64.0, 80.0, 92.0), finest_mm=(4.0, 2.6, 2.6), coarsest_mm=(5.0, 3.0, 3.0))
FULL = Demo(training=24, test=6, kind=PhantomKind(), budget_seconds=165)
# On a machine where the full demo has too few steps, the same time goes into smaller scans.
SLOW = Demo(training=24, test=6, kind=SMALL_SCANS, budget_seconds=150)
QUICK = Demo(training=16, test=4, kind=SMALL_SCANS, budget_seconds=42)
ENOUGH_STEPS = 350


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo leaves: the comparison on unseen cases, where the report lies, and what the training came to."""

    evaluation: Evaluation
    report: Path
    outcome: TrainingOutcome


def run_demo(
    folder: str | os.PathLike[str], *, quick: bool = False, seed: int = 0, progress: Progress = silent
) -> DemoResult:
    """Make phantoms, plan, train one fold, predict unseen cases, evaluate them and write the report.

    Everything lies in ``folder`` afterwards: ``dataset``, ``workspace``, ``predictions``, ``report``. How large scans
    and network are follows from the speed of the machine, so that it takes the same time everywhere.

    Raises:
        StorageError: the folder cannot be written.
    """
    root, demo = Path(folder), QUICK if quick else FULL
    workspace, steps = _planned(root, demo, seed, progress)
    if not quick and steps < ENOUGH_STEPS:
        log.info("the demo would have %d steps here; smaller scans are made instead", steps)
        demo = SLOW
        workspace, _ = _planned(root, demo, seed, progress)
    data = root / "dataset"
    trained = train(workspace, fold=0, budget_seconds=demo.budget_seconds, restart=True, progress=progress)
    assert trained is not None  # nothing asks it to stop
    model = workspace.model_folder(workspace.plan.configuration().name)
    predict_files([data / "imagesTs"], root / "predictions", models=[model], progress=progress)
    evaluation = evaluate_folders(
        root / "predictions", data / "labelsTs", labels=workspace.dataset.labels, progress=progress
    )
    write_tables(evaluation, root / "report")
    images = {path.name.removesuffix(".nii.gz"): path for path in sorted((data / "imagesTs").iterdir())}
    report = evaluation_report(
        evaluation,
        root / "report",
        images=images,
        title="Phantoms: unseen cases",
        facts={"Model": f"{model.name}, fold 0", "Training": _training_fact(trained)},
        notes=outcome_lines(trained.outcome, train_command(trained.run, str(workspace.root))),
        links=FILES,
    )
    return DemoResult(evaluation, report, trained.outcome)


def _planned(root: Path, demo: Demo, seed: int, progress: Progress) -> tuple[Workspace, int]:
    """The demo's dataset, written and planned, and how many steps its time holds on this machine."""
    data = write_dataset(
        root / "dataset", training=demo.training, test=demo.test, seed=seed, kind=demo.kind, progress=progress
    )
    workspace = plan_workspace(Dataset.open(data), root / "workspace", progress=progress)
    device = choose_device()
    sizing = size_for_budget(
        workspace,
        workspace.plan.configuration(),
        demo.budget_seconds,
        device,
        choose_precision("auto", device),
        progress=progress,
    )
    return workspace, sizing.steps


def _training_fact(trained: FoldResult) -> str:
    outcome = trained.outcome
    return f"{outcome.steps} steps in {outcome.seconds:.0f} s on {machine_name(choose_device())}"
