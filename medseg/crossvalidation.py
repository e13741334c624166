"""Folds from start to end: prepare what is missing, train, predict the held-out cases, measure them.

Each part is found again when it is done, so a run that stopped anywhere goes on there.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch

from medseg import atomic, documents, io, store
from medseg.device import choose_device, choose_precision, describe
from medseg.errors import CasesFailedError, DocumentError, UsageError
from medseg.evaluation import Evaluation, Pair, Pairing, evaluate_pairs, write_tables
from medseg.model import (
    MODEL_FILE,
    PREVIOUS_FOLDER,
    VALIDATION_FOLDER,
    WEIGHTS_FILE,
    ModelDocument,
    fold_folder,
    load_model,
)
from medseg.networks.memory import freed_memory_kept
from medseg.patches import patches_in
from medseg.planning.plan import Configuration
from medseg.prediction import (
    DEFAULT_SETTINGS,
    Job,
    PredictionSettings,
    Predictor,
    Wishes,
    predict_cases,
)
from medseg.progress import Progress, silent
from medseg.report import training_plot
from medseg.selection import probabilities_of
from medseg.training.loop import PROGRESS_FILE, Run, Trainer, seconds_per_sample, train_network
from medseg.training.partial import annotated_rows
from medseg.training.pretrained import load_pretrained
from medseg.training.recipe import (
    BUDGET_SHARE,
    DEFAULT_EPOCHS,
    EPOCH_ITERATIONS,
    SMALLEST_BATCH,
    recipe_for_budget,
    recipe_for_iterations,
    suggest_budget,
)
from medseg.training.sampling import InMemoryCase, PatchSource
from medseg.workspace import Workspace, preprocess, previous_masks

RUN_FILE = "run.json"
# Prepared cases are held in memory while they take at most this part of what is free; else patches come from disk.
MEMORY_SHARE = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Length:
    """How long to train: at most one of these; by default nnU-Net's 1000 epochs.

    Raises:
        UsageError: more than one is given.
    """

    epochs: int | None = None
    iterations: int | None = None
    budget_seconds: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.epochs, self.iterations, self.budget_seconds)) > 1:
            raise UsageError("--epochs, --iterations and --budget each say how long to train; give one of them")

    @property
    def steps(self) -> int | None:
        """Iterations, if they were asked for."""
        return self.iterations if self.epochs is None else self.epochs * EPOCH_ITERATIONS


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A trained and validated fold: its folder, and its held-out cases compared with their references."""

    folder: Path
    evaluation: Evaluation


