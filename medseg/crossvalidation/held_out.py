"""The held-out cases of trained folds: predicted and measured."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from medseg import io
from medseg.errors import CasesFailedError
from medseg.evaluation import Evaluation, Pair, Pairing, evaluate_pairs, write_tables
from medseg.model import VALIDATION_FOLDER, WEIGHTS_FILE, fold_folder, load_model
from medseg.planning.plan import Configuration
from medseg.prediction import DEFAULT_SETTINGS, Job, PredictionSettings, Predictor, Wishes, predict_cases
from medseg.progress import Progress, silent
from medseg.selection import probabilities_of
from medseg.training.partial import annotated_rows
from medseg.training.team import ALONE, Team
from medseg.workspace import Workspace, previous_masks


def validate_fold(
    workspace: Workspace,
    configuration: Configuration,
    fold: int,
    *,
    device: str = "auto",
    precision: str = "auto",
    settings: PredictionSettings = DEFAULT_SETTINGS,
    probabilities: bool = False,
    deadline: float = math.inf,
    team: Team = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Evaluation | None:
    """Predict the held-out cases of a trained fold into its ``validation`` folder and measure them.

    Masks newer than the weights are kept, so an interrupted validation goes on; with ``probabilities``, those that have
    theirs beside them. Of a team each process predicts its part of the cases.

    Args:
        deadline: moment of ``time.monotonic`` after which no further case is begun. Cases come in an order that makes
            those before it a fair sample; at least one is predicted.

    Returns:
        The comparison of the cases that are predicted, or None if it was stopped.

    Raises:
        CasesFailedError: some cases could not be predicted; the others are written.
    """
    model_folder = workspace.model_folder(configuration.name)
    folder = fold_folder(model_folder, fold) / VALIDATION_FOLDER
    weights_time = (fold_folder(model_folder, fold) / WEIGHTS_FILE).stat().st_mtime_ns
    names = set(workspace.split(fold).validation)
    cases = [case for case in workspace.dataset.cases if case.name in names]
    previous = previous_masks(workspace, configuration, [case.name for case in cases])
    order = np.random.default_rng(0).permutation(len(cases))  # so that what a deadline leaves is a fair sample
    cases = [cases[index] for index in order] if math.isfinite(deadline) else cases
    jobs = [
        Job(
            case.name,
            case.sources(workspace.plan.channels),
            folder / f"{case.name}{io.mask_ending(case.images[0])}",
            previous.get(case.name),
        )
        for case in cases
    ]

    def is_there(job: Job) -> bool:
        files = [job.output, *([probabilities_of(job.output)] if probabilities else [])]
        return all(path.is_file() and path.stat().st_mtime_ns > weights_time for path in files)

    waiting = [job for job in jobs if not is_there(job)]
    team.wait()
    waiting = waiting[team.rank :: team.size]
    stopped = False
    if waiting:
        late = Deadline(deadline, should_stop)
        predictor = Predictor(load_model(model_folder, (fold,)), team.device_name(device), precision, settings)
        wishes = Wishes(probabilities=probabilities)
        done = predict_cases(predictor, waiting, wishes=wishes, should_stop=late, progress=progress)
        if done.failures:
            raise CasesFailedError(f"validation of fold {fold}", done.failures, len(jobs))
        stopped = len(done.masks) < len(waiting) and not late.passed
    if team.any(stopped):
        return None
    pairs = {
        job.case: Pair(job.output, case.label, case.segments)
        for job, case in zip(jobs, cases, strict=True)
        if case.label is not None and is_there(job)
    }
    evaluation = evaluate_pairs(Pairing(pairs, {}, ()), workspace.plan.labels, progress=progress)
    evaluation = annotated_rows(evaluation, cases)
    if team.leads:
        write_tables(evaluation, folder)
    return evaluation


class Deadline:
    """Asks whether to stop before each case: when the user wants it, or once a moment has passed and a case is done.

    Attributes:
        passed: whether it was the moment.
    """

    def __init__(self, moment: float, should_stop: Callable[[], bool]) -> None:
        self._moment, self._should_stop, self._asked = moment, should_stop, 0
        self.passed = False

    def __call__(self) -> bool:
        self._asked += 1
        if self._should_stop():
            return True
        self.passed = self._asked > 1 and time.monotonic() > self._moment
        return self.passed


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
