"""One fold from start to end: prepare what is missing, train, and have the held-out cases measured."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from medseg import atomic, documents
from medseg.crossvalidation.budget import size_for_budget
from medseg.crossvalidation.held_out import validate_fold
from medseg.device import choose_device, choose_precision, describe, deterministic_algorithms
from medseg.errors import MedsegError, UsageError
from medseg.evaluation import Evaluation
from medseg.interop.opening import open_model
from medseg.model import FOLD_PLAN_FILE, MODEL_FILE, PREVIOUS_FOLDER, WEIGHTS_FILE, ModelDocument, fold_folder
from medseg.networks.memory import freed_memory_kept
from medseg.planning.plan import Configuration, Plan
from medseg.planning.sizing import LEAST_TRAINING, Sizing, duration
from medseg.progress import Progress, silent
from medseg.report import training_plot
from medseg.splits import Split
from medseg.training.cases import open_cases, stored_cases
from medseg.training.curve import PROGRESS_FILE
from medseg.training.history import read_history
from medseg.training.loop import CHECKPOINT_FILE, train_network
from medseg.training.outcome import OUTCOME_FILE, TrainingOutcome, judge_training
from medseg.training.pretrained import load_pretrained
from medseg.training.recipe import recipe_for_iterations
from medseg.training.run import Run
from medseg.training.sampling import PatchSource, validation_subset
from medseg.training.starting import RUN_FILE, Length, recipe_of, run_under_way
from medseg.training.team import ALONE, Team
from medseg.training.trainer import VALIDATION_PATCHES, Trainer
from medseg.workspace import Workspace, preprocess

# Kept of a budget for the learning curve's picture and the tables.
CLOSING_S = 1.5
# Kept besides the time that held-out cases take: the network that predicts is loaded, and the first case takes longer.
LOADING_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A trained and validated fold.

    Attributes:
        evaluation: its held-out cases compared with their references, or a sample of them where a budget ended.
        outcome: what the training came to.
        held_out: how many held-out cases there are.
    """

    folder: Path
    run: Run
    evaluation: Evaluation
    outcome: TrainingOutcome
    held_out: int

    @property
    def unmeasured(self) -> int:
        """Held-out cases for which there was no time."""
        return self.held_out - len(self.evaluation.cases)


