"""Fine-tuning of SAM on a dataset's own labels, after MedSAM (Ma et al., Nature Communications 2024).

Each sample is one class on one slice and a loose box around it. The image encoder and the mask decoder learn, or the
decoder alone; the prompt encoder stays as it is. Loss: soft Dice and cross-entropy; AdamW at a constant rate.
"""

from __future__ import annotations

import copy
import csv
import io as text_io
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from medseg import atomic, documents
from medseg.dataset import Dataset
from medseg.device import choose_device
from medseg.errors import UsageError
from medseg.labels import LabelSet
from medseg.progress import Progress, silent
from medseg.prompting.checkpoints import SAFETENSORS_FILE
from medseg.prompting.grid import tight_box
from medseg.prompting.sam.network import Style, embed, low_resolution_logits, pixels, slice_logits
from medseg.prompting.sam.samples import Sample, SliceCase, batch_of, cut, draw, mask_of, picture_of
from medseg.prompting.sam.weights import load_sam
from medseg.prompting.slices.prompts import SlicePrompts
from medseg.report import training_plot
from medseg.splits import Split
from medseg.training.checkpoint import HistoryRow, RunState, load_checkpoint, save_checkpoint

RUN_FILE, CHECKPOINT_FILE, PROGRESS_FILE, SLICES = "run.json", "checkpoint.safetensors", "progress.csv", "slices"
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
CHECKPOINT_SECONDS = 60.0
# So often is the network measured, on so many held-out slices, the same ones each time.
MEASUREMENTS = 20
MOST_VALIDATION_SLICES = 100


@dataclass(frozen=True)
class SamRun:
    """The course of a fine-tuning, fixed at its start.

    Attributes:
        weights_sha256: of the checkpoint that it began with.
    """

    version: Literal[1]
    weights_sha256: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    style: Style
    decoder_only: bool
    iterations: int
    batch_size: int
    learning_rate: float
    seed: int


def finetune_sam(
    dataset: Dataset,
    split: Split,
    checkpoint: str | Path,
    folder: str | Path,
    *,
    iterations: int = 10_000,
    batch_size: int = 2,
    learning_rate: float = LEARNING_RATE,
    decoder_only: bool = False,
    style: Style = "medsam",
    seed: int = 0,
    device: str = "auto",
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> tuple[HistoryRow, ...] | None:
    """Fine-tune SAM into a Hugging Face folder that :func:`medseg.prompting.load` opens; a second start goes on.

    Args:
        split: cases to train on, and held-out ones to measure Dice on, from exact boxes.
        checkpoint: SAM or MedSAM in their original form, or a Hugging Face folder.
        style: how slices become pictures for the network; see :mod:`medseg.prompting.sam.network`.

    Returns:
        Its course, the first row that of the checkpoint as it was, or None if training was stopped.

    Raises:
        UsageError: the folder holds a run of another kind, or a package is missing.
        ModelError: the checkpoint cannot be used.
        CasesFailedError: cases that cannot be read, or that SAM cannot see.
    """
    target = Path(folder)
    network, digest = load_sam(Path(checkpoint))
    run = SamRun(
        1, digest, split.train, split.validation, style, decoder_only, iterations, batch_size, learning_rate, seed
    )
    if (target / RUN_FILE).is_file() and documents.load(SamRun, target / RUN_FILE) != run:
        raise UsageError(f"{target}: holds a fine-tuning of other settings, cases or weights; choose another -o")
    documents.save(run, target / RUN_FILE)
    trainer = _Trainer(network.to(choose_device(device)), run, dataset.labels)
    if (target / SAFETENSORS_FILE).is_file():
        return load_history(target)
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


class _Trainer:
    """SAM, what of it learns, and one step of that."""

    def __init__(self, network: Any, run: SamRun, labels: LabelSet) -> None:
        self.network, self.run, self.labels = network, run, labels
        # One module under two names would be one tensor under two names, which no safetensors file holds.
        network.prompt_encoder.shared_embedding = copy.deepcopy(network.prompt_encoder.shared_embedding)
        self.size = int(network.config.vision_config.image_size)
        learning = [network.mask_decoder] if run.decoder_only else [network.mask_decoder, network.vision_encoder]
        for part in learning:
            part.requires_grad_(True)
        parameters = [value for value in network.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=run.learning_rate, weight_decay=WEIGHT_DECAY)

    def step(self, cases: Sequence[SliceCase], iteration: int) -> float:
        """One step on the batch of an iteration, which depends on nothing else; its loss."""
        random = np.random.default_rng((self.run.seed, iteration))
        samples = [draw(cases, random) for _ in range(self.run.batch_size)]
        images, boxes, masks = (
            value.to(self.network.device)
            for value in batch_of(cases, samples, self.labels, self.size, self.run.style, random)
        )
        answer = self.network(pixel_values=images, input_boxes=boxes, multimask_output=False).pred_masks[:, 0]
        logits = functional.interpolate(answer, (self.size, self.size), mode="bilinear", align_corners=False)
        loss = mask_loss(logits, masks)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def measure(self, cases: Sequence[SliceCase]) -> tuple[float, dict[str, float]]:
        """Loss, and Dice of each class, on held-out slices from exact boxes, through the engine's own functions."""
        random = np.random.default_rng(0)
        samples = [
            Sample(i, name, int(s)) for i, c in enumerate(cases) for name, all_ in c.slices.items() for s in all_
        ]
        chosen = [samples[i] for i in random.permutation(len(samples))[:MOST_VALIDATION_SLICES]]
        losses: list[float] = []
        dice: dict[str, list[float]] = {name: [] for name in self.labels.names}
        for sample in chosen:
            mask = mask_of(cases[sample.case], sample, self.labels)
            (y0, x0), (y1, x1) = tight_box(mask)
            shape = (mask.shape[0], mask.shape[1])
            picture = pixels(picture_of(cases[sample.case], sample.index), self.size, self.run.style)
            embedding = embed(self.network, picture)
            low = low_resolution_logits(self.network, embedding, SlicePrompts((y0, x0, y1, x1)), shape, self.run.style)
            logits = slice_logits(low, shape, self.size, self.run.style)
            found = logits > 0
            losses.append(float(mask_loss(torch.from_numpy(logits)[None, None], torch.from_numpy(mask)[None, None])))
            dice[sample.label].append(2 * float((found & mask).sum()) / float(found.sum() + mask.sum()))
        return float(np.mean(losses)), {name: float(np.mean(values)) for name, values in dice.items() if values}

    def save(self, weights: Path, folder: Path) -> None:
        """Write weights under a path, and the configuration into a folder."""
        from safetensors.torch import save_file

        self.network.config.save_pretrained(folder)
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.network.state_dict().items()}
        save_file(tensors, weights, metadata={"format": "pt"})


