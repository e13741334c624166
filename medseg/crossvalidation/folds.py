"""One fold from start to end: prepare what is missing, train, and have the held-out cases measured."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from medseg import atomic, documents
from medseg.crossvalidation.held_out import validate_fold
from medseg.device import choose_device, choose_precision, describe, deterministic_algorithms
from medseg.errors import MedsegError, UsageError
from medseg.evaluation import Evaluation
from medseg.interop.opening import open_model
from medseg.model import MODEL_FILE, PREVIOUS_FOLDER, WEIGHTS_FILE, ModelDocument, fold_folder
from medseg.networks.memory import freed_memory_kept
from medseg.planning.plan import Configuration
from medseg.progress import Progress, silent
from medseg.report import training_plot
from medseg.training.cases import open_cases, stored_cases
from medseg.training.curve import PROGRESS_FILE
from medseg.training.loop import CHECKPOINT_FILE, train_network
from medseg.training.pretrained import load_pretrained
from medseg.training.recipe import recipe_for_iterations
from medseg.training.run import Run
from medseg.training.sampling import PatchSource
from medseg.training.starting import RUN_FILE, Length, run_under_way, within_budget
from medseg.training.team import ALONE, Team
from medseg.training.trainer import Trainer
from medseg.workspace import Workspace, preprocess

log = logging.getLogger(__name__)


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
    deterministic: bool = False,
    workers: int | str = 0,
    team: Team = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> FoldResult | None:
    """Train one fold, then predict and measure its held-out cases; what an earlier start has done is kept.

    Args:
        epochs, iterations, budget_seconds: length of training, at most one of them; by default nnU-Net's 1000 epochs,
            on a CPU, which these would take weeks, ``"auto"``. An epoch is 250 iterations; a budget becomes a number
            of iterations after a short measurement, and ``"auto"`` is a budget that suits the size of the dataset.
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
    opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    chosen = opened.plan.configuration(configuration)
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
    folder = fold_folder(opened.model_folder(chosen.name), fold)
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
    if not trained:
        began = time.monotonic()
        if team.leads:
            preprocess(opened, chosen, cases=[*split.train, *split.validation], workers=workers, progress=progress)
        team.wait()
        cases = open_cases(opened, chosen, split.train, team, where)
        held_out = stored_cases(opened, chosen, split.validation)
        if run is None and team.leads:
            length = length.on(where)
            steps = length.steps or 1  # of a budget, which decides below
            run = Run(
                version=1,
                configuration=chosen.name,
                fold=fold,
                seed=seed or 0,
                precision=wanted_precision,
                recipe=recipe_for_iterations(steps, chosen.batch_size * team.size),
                pretrained=None if pretrained is None else str(pretrained),
                deterministic=deterministic,
            )
            if length.budget_seconds is not None:
                run = within_budget(run, length.budget_seconds, began, opened.plan, chosen, cases, where, team)
            run = replace(run, recipe=replace(run.recipe, balance_classes=balance_classes, frozen_iterations=freeze))
            documents.save(run, folder / RUN_FILE)
        team.wait()
        run = run or documents.load(Run, folder / RUN_FILE)
        if not _train_fold(opened, chosen, cases, held_out, run, folder, where, team, should_stop, progress):
            return None
    evaluation = validate_fold(
        opened,
        chosen,
        fold,
        device=device,
        precision=precision,
        team=team,
        should_stop=should_stop,
        progress=progress,
    )
    return None if evaluation is None else FoldResult(folder, evaluation)


def _train_fold(
    workspace: Workspace,
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
        workspace.plan,
        configuration,
        cases,
        held_out,
        run,
        device,
        partial=[refs[name] for name in split.train],
        validation_partial=[refs[name] for name in split.validation],
        team=team,
    )
    # What goes on has its weights in its checkpoint, wherever the pretrained model has gone since.
    if run.pretrained is not None and not (folder / CHECKPOINT_FILE).is_file():
        try:
            load_pretrained(trainer.network, workspace.plan, Path(run.pretrained))
        except MedsegError:
            if team.leads:
                (folder / RUN_FILE).unlink()  # else the next start would go on with the same weights
            raise
    if team.leads:
        documents.save(ModelDocument(1, workspace.plan, configuration.name), folder.parent / MODEL_FILE)
    if team.leads and configuration.previous_stage is not None:
        _bring_along(workspace.model_folder(configuration.previous_stage), folder.parent / PREVIOUS_FOLDER)
    with freed_memory_kept(), deterministic_algorithms(run.deterministic):
        finished = train_network(trainer, folder, should_stop=should_stop, progress=progress)
    if team.leads and (folder / PROGRESS_FILE).is_file():
        training_plot(folder / PROGRESS_FILE, folder / "progress.png")
    team.wait()  # for the leader's weights
    return finished


def _bring_along(stage: Path, target: Path) -> None:
    """Copy a cascade's previous stage into its model, so that the model needs nothing else to predict."""
    with atomic.replacing_folder(target) as temporary:
        shutil.copy2(stage / MODEL_FILE, temporary / MODEL_FILE)
        for weights in stage.glob(f"fold_*/{WEIGHTS_FILE}"):
            (temporary / weights.parent.name).mkdir()
            shutil.copy2(weights, temporary / weights.parent.name / WEIGHTS_FILE)