def train(
    workspace: str | os.PathLike[str] | Workspace,
    configuration: str | None = None,
    fold: int = 0,
    *,
    epochs: int | None = None,
    iterations: int | None = None,
    budget_seconds: float | Literal["auto"] | None = None,
    network: Literal["auto", "plan"] = "auto",
    began: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int | None = None,
    restart: bool = False,
    pretrained: str | os.PathLike[str] | None = None,
    freeze: int | Literal["all"] = 0,
    balance_classes: bool = False,
    deterministic: bool = False,
    workers: int | str = 0,
    team: Team = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> FoldResult | None:
    """Train one fold, then predict and measure its held-out cases; what an earlier start has done is kept.

    Args:
        epochs, iterations, budget_seconds: length of training, at most one of them; by default nnU-Net's 1000 epochs,
            on a CPU, which these would take weeks, ``"auto"``. An epoch is 250 iterations. A budget is the whole time,
            from preparing to measuring held-out cases (a sample of them where time is short); ``"auto"`` is one after
            which more time would bring little.
        network: ``"auto"`` trains the network that fits a budget (see :mod:`medseg.planning.sizing`), ``"plan"`` the
            plan's own; without a budget it is always the plan's, and with ``pretrained`` too.
        began: moment of ``time.monotonic`` at which the budget began to count; by default now.
        seed: of all that is random; by default 0.
        restart: throw away what there is of this fold.
        pretrained: model, ours or nnU-Net's, to take the first weights from.
        freeze: iterations for which the pretrained encoder stays as it is.
        balance_classes: show rare classes as often as common ones.
        deterministic: the same bits each time on the same GPU too, where that is slower; on a CPU they always are.
        team: the processes that train together, each with a batch as the plan has it; all of them make this call.
        should_stop: asked after every step; once true, a checkpoint is written and training stops.

    Returns:
        The result, or None if training was stopped.

    Raises:
        UsageError: arguments that contradict each other or a run under way.
        CasesFailedError: cases that cannot be prepared or predicted; the others are.
        ModelError: the pretrained model or a checkpoint is damaged, or does not fit the plan.
        StorageError: nothing can be written there, or no space is left.
    """
    began = time.monotonic() if began is None else began
    opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    planned = opened.plan.configuration(configuration)
    length = Length(epochs, iterations, budget_seconds)
    if freeze and pretrained is None:
        raise UsageError("--freeze keeps a pretrained encoder as it is; say which with --pretrained MODEL")
    if seed is not None and seed < 0:
        raise UsageError(f"--seed {seed}: expected 0 or more")
    where = choose_device(team.device_name(device))
    wanted_precision = choose_precision(precision, where)
    if pretrained is not None:
        open_model(Path(pretrained))  # what cannot be used is refused before anything is thrown away or begun
    split = opened.split(fold)
    folder = fold_folder(opened.model_folder(planned.name), fold)
    if restart and team.leads:
        shutil.rmtree(folder, ignore_errors=True)
    team.wait()
    run = run_under_way(
        folder,
        length,
        seed=seed,
        balance_classes=balance_classes or None,
        deterministic=deterministic or None,
        pretrained=None if pretrained is None else str(pretrained),
    )
    trained = run is not None and (folder / WEIGHTS_FILE).is_file()
    team.wait()  # nothing is written before all have looked
    deadline = math.inf
    if not trained:
        length = length.on(where)
        sizing = None
        if run is None and team.leads:
            if length.budget_seconds is not None:
                freedom = "none" if network == "plan" or pretrained is not None else "all"
                sizing = size_for_budget(
                    opened, planned, length.budget_seconds, where, wanted_precision, freedom=freedom, progress=progress
                )
            chosen = planned if sizing is None else sizing.configuration
            opened.plan.with_configuration(chosen).save(folder / FOLD_PLAN_FILE)
        team.wait()
        plan = Plan.load(folder / FOLD_PLAN_FILE) if (folder / FOLD_PLAN_FILE).is_file() else opened.plan
        chosen = plan.configuration(planned.name)
        shown = _on_the_curve(split)
        if team.leads:
            preprocess(opened, chosen, cases=[*split.train, *shown], workers=workers, progress=progress)
        team.wait()
        cases = open_cases(opened, chosen, split.train, team, where)
        held_out = stored_cases(opened, chosen, shown)
        if run is None and team.leads:
            run = Run(
                version=1,
                configuration=chosen.name,
                fold=fold,
                seed=seed or 0,
                precision=wanted_precision,
                recipe=recipe_for_iterations(length.steps or 1, chosen.batch_size * team.size),
                pretrained=None if pretrained is None else str(pretrained),
                deterministic=deterministic,
            )
            if sizing is not None:
                run = fill_budget(run, sizing, time.monotonic() - began, team.size)
            run = replace(run, recipe=replace(run.recipe, balance_classes=balance_classes, frozen_iterations=freeze))
            documents.save(run, folder / RUN_FILE)
        team.wait()
        run = run or documents.load(Run, folder / RUN_FILE)
        if not _train_fold(opened, plan, chosen, cases, held_out, run, folder, where, team, should_stop, progress):
            return None
        deadline = held_out_deadline(run, began, time.monotonic())
    evaluation = validate_fold(
        opened,
        planned,
        fold,
        device=device,
        precision=precision,
        deadline=deadline,
        team=team,
        should_stop=should_stop,
        progress=progress,
    )
    if evaluation is None:
        return None
    run = run or documents.load(Run, folder / RUN_FILE)
    held_out_cases = len(split.validation)
    history = read_history(folder / PROGRESS_FILE)
    outcome = judge_training(run, opened.plan.labels.names, history, evaluation, held_out=held_out_cases)
    if team.leads:
        documents.save(outcome, folder / OUTCOME_FILE)
    return FoldResult(folder, run, evaluation, outcome, held_out_cases)


def held_out_deadline(run: Run, began: float, now: float) -> float:
    """The moment after which no further held-out case is begun: what is left of the budget, and at least the part that
    was kept for them, however late training has ended."""
    if run.held_out_seconds is None or run.budget_seconds is None:
        return math.inf
    return max(began + run.budget_seconds - CLOSING_S, now + LOADING_S + run.held_out_seconds)


def fill_budget(run: Run, sizing: Sizing, spent_s: float, processes: int = 1) -> Run:
    """The run that fills what is left of a budget with training, but for the part kept for held-out cases.

    Training gets at least ``LEAST_TRAINING`` of the budget, however long preparing has taken; then the whole takes
    longer than asked for, and the log says so.
    """
    after = (LOADING_S + sizing.held_out_s if sizing.held_out_s else 0.0) + CLOSING_S
    left = sizing.budget_s - spent_s - after
    least = LEAST_TRAINING * sizing.budget_s
    if left < least:
        log.warning(
            "preparing took %s of the budget of %s; training and held-out cases will take %s more",
            duration(spent_s),
            duration(sizing.budget_s),
            duration(least + after),
        )
    training_s = max(left, least)
    return replace(
        run,
        recipe=recipe_of(sizing, training_s, processes),
        budget_seconds=sizing.budget_s,
        training_seconds=training_s,
        held_out_seconds=sizing.held_out_s,
    )


def _train_fold(
    workspace: Workspace,
    plan: Plan,
    configuration: Configuration,
    cases: Sequence[PatchSource],
    held_out: Sequence[PatchSource],
    run: Run,
    folder: Path,
    device: torch.device,
    team: Team,
    should_stop: Callable[[], bool],
    progress: Progress,
) -> bool:
    """Train to the end of the run; False if stopped before."""
    log.info("%s; %s", describe(device, run.precision), run.recipe.because)
    split, refs = workspace.split(run.fold), {case.name: case for case in workspace.dataset.cases}
    trainer = Trainer(
        plan,
        configuration,
        cases,
        held_out,
        run,
        device,
        partial=[refs[name] for name in split.train],
        validation_partial=[refs[name] for name in _on_the_curve(split)],
        team=team,
    )
    # What goes on has its weights in its checkpoint, wherever the pretrained model has gone since.
    if run.pretrained is not None and not (folder / CHECKPOINT_FILE).is_file():
        try:
            load_pretrained(trainer.network, plan, Path(run.pretrained))
        except MedsegError:
            if team.leads:
                (folder / RUN_FILE).unlink()  # else the next start would go on with the same weights
            raise
    if team.leads:
        _keep_plans(folder.parent)
        documents.save(ModelDocument(1, plan, configuration.name), folder.parent / MODEL_FILE)
    if team.leads and configuration.previous_stage is not None:
        _bring_along(workspace.model_folder(configuration.previous_stage), folder.parent / PREVIOUS_FOLDER)
    with freed_memory_kept(), deterministic_algorithms(run.deterministic):
        finished = train_network(trainer, folder, should_stop=should_stop, progress=progress)
    if team.leads and (folder / PROGRESS_FILE).is_file():
        training_plot(folder / PROGRESS_FILE, folder / "progress.png")
    team.wait()  # for the leader's weights
    return finished


def _on_the_curve(split: Split) -> list[str]:
    """The held-out cases whose patches make the learning curve; the others need not be prepared."""
    return list(split.validation)[validation_subset(len(split.validation), VALIDATION_PATCHES)]


def _keep_plans(model_folder: Path) -> None:
    """Give trained folds without a plan of their own that of the model's document, which is about to be replaced."""
    bare = [
        path.parent
        for path in model_folder.glob(f"fold_*/{WEIGHTS_FILE}")
        if not path.with_name(FOLD_PLAN_FILE).is_file()
    ]
    if bare and (model_folder / MODEL_FILE).is_file():
        plan = documents.load(ModelDocument, model_folder / MODEL_FILE).plan
        for fold in bare:
            plan.save(fold / FOLD_PLAN_FILE)


def _bring_along(stage: Path, target: Path) -> None:
    """Copy a cascade's previous stage into its model, so that the model needs nothing else to predict."""
    with atomic.replacing_folder(target) as temporary:
        shutil.copy2(stage / MODEL_FILE, temporary / MODEL_FILE)
        for weights in stage.glob(f"fold_*/{WEIGHTS_FILE}"):
            (temporary / weights.parent.name).mkdir()
            for file in (weights, weights.with_name(FOLD_PLAN_FILE)):
                if file.is_file():
                    shutil.copy2(file, temporary / weights.parent.name / file.name)
