"""The training loop: one network, one fold, from the first or any later iteration to the last.

The course of a run depends on its ``Run`` document, the data and the iteration alone, so a killed run that is started
again ends, on the same CPU, with the same weights bit for bit.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from medseg import atomic, documents, networks
from medseg.augmentation import AugmentationPolicy
from medseg.device import Precision, autocast
from medseg.errors import MedsegError
from medseg.labels import LabelSet
from medseg.model import WEIGHTS_FILE, FoldFacts, input_channels, save_tensors
from medseg.planning.plan import Configuration, Plan
from medseg.progress import Progress, silent
from medseg.training.checkpoint import HistoryRow, RunState, load_checkpoint, save_checkpoint
from medseg.training.losses import DeepSupervision, DiceCrossEntropy, hard_dice_counts
from medseg.training.recipe import Recipe
from medseg.training.sampling import PatchSource, draw_batch, validation_patches

CHECKPOINT_FILE = "checkpoint.safetensors"
PROGRESS_FILE = "progress.csv"
CHECKPOINT_SECONDS = 60.0
VALIDATION_PATCHES = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What ``run.json`` holds: everything that fixes the course of a run.

    Attributes:
        budget_seconds: the time the number of iterations was derived from, if it was.
        pretrained: the model that the first weights came from, if any.
    """

    version: Literal[1]
    configuration: str
    fold: int
    seed: int
    precision: Precision
    recipe: Recipe
    budget_seconds: float | None = None
    pretrained: str | None = None


class TrainingDivergedError(MedsegError):
    """The loss is no number any more."""


class Trainer:
    """A network in training, with all that a step needs. Complete once built.

    Args:
        cases: prepared training cases; not empty.
        validation_cases: prepared cases for the learning curve; may be empty.
    """

    def __init__(
        self,
        plan: Plan,
        configuration: Configuration,
        cases: Sequence[PatchSource],
        validation_cases: Sequence[PatchSource],
        run: Run,
        device: torch.device,
    ) -> None:
        self.labels: LabelSet = plan.labels
        self.configuration = configuration
        self.cases = cases
        self.run = run
        self.device = device
        self.policy = AugmentationPolicy.default(
            configuration.patch_size, mirror_axes=None if run.recipe.mirror else ()
        )
        self.network = networks.build(
            configuration.network,
            input_channels(plan, configuration),
            plan.labels.output_count,
            generator=torch.Generator().manual_seed(run.seed),
        ).to(device)
        self.loss = DeepSupervision(DiceCrossEntropy(plan.labels, configuration.batch_dice))
        self.optimizer = build_optimizer(self.network, run.recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
        self.previous_labels = len(plan.labels.values) if configuration.previous_stage else 0
        self.validation = (
            validation_patches(validation_cases, configuration.patch_size, VALIDATION_PATCHES, self.previous_labels)
            if validation_cases
            else None
        )

    def step(self, iteration: int) -> torch.Tensor:
        """One optimiser step; returns the loss, still on the device."""
        recipe = self.run.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(iteration)
        batch = draw_batch(
            self.cases,
            self.configuration.patch_size,
            recipe.batch_size,
            self.policy,
            self.run.seed,
            iteration,
            self.previous_labels,
        )
        images, target = batch.augmented(self.configuration.patch_size, self.device, self.previous_labels)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.run.precision):
            scales = self.network.forward_scales(images)
        loss = self.loss(scales, target)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    @torch.inference_mode()
    def validate(self) -> tuple[float, tuple[float, ...]]:
        """Loss and Dice of each class on fixed patches; NaN where there is nothing to measure."""
        if self.validation is None:
            return math.nan, (math.nan,) * len(self.labels.classes)
        losses, counts = [], torch.zeros(len(self.labels.classes), 3, dtype=torch.float64)
        size = self.run.recipe.batch_size
        self.network.eval()
        for images, target in zip(*(part.split(size) for part in self.validation), strict=True):
            images, target = images.to(self.device), target.to(self.device)
            with autocast(self.device, self.run.precision):
                scales = self.network.forward_scales(images)
            losses.append(float(self.loss(scales, target)))
            counts += hard_dice_counts(scales[0].float(), target, self.labels).cpu()
        self.network.train()
        dice = 2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])
        return sum(losses) / len(losses), tuple(dice.tolist())


