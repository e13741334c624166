"""The learning curve of a run: its points, the table ``progress.csv``, and how fast it goes."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from medseg import atomic
from medseg.errors import TrainingDivergedError
from medseg.labels import LabelSet
from medseg.training.checkpoint import RunState
from medseg.training.history import HistoryRow
from medseg.training.pace import Schedule
from medseg.training.recipe import Recipe
from medseg.training.trainer import Trainer

PROGRESS_FILE = "progress.csv"

log = logging.getLogger(__name__)


def measure(trainer: Trainer, state: RunState, losses: Sequence[torch.Tensor]) -> HistoryRow:
    """A point of the curve: the mean of the losses since the last one, and how the network does on held-out patches.

    Raises:
        TrainingDivergedError: the loss is no number any more.
    """
    train_loss = float(torch.stack(list(losses)).mean())
    if not math.isfinite(train_loss):
        raise TrainingDivergedError(
            f"{trainer.configuration.name} fold {trainer.run.fold}: the loss is {train_loss} at iteration"
            f" {state.iteration}; train again with another --seed or --precision fp32"
        )
    validation_loss, dice = trainer.validate()
    known = [value for value in dice if not math.isnan(value)]
    return HistoryRow(
        epoch=math.ceil(state.iteration / trainer.run.recipe.epoch_iterations),
        iteration=state.iteration,
        seconds=state.seconds,
        learning_rate=trainer.run.recipe.learning_rate_at(
            state.iteration - 1, Schedule(trainer.run.recipe.iterations, state.checks)
        ),
        train_loss=train_loss,
        validation_loss=validation_loss,
        mean_dice=sum(known) / len(known) if known else math.nan,
        class_dice=dice,
    )


def write_curve(path: Path, history: Sequence[HistoryRow], labels: LabelSet) -> None:
    """Write the curve as CSV, a row a point, with the Dice of each label.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("epoch", "iteration", "seconds", "learning_rate", "train_loss", "validation_loss", "mean_dice")
    writer.writerow([*columns, *(f"dice_{name}" for name in labels.names)])
    for row in history:
        values = [getattr(row, column) for column in columns]
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in (*values, *row.class_dice)])
    atomic.write_text(path, text.getvalue())


def log_throughput(steps: int, seconds: float, drawing_seconds: float, recipe: Recipe) -> None:
    """How fast the last steps were, and how much of that was data: the rest is the step on a batch that is there."""
    if seconds > 0:
        log.info(
            "%.3f s an iteration, %.1f samples a second, %.1f %% of the time for data",
            seconds / steps,
            steps * recipe.batch_size / seconds,
            100 * drawing_seconds / seconds,
        )