def mask_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Soft Dice with squares in its denominator and mean cross-entropy, summed; (B, 1, Y, X) both."""
    truth = masks.float()
    found = torch.sigmoid(logits)
    shared = (found * truth).sum((1, 2, 3))
    total = found.square().sum((1, 2, 3)) + truth.square().sum((1, 2, 3))
    dice = 1 - (2 * shared + 1e-5) / (total + 1e-5)
    return dice.mean() + functional.binary_cross_entropy_with_logits(logits, truth)


def load_history(folder: Path) -> tuple[HistoryRow, ...]:
    """The course of a finished fine-tuning."""
    with (folder / PROGRESS_FILE).open(encoding="utf-8", newline="") as file:
        rows = [[float(value) for value in row] for row in list(csv.reader(file))[1:]]
    return tuple(
        HistoryRow(int(epoch), int(iteration), seconds, rate, train, validation, mean, tuple(dice))
        for epoch, iteration, seconds, rate, train, validation, mean, *dice in rows
    )


def _trained(
    trainer: _Trainer,
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
            _write_progress(folder / PROGRESS_FILE, state.history, trainer.labels)
        progress(done, run.iterations, f"fine-tuning SAM: Dice {state.history[-1].mean_dice:.3f}")
        stopping = done < run.iterations and should_stop()
        if stopping or time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(folder / CHECKPOINT_FILE, state, trainer.network, trainer.optimizer)
            saved = time.monotonic()
        if stopping:
            break
    return state


def _row(trainer: _Trainer, state: RunState, held_out: Sequence[SliceCase], losses: Sequence[float]) -> HistoryRow:
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


def _write_progress(path: Path, history: Sequence[HistoryRow], labels: LabelSet) -> None:
    text = text_io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("epoch", "iteration", "seconds", "learning_rate", "train_loss", "validation_loss", "mean_dice")
    writer.writerow((*names, *(f"dice_{name}" for name in labels.names)))
    for row in history:
        values: Mapping[str, Any] = vars(row)
        writer.writerow([f"{values[name]:.6g}" for name in names] + [f"{value:.6g}" for value in row.class_dice])
    atomic.write_text(path, text.getvalue())
