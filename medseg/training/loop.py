"""The course of a run: one network, one fold, from the first or any later iteration to the last.

It depends on the ``Run`` document, the data and the iteration alone, so a killed run that is started again ends, on the
same CPU, with the same weights bit for bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from medseg import documents
from medseg.model import WEIGHTS_FILE, FoldFacts, save_tensors
from medseg.progress import Progress, silent
from medseg.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from medseg.training.curve import PROGRESS_FILE, log_throughput, measure, write_curve
from medseg.training.pace import Schedule
from medseg.training.run import Run
from medseg.training.trainer import Trainer

CHECKPOINT_FILE = "checkpoint.safetensors"
# Work that a kill may cost at most: a minute, in short runs this part of the run, but so that writing takes no larger
# part of the time. A checkpoint is written so much earlier as a step and the writing take.
CHECKPOINT_SECONDS = 60.0
CHECKPOINT_SHARE = 0.02

log = logging.getLogger(__name__)


def train_network(
    trainer: Trainer,
    folder: Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Train to the end and write ``weights.safetensors``; goes on from the checkpoint in ``folder`` if there is one.

    Args:
        should_stop: asked after every step; once true, a checkpoint is written and the run ends early.
        clock: seconds since any moment.

    Of a team only the leader writes.

    Returns:
        Whether the run came to its end.

    Raises:
        ModelError: the checkpoint is damaged.
        TrainingDivergedError: the loss became NaN or infinite.
        StorageError: a checkpoint cannot be written; the last good one stays.
    """
    state = _begun(trainer, folder)
    recipe, team = trainer.run.recipe, trainer.team
    schedule = Schedule(recipe.iterations, state.checks)
    began, before, losses = clock(), state.seconds, []
    timer = CheckpointTimer(began)
    what = f"training {trainer.configuration.name} fold {trainer.run.fold}"
    progress(state.iteration, schedule.iterations, what)
    mark = (state.iteration, clock(), trainer.drawing_seconds)
    while state.iteration < schedule.iterations:
        stepping = clock()
        losses.append(trainer.step(state.iteration, schedule))
        done = state.iteration + 1
        state = replace(state, iteration=done, seconds=before + clock() - began)
        checking = trainer.run.training_seconds is not None and done == schedule.next_check
        if checking:
            state = replace(state, seconds=team.as_leader(state.seconds))
            schedule = _corrected(schedule, state, trainer.run)
            state = replace(state, checks=schedule.checks)
        epoch_ends = done % recipe.epoch_iterations == 0 or done == schedule.iterations
        if epoch_ends and team.leads:
            measured = clock()
            row = measure(trainer, state, losses)
            state = replace(state, history=(*state.history, row))
            write_curve(folder / PROGRESS_FILE, state.history, trainer.labels)
            log_throughput(done - mark[0], measured - mark[1], trainer.drawing_seconds - mark[2], recipe)
            mark = (done, clock(), trainer.drawing_seconds)
            what = f"training {trainer.configuration.name} fold {trainer.run.fold}: Dice {row.mean_dice:.3f}"
        losses = [] if epoch_ends else losses
        progress(done, schedule.iterations, what)
        stopping = done < schedule.iterations and team.any(should_stop())
        # A check is written at once: a run that is killed after it must not look at the clock a second time.
        now = clock()
        due = timer.is_due(now, now - stepping, state.seconds / done * schedule.iterations)
        if team.leads and (stopping or checking or due):
            state = replace(state, loss_scale=trainer.scaler.get_scale())  # waits for the device, so not in every step
            save_checkpoint(folder / CHECKPOINT_FILE, state, trainer.network, trainer.optimizer, trainer.average)
            timer = timer.after_writing(now, clock())
        if stopping:
            return False
    if team.leads:
        _finish(trainer, state, folder)
    return True


@dataclass(frozen=True)
class CheckpointTimer:
    """When the next checkpoint is due.

    Attributes:
        written: moment of the last one, or of the start.
        writing: seconds that it took.
    """

    written: float
    writing: float = 0.0

    def is_due(self, now: float, step: float, run: float) -> bool:
        """Whether to write one now: a kill in the next step would cost as much as one may.

        Args:
            step: seconds of a step.
            run: seconds that the whole run takes, as far as can be told.
        """
        allowed = min(CHECKPOINT_SECONDS, max(CHECKPOINT_SHARE * run, self.writing / CHECKPOINT_SHARE))
        return now - self.written > allowed - step - self.writing

    def after_writing(self, began: float, ended: float) -> CheckpointTimer:
        """The timer after one was written."""
        return CheckpointTimer(began, ended - began)


def _begun(trainer: Trainer, folder: Path) -> RunState:
    """The state to go on from: that of the checkpoint, which goes into the trainer, or a new run's."""
    if not (folder / CHECKPOINT_FILE).is_file():
        return RunState(version=1, iteration=0, seconds=0.0, loss_scale=trainer.scaler.get_scale(), history=())
    state = load_checkpoint(folder / CHECKPOINT_FILE, trainer.network, trainer.optimizer, trainer.average)
    trainer.scaler.update(state.loss_scale)
    log.info("going on from iteration %d", state.iteration)
    return state


def _finish(trainer: Trainer, state: RunState, folder: Path) -> None:
    """Write the weights; the checkpoint has done its work."""
    facts = FoldFacts(
        mirror_axes=trainer.mirroring.axes,
        swap_axis=trainer.mirroring.swap_axis,
        swapped=trainer.mirroring.pairs,
        precision=trainer.run.precision,
        iterations=state.iteration,
        seconds=state.seconds,
        seed=trainer.run.seed,
    )
    with trainer.averaged():
        save_tensors(folder / WEIGHTS_FILE, trainer.network.state_dict(), {"fold": documents.to_json(facts)})
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _corrected(schedule: Schedule, state: RunState, run: Run) -> Schedule:
    """The schedule after a look at the clock; a change is logged."""
    assert run.training_seconds is not None
    checked = schedule.checked(state.iteration, state.seconds, run.training_seconds)
    if checked.iterations != schedule.iterations:
        log.info(
            "after %d iterations in %.0f s of %.0f s: %d iterations in all instead of %d",
            state.iteration,
            state.seconds,
            run.training_seconds,
            checked.iterations,
            schedule.iterations,
        )
    return checked