def train_network(
    trainer: Trainer, folder: Path, *, should_stop: Callable[[], bool] = lambda: False, progress: Progress = silent
) -> bool:
    """Train to the end and write ``weights.safetensors``; goes on from the checkpoint in ``folder`` if there is one.

    Args:
        should_stop: asked after every step; once true, a checkpoint is written and the run ends early.

    Returns:
        Whether the run came to its end.

    Raises:
        ModelError: the checkpoint is damaged.
        TrainingDivergedError: the loss became NaN or infinite.
        StorageError: a checkpoint cannot be written; the last good one stays.
    """
    state = RunState(version=1, iteration=0, seconds=0.0, loss_scale=trainer.scaler.get_scale(), history=())
    if (folder / CHECKPOINT_FILE).is_file():
        state = load_checkpoint(folder / CHECKPOINT_FILE, trainer.network, trainer.optimizer)
        trainer.scaler.update(state.loss_scale)
        log.info("going on from iteration %d", state.iteration)
    recipe = trainer.run.recipe
    began, before = time.monotonic(), state.seconds
    saved, losses = began, []
    what = f"training {trainer.configuration.name} fold {trainer.run.fold}"
    progress(state.iteration, recipe.iterations, what)
    for iteration in range(state.iteration, recipe.iterations):
        losses.append(trainer.step(iteration))
        done = iteration + 1
        state = replace(
            state,
            iteration=done,
            seconds=before + time.monotonic() - began,
            loss_scale=trainer.scaler.get_scale() if trainer.scaler.is_enabled() else 1.0,
        )
        if done % recipe.epoch_iterations == 0 or done == recipe.iterations:
            row = _measure(trainer, state, losses)
            state = replace(state, history=(*state.history, row))
            losses = []
            _write_progress(folder / PROGRESS_FILE, state.history, trainer.labels)
            what = f"training {trainer.configuration.name} fold {trainer.run.fold}: Dice {row.mean_dice:.3f}"
        progress(done, recipe.iterations, what)
        stopping = done < recipe.iterations and should_stop()
        if stopping or time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(folder / CHECKPOINT_FILE, state, trainer.network, trainer.optimizer)
            saved = time.monotonic()
        if stopping:
            return False
    facts = FoldFacts(
        mirror_axes=trainer.policy.mirror_axes,
        precision=trainer.run.precision,
        iterations=recipe.iterations,
        seconds=state.seconds,
        seed=trainer.run.seed,
    )
    save_tensors(folder / WEIGHTS_FILE, trainer.network.state_dict(), {"fold": documents.to_json(facts)})
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return True


def build_optimizer(network: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over all parameters."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=recipe.learning_rate,
            momentum=0.99,
            nesterov=True,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )


def seconds_per_sample(trainer: Trainer) -> float:
    """Time of one sample in a training step, measured on a trainer that is thrown away afterwards.

    The first steps prepare kernels and caches and do not count.
    """
    times = []
    for iteration in range(_PROBE_WARMUP + _PROBE_STEPS):
        start = time.monotonic()
        float(trainer.step(iteration))
        times.append(time.monotonic() - start)
    counted = times[_PROBE_WARMUP:]
    return sum(counted) / len(counted) / trainer.run.recipe.batch_size


_PROBE_WARMUP = 3
_PROBE_STEPS = 10  # enough that some patches are turned and scaled, which costs more


def _measure(trainer: Trainer, state: RunState, losses: Sequence[torch.Tensor]) -> HistoryRow:
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
        learning_rate=trainer.run.recipe.learning_rate_at(state.iteration - 1),
        train_loss=train_loss,
        validation_loss=validation_loss,
        mean_dice=sum(known) / len(known) if known else math.nan,
        class_dice=dice,
    )


def _write_progress(path: Path, history: Sequence[HistoryRow], labels: LabelSet) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("epoch", "iteration", "seconds", "learning_rate", "train_loss", "validation_loss", "mean_dice")
    writer.writerow([*columns, *(f"dice_{name}" for name in labels.names)])
    for row in history:
        values = [getattr(row, column) for column in columns]
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in (*values, *row.class_dice)])
    atomic.write_text(path, text.getvalue())
