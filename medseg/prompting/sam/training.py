"""Fine-tuning of SAM on a dataset's own labels, after MedSAM (Ma et al., Nature Communications 2024).

Each sample is one class on one slice and a loose box around it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg import atomic, documents
from medseg.dataset import Dataset
from medseg.device import choose_device
from medseg.errors import UsageError
from medseg.progress import Progress, silent
from medseg.prompting.checkpoints import SAFETENSORS_FILE
from medseg.prompting.published import located
from medseg.prompting.sam.network import Style
from medseg.prompting.sam.samples import SliceCase, cut
from medseg.prompting.sam.trainer import Learn, SamRun, SamTrainer
from medseg.prompting.sam.weights import load_sam
from medseg.report import training_plot
from medseg.splits import Split
from medseg.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from medseg.training.curve import PROGRESS_FILE, write_curve
from medseg.training.history import HistoryRow, read_history

RUN_FILE, CHECKPOINT_FILE, SLICES = "run.json", "checkpoint.safetensors", "slices"
LEARNING_RATE = 1e-4
CHECKPOINT_SECONDS = 60.0
# So often is the network measured, on the same held-out slices each time.
MEASUREMENTS = 20


def finetune_sam(
    dataset: Dataset,
    split: Split,
    checkpoint: str | Path,
    folder: str | Path,
    *,
    iterations: int = 10_000,
    batch_size: int = 2,
    learning_rate: float = LEARNING_RATE,
    learn: Learn = "all",
    style: Style = "medsam",
    seed: int = 0,
    device: str = "auto",
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> tuple[HistoryRow, ...] | None:
    """Fine-tune SAM into a Hugging Face folder that :func:`medseg.prompting.load` opens; a second start goes on.

    Args:
        split: cases to train on, and held-out ones to measure Dice on, from exact boxes.
        checkpoint: SAM or MedSAM in their original form, a Hugging Face folder, or the name of published weights.
        learn: the image encoder whole, by a low-rank update, or not at all; the mask decoder always.
        style: how slices become pictures for the network; see :mod:`medseg.prompting.sam.network`.

    Returns:
        Its course, the first row that of the checkpoint as it was, or None if training was stopped.

    Raises:
        UsageError: the folder holds a run of another kind, or a package is missing.
        ModelError: the checkpoint cannot be used.
        CasesFailedError: cases that cannot be read, or that SAM cannot see.
    """
    target = Path(folder)
    network, digest = load_sam(located(checkpoint))
    run = SamRun(2, digest, split.train, split.validation, style, learn, iterations, batch_size, learning_rate, seed)
    if (target / RUN_FILE).is_file() and documents.load(SamRun, target / RUN_FILE) != run:
        raise UsageError(f"{target}: holds a fine-tuning of other settings, cases or weights; choose another -o")
    documents.save(run, target / RUN_FILE)
    trainer = SamTrainer(network.to(choose_device(device)), run, dataset.labels)
    if (target / SAFETENSORS_FILE).is_file():
        return read_history(target / PROGRESS_FILE)
    by_name = {case.name: case for case in dataset.cases}
    train, held_out = (
        cut([by_name[name] for name in names], dataset.labels, dataset.channels, target / SLICES, progress)
        for names in (split.train, split.validation)
    )
    state = RunState(1, 0, 0.0, 1.0, ())
    if (target / CHECKPOINT_FILE).is_file():
        state = load_checkpoint(target / CHECKPOINT_FILE, network, trainer.optimizer)
    state = _trained(trainer, state, train, held_out, target, should_stop, progress)
    if state.iteration < iterations:
        return None
    with atomic.replacing_file(target / SAFETENSORS_FILE) as temporary:
        trainer.save(temporary, target)
    training_plot(target / PROGRESS_FILE, target / "progress.png")
    (target / CHECKPOINT_FILE).unlink(missing_ok=True)
    shutil.rmtree(target / SLICES, ignore_errors=True)
    return state.history


def _trained(
    trainer: SamTrainer,
    state: RunState,
    train: Sequence[SliceCase],
    held_out: Sequence[SliceCase],
    folder: Path,
    should_stop: Callable[[], bool],
    progress: Progress,
) -> RunState:
    """Steps until the end or a wish to stop, measured now and then, kept every minute."""
    run, before, began = trainer.run, state.seconds, time.monotonic()
    every = max(1, run.iterations // MEASUREMENTS)
    if not state.history:
        state = replace(state, history=(_row(trainer, state, held_out, []),))
    saved, losses = began, []
    while state.iteration < run.iterations:
        losses.append(trainer.step(train, state.iteration))
        done = state.iteration + 1
        state = replace(state, iteration=done, seconds=before + time.monotonic() - began)
        if done % every == 0 or done == run.iterations:
            state = replace(state, history=(*state.history, _row(trainer, state, held_out, losses)))
            losses = []
            write_curve(folder / PROGRESS_FILE, state.history, trainer.labels)
        progress(done, run.iterations, f"fine-tuning SAM: Dice {state.history[-1].mean_dice:.3f}")
        stopping = done < run.iterations and should_stop()
        if stopping or time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(folder / CHECKPOINT_FILE, state, trainer.network, trainer.optimizer)
            saved = time.monotonic()
        if stopping:
            break
    return state


def _row(trainer: SamTrainer, state: RunState, held_out: Sequence[SliceCase], losses: Sequence[float]) -> HistoryRow:
    loss, dice = trainer.measure(held_out)
    return HistoryRow(
        epoch=len(state.history),
        iteration=state.iteration,
        seconds=state.seconds,
        learning_rate=trainer.run.learning_rate,
        train_loss=float(np.mean(losses)) if losses else loss,
        validation_loss=loss,
        mean_dice=float(np.mean(list(dice.values()))),
        class_dice=tuple(dice.get(name, float("nan")) for name in trainer.labels.names),
    )
