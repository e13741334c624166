"""The points of a learning curve, and ``progress.csv`` read back."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import DocumentError


@dataclass(frozen=True)
class HistoryRow:
    """One line of ``progress.csv``: the state of a run after some iterations."""

    epoch: int
    iteration: int
    seconds: float
    learning_rate: float
    train_loss: float
    validation_loss: float
    mean_dice: float
    class_dice: tuple[float, ...]


def read_history(path: Path) -> tuple[HistoryRow, ...]:
    """The points in a ``progress.csv``, to its six digits; none where there is no such file.

    Raises:
        DocumentError: the file is no learning curve.
    """
    if not path.is_file():
        return ()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[float(value) for value in row] for row in list(csv.reader(file))[1:]]
        return tuple(
            HistoryRow(int(epoch), int(iteration), seconds, rate, train, validation, mean, tuple(dice))
            for epoch, iteration, seconds, rate, train, validation, mean, *dice in rows
        )
    except (ValueError, OSError) as error:
        raise DocumentError(f"{path}: not a learning curve ({error}); delete it, or train with --restart") from error