def train(
    workspace: str | os.PathLike[str] | Workspace,
    configuration: str | None = None,
    fold: int = 0,
    *,
    epochs: int | None = None,
    iterations: int | None = None,
    budget_seconds: float | Literal["auto"] | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int | None = None,
    restart: bool = False,
    pretrained: str | os.PathLike[str] | None = None,
    freeze: int | Literal["all"] = 0,
    balance_classes: bool = False,
    workers: int | str = 0,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> FoldResult | None:
    """Train one fold, then predict and measure its held-out cases; what an earlier start has done is kept.

    Args:
        epochs, iterations, budget_seconds: length of training, at most one of them; by default nnU-Net's 1000 epochs.
            An epoch is 250 iterations; a budget becomes a number of iterations after a short measurement, and
            ``"auto"`` is a budget that suits the size of the dataset.
        seed: of all that is random; by default 0.
        restart: throw away what there is of this fold.
        pretrained: model, ours or nnU-Net's, to take the first weights from.
        freeze: iterations for which the pretrained encoder stays as it is.
        balance_classes: show rare classes as often as common ones.
        should_stop: asked after every step; once true, a checkpoint is written and training stops.

    Returns:
        The result, or None if training was stopped.

    Raises:
        UsageError: arguments that contradict each other or a run under way.
        CasesFailedError: cases that cannot be prepared or predicted; the others are.
    """
    opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    chosen = opened.plan.configuration(configuration)
    length = Length(epochs, iterations, budget_seconds)
    if freeze and pretrained is None:
        raise UsageError("--freeze keeps a pretrained encoder as it is; say which with --pretrained MODEL")
    split = opened.split(fold)
    folder = fold_folder(opened.model_folder(chosen.name), fold)
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    run = run_under_way(folder, length, seed, balance_classes or None)
    if run is None or not (folder / WEIGHTS_FILE).is_file():
        began = time.monotonic()
        preprocess(opened, chosen, cases=[*split.train, *split.validation], workers=workers, progress=progress)
        cases, held_out = (open_cases(opened, chosen, names) for names in (split.train, split.validation))
        where = choose_device(device)
        if run is None:
            run = Run(
                version=1,
                configuration=chosen.name,
                fold=fold,
                seed=seed or 0,
                precision=choose_precision(precision, where),
                recipe=recipe_for_iterations(length.steps or DEFAULT_EPOCHS * EPOCH_ITERATIONS, chosen.batch_size),
                pretrained=None if pretrained is None else str(pretrained),
            )
            if budget_seconds is not None:
                run = within_budget(run, budget_seconds, began, opened, chosen, cases, where)
            run = replace(run, recipe=replace(run.recipe, balance_classes=balance_classes, frozen_iterations=freeze))
            documents.save(run, folder / RUN_FILE)
        if not _train_fold(opened, chosen, cases, held_out, run, folder, where, should_stop, progress):
            return None
    evaluation = validate_fold(
        opened, chosen, fold, device=device, precision=precision, should_stop=should_stop, progress=progress
    )
    return None if evaluation is None else FoldResult(folder, evaluation)


def validate_fold(
    workspace: Workspace,
    configuration: Configuration,
    fold: int,
    *,
    device: str = "auto",
    precision: str = "auto",
    settings: PredictionSettings = DEFAULT_SETTINGS,
    probabilities: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Evaluation | None:
    """Predict the held-out cases of a trained fold into its ``validation`` folder and measure them.

    Masks newer than the weights are kept, so an interrupted validation goes on; with ``probabilities``, those that have
    theirs beside them.

    Returns:
        The comparison, or None if it was stopped before all cases were predicted.

    Raises:
        CasesFailedError: some cases could not be predicted; the others are written.
    """
    model_folder = workspace.model_folder(configuration.name)
    folder = fold_folder(model_folder, fold) / VALIDATION_FOLDER
    weights_time = (fold_folder(model_folder, fold) / WEIGHTS_FILE).stat().st_mtime_ns
    names = set(workspace.split(fold).validation)
    cases = [case for case in workspace.dataset.cases if case.name in names]
    previous = previous_masks(workspace, configuration, [case.name for case in cases])
    jobs = [
        Job(case.name, case.images, folder / f"{case.name}{io.mask_ending(case.images[0])}", previous.get(case.name))
        for case in cases
    ]

    def is_there(job: Job) -> bool:
        files = [job.output, *([probabilities_of(job.output)] if probabilities else [])]
        return all(path.is_file() and path.stat().st_mtime_ns > weights_time for path in files)

    waiting = [job for job in jobs if not is_there(job)]
    if waiting:
        predictor = Predictor(load_model(model_folder, (fold,)), device, precision, settings)
        wishes = Wishes(probabilities=probabilities)
        done = predict_cases(predictor, waiting, wishes=wishes, should_stop=should_stop, progress=progress)
        if done.failures:
            raise CasesFailedError(f"validation of fold {fold}", done.failures, len(jobs))
        if len(done.masks) < len(waiting):
            return None
    pairs = {
        job.case: Pair(job.output, case.label) for job, case in zip(jobs, cases, strict=True) if case.label is not None
    }
    evaluation = evaluate_pairs(Pairing(pairs, {}, ()), workspace.plan.labels, progress=progress)
    evaluation = annotated_rows(evaluation, cases)
    write_tables(evaluation, folder)
    return evaluation


def predict_held_out(
    workspace: str | os.PathLike[str] | Workspace,
    configurations: Sequence[str] | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress = silent,
) -> None:
    """Predict the held-out cases of all trained folds with their probabilities, as far as these are missing.

    What :func:`medseg.selection.choose_best` needs for pairs, and :func:`medseg.trust.calibrate` for anything.

    Args:
        configurations: names; by default all that have a trained fold.

    Raises:
        CasesFailedError: some cases could not be predicted; the others are written.
    """
    opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    for configuration in opened.plan.configurations:
        if configurations is not None and configuration.name not in configurations:
            continue
        for fold in range(len(opened.splits)):
            if (fold_folder(opened.model_folder(configuration.name), fold) / WEIGHTS_FILE).is_file():
                validate_fold(
                    opened,
                    configuration,
                    fold,
                    device=device,
                    precision=precision,
                    probabilities=True,
                    progress=progress,
                )


def _train_fold(
    workspace: Workspace,
    configuration: Configuration,
    cases: Sequence[PatchSource],
    held_out: Sequence[PatchSource],
    run: Run,
    folder: Path,
    device: torch.device,
    should_stop: Callable[[], bool],
    progress: Progress,
) -> bool:
    """Train to the end of the run; False if stopped before."""
    log.info("%s; %s", describe(device, run.precision), run.recipe.because)
    split, refs = workspace.split(run.fold), {case.name: case for case in workspace.dataset.cases}
    trainer = Trainer(
        workspace.plan,
        configuration,
        cases,
        held_out,
        run,
        device,
        partial=[refs[name] for name in split.train],
        validation_partial=[refs[name] for name in split.validation],
    )
    if run.pretrained is not None:
        load_pretrained(trainer.network, workspace.plan, Path(run.pretrained))
    documents.save(ModelDocument(1, workspace.plan, configuration.name), folder.parent / MODEL_FILE)
    if configuration.previous_stage is not None:
        _bring_along(workspace.model_folder(configuration.previous_stage), folder.parent / PREVIOUS_FOLDER)
    with freed_memory_kept():
        finished = train_network(trainer, folder, should_stop=should_stop, progress=progress)
    if (folder / PROGRESS_FILE).is_file():
        training_plot(folder / PROGRESS_FILE, folder / "progress.png")
    return finished


def _bring_along(stage: Path, target: Path) -> None:
    """Copy a cascade's previous stage into its model, so that the model needs nothing else to predict."""
    with atomic.replacing_folder(target) as temporary:
        shutil.copy2(stage / MODEL_FILE, temporary / MODEL_FILE)
        for weights in stage.glob(f"fold_*/{WEIGHTS_FILE}"):
            (temporary / weights.parent.name).mkdir()
            shutil.copy2(weights, temporary / weights.parent.name / WEIGHTS_FILE)


def run_under_way(folder: Path, length: Length, seed: int | None, balance_classes: bool | None = None) -> Run | None:
    """The run that was begun in a folder, if any.

    Raises:
        UsageError: it was begun with another length, seed or sampling.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        run = documents.load(Run, path)
    except DocumentError as error:
        raise DocumentError(f"{error}; begin anew with --restart") from error
    asked = {"iterations": length.steps, "budget_seconds": length.budget_seconds, "seed": seed}
    asked["balance_classes"] = balance_classes
    begun = {"iterations": run.recipe.iterations, "budget_seconds": run.budget_seconds, "seed": run.seed}
    begun["balance_classes"] = run.recipe.balance_classes
    for name, value in asked.items():
        if value is not None and value != begun[name] and not (value == "auto" and begun[name]):
            raise UsageError(
                f"{folder}: a run with {name} {begun[name]} was begun here, now {name} is {value};"
                " leave the option out to go on, or begin anew with --restart"
            )
    return run


def within_budget(
    run: Run,
    budget_seconds: float | Literal["auto"],
    began: float,
    workspace: Workspace,
    configuration: Configuration,
    cases: Sequence[PatchSource],
    device: torch.device,
    trainer: type[Trainer] = Trainer,
) -> Run:
    """The run that fills a budget which began to count at a moment, after measuring the machine's speed."""
    probe = replace(run, recipe=recipe_for_iterations(1_000, min(SMALLEST_BATCH, configuration.batch_size)))
    with freed_memory_kept():
        measured = seconds_per_sample(trainer(workspace.plan, configuration, cases, (), probe, device))
    spent = time.monotonic() - began
    if budget_seconds == "auto":
        patches = sum(patches_in(case.shape, configuration.patch_size) for case in cases)
        suggestion = suggest_budget(patches, measured, configuration.batch_size)
        log.info("--budget auto: %.0f minutes; %s", suggestion.seconds / 60, suggestion.because)
        budget_seconds, spent = suggestion.seconds, 0.0
    left = max(budget_seconds - spent, 1.0)
    recipe = recipe_for_budget(left * BUDGET_SHARE, measured, configuration.batch_size)
    log.info("one sample takes %.3f s: %d iterations of %d fit", measured, recipe.iterations, recipe.batch_size)
    return replace(run, recipe=recipe, budget_seconds=budget_seconds, training_seconds=left)


def open_cases(workspace: Workspace, configuration: Configuration, names: Sequence[str]) -> list[PatchSource]:
    """Prepared cases, in memory if they fit there well, else read patch by patch."""
    folder = workspace.preprocessed_folder(configuration.name)
    stored = [store.open_case(folder, name) for name in names]
    needed = sum((4 * case.channels + 2) * case.shape[0] * case.shape[1] * case.shape[2] for case in stored)
    if needed > MEMORY_SHARE * psutil.virtual_memory().available:
        log.info("%d prepared cases (%.1f GB) stay on disk", len(stored), needed / 1e9)
        return [*stored]
    return [
        InMemoryCase(
            case.read_image(),
            case.read_labels(),
            tuple(np.asarray(voxels) for voxels in case.foreground),
            case.read_previous(),
        )
        for case in stored
    ]
