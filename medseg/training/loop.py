"""The training loop: one network, one fold, from the first or any later iteration to the last.

The course of a run depends on its ``Run`` document, the data and the iteration alone, so a killed run that is started
again ends, on the same CPU, with the same weights bit for bit.
"""

from __future__ import annotations

import csv
import io
import itertools
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
from medseg.augmentation.policy import MirrorSwaps
from medseg.dataset import CaseRef
from medseg.device import Precision, autocast
from medseg.errors import MedsegError
from medseg.labels import LabelSet
from medseg.laterality import Mirroring, index_swaps, laterality_of, mirroring_of
from medseg.model import WEIGHTS_FILE, FoldFacts, input_channels, save_tensors
from medseg.planning.plan import Configuration, Plan
from medseg.progress import Progress, silent
from medseg.training.checkpoint import HistoryRow, RunState, load_checkpoint, save_checkpoint
from medseg.training.losses import DeepSupervision, DiceCrossEntropy, hard_dice_counts
from medseg.training.pace import Schedule
from medseg.training.partial import unannotated_classes
from medseg.training.pretrained import freeze_encoder
from medseg.training.recipe import Recipe
from medseg.training.sampling import PatchSource, draw_batch, validation_patches, validation_subset
from medseg.training.team import ALONE, Team

CHECKPOINT_FILE = "checkpoint.safetensors"
PROGRESS_FILE = "progress.csv"
# Work that a kill may cost at most; a checkpoint is written so much earlier as a step and the writing take.
CHECKPOINT_SECONDS = 60.0
VALIDATION_PATCHES = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What ``run.json`` holds: everything that fixes the course of a run.

    Attributes:
        budget_seconds: the time the number of iterations was derived from, if it was.
        training_seconds: what was left of it for training; the length is corrected where it would not be met.
        pretrained: the model that the first weights came from, if any.
        deterministic: whether a GPU computes the same bits each time, where that is slower.
    """

    version: Literal[1]
    configuration: str
    fold: int
    seed: int
    precision: Precision
    recipe: Recipe
    budget_seconds: float | None = None
    training_seconds: float | None = None
    pretrained: str | None = None
    deterministic: bool = False


class TrainingDivergedError(MedsegError):
    """The loss is no number any more."""


class Trainer:
    """A network in training, with all that a step needs. Complete once built.

    ``drawing_seconds`` adds up what steps have spent on drawing, reading and augmenting batches.

    Args:
        cases: prepared training cases; not empty.
        validation_cases: prepared cases for the learning curve; may be empty.
        partial: the dataset's entries of ``cases``, where some are not annotated for every class.
        validation_partial: the same of ``validation_cases``.
        team: the processes that share each batch.
    """

    def __init__(
        self,
        plan: Plan,
        configuration: Configuration,
        cases: Sequence[PatchSource],
        validation_cases: Sequence[PatchSource],
        run: Run,
        device: torch.device,
        *,
        partial: Sequence[CaseRef] = (),
        validation_partial: Sequence[CaseRef] = (),
        team: Team = ALONE,
    ) -> None:
        self.labels: LabelSet = plan.labels
        self.configuration = configuration
        self.cases = cases
        self.run = run
        self.device = device
        self.team = team
        self.share = team.share(run.recipe.batch_size)
        self.mirroring = (
            mirroring_of(plan.labels, plan.orientation, plan.axis_order, configuration.dimensions)
            if run.recipe.mirror
            else Mirroring(())
        )
        self.policy = AugmentationPolicy.default(
            configuration.patch_size,
            mirror_axes=self.mirroring.axes,
            mirror_swaps=_mirror_swaps(plan.labels, self.mirroring),
            sided=laterality_of(plan.labels).is_sided,
        )
        self.network = networks.build(
            configuration.network,
            input_channels(plan, configuration),
            plan.labels.output_count,
            generator=torch.Generator().manual_seed(run.seed),
        ).to(device)
        self.unannotated = unannotated_classes(plan.labels, partial, self.mirroring)
        held_out = validation_partial[validation_subset(len(validation_partial), VALIDATION_PATCHES)]
        self.validation_unannotated = unannotated_classes(plan.labels, held_out, Mirroring(()))
        self.loss = DeepSupervision(DiceCrossEntropy(plan.labels, configuration.batch_dice, team.total))
        self.validation_loss = DeepSupervision(DiceCrossEntropy(plan.labels, configuration.batch_dice))
        self.optimizer = build_optimizer(self.network, run.recipe)
        self.drawing_seconds = 0.0
        self.scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
        self.previous_labels = len(plan.labels.values) if configuration.previous_stage else 0
        self.validation = (
            validation_patches(validation_cases, configuration.patch_size, VALIDATION_PATCHES, self.previous_labels)
            if validation_cases and team.leads
            else None
        )

    def step(self, iteration: int, schedule: Schedule | None = None) -> torch.Tensor:
        """One optimiser step; returns the loss, still on the device."""
        began = time.monotonic()
        batch = self.draw(iteration)
        self.drawing_seconds += time.monotonic() - began
        return self.learn(*batch, iteration, schedule)

    def draw(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The augmented batch of a step: images, labels, and what samples are not annotated for, on the device."""
        recipe = self.run.recipe
        batch = draw_batch(
            self.cases,
            self.configuration.patch_size,
            recipe.batch_size,
            self.policy,
            self.run.seed,
            iteration,
            recipe.balance_classes,
            self.previous_labels,
            self.share,
        )
        unannotated = self.unannotated and self.unannotated.of(batch.cases, batch.parameters.mirror)
        images, target = batch.augmented(self.configuration.patch_size, self.device, self.previous_labels)
        return images, target, unannotated

    def learn(
        self,
        images: torch.Tensor,
        target: torch.Tensor,
        unannotated: torch.Tensor | None,
        iteration: int,
        schedule: Schedule | None = None,
    ) -> torch.Tensor:
        """The step of an iteration on a batch as :meth:`draw` gives it; returns the loss, still on the device."""
        recipe = self.run.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(iteration, schedule)
        self.optimizer.zero_grad(set_to_none=True)  # so that what is frozen is not decayed either
        freeze_encoder(self.network, recipe.is_frozen_at(iteration))
        with autocast(self.device, self.run.precision):
            scales = self.network.forward_scales(images)
        loss = self.loss(scales, target, unannotated)
        self.scaler.scale(loss).backward()
        self.team.average_gradients(self.network)
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
        unannotated = self.validation_unannotated
        for start, images, target in zip(
            itertools.count(step=size), *(part.split(size) for part in self.validation), strict=False
        ):
            hidden = None if unannotated is None else unannotated.table[start : start + size]
            images, target = images.to(self.device), target.to(self.device)
            with autocast(self.device, self.run.precision):
                scales = self.network.forward_scales(images)
            losses.append(float(self.validation_loss(scales, target, hidden)))
            counts += hard_dice_counts(scales[0].float(), target, self.labels, hidden).cpu()
        self.network.train()
        dice = 2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])
        return sum(losses) / len(losses), tuple(dice.tolist())


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
    state = RunState(version=1, iteration=0, seconds=0.0, loss_scale=trainer.scaler.get_scale(), history=())
    if (folder / CHECKPOINT_FILE).is_file():
        state = load_checkpoint(folder / CHECKPOINT_FILE, trainer.network, trainer.optimizer)
        trainer.scaler.update(state.loss_scale)
        log.info("going on from iteration %d", state.iteration)
    recipe, team = trainer.run.recipe, trainer.team
    schedule = Schedule(recipe.iterations, state.checks)
    began, before = clock(), state.seconds
    saved, writing, losses = began, 0.0, []
    what = f"training {trainer.configuration.name} fold {trainer.run.fold}"
    progress(state.iteration, schedule.iterations, what)
    mark = (state.iteration, clock(), trainer.drawing_seconds)
    while state.iteration < schedule.iterations:
        stepping = clock()
        losses.append(trainer.step(state.iteration, schedule))
        done = state.iteration + 1
        state = replace(
            state,
            iteration=done,
            seconds=before + clock() - began,
            loss_scale=trainer.scaler.get_scale() if trainer.scaler.is_enabled() else 1.0,
        )
        checking = trainer.run.training_seconds is not None and done == schedule.next_check
        if checking:
            state = replace(state, seconds=team.as_leader(state.seconds))
            schedule = _corrected(schedule, state, trainer.run)
            state = replace(state, checks=schedule.checks)
        epoch_ends = done % recipe.epoch_iterations == 0 or done == schedule.iterations
        if epoch_ends and team.leads:
            measured = clock()
            row = _measure(trainer, state, losses)
            state = replace(state, history=(*state.history, row))
            _write_progress(folder / PROGRESS_FILE, state.history, trainer.labels)
            _log_throughput(done - mark[0], measured - mark[1], trainer.drawing_seconds - mark[2], recipe)
            mark = (done, clock(), trainer.drawing_seconds)
            what = f"training {trainer.configuration.name} fold {trainer.run.fold}: Dice {row.mean_dice:.3f}"
        losses = [] if epoch_ends else losses
        progress(done, schedule.iterations, what)
        stopping = done < schedule.iterations and team.any(should_stop())
        # A check is written at once: a run that is killed after it must not look at the clock a second time.
        now = clock()
        due = now - saved > CHECKPOINT_SECONDS - (now - stepping) - writing
        if team.leads and (stopping or checking or due):
            save_checkpoint(folder / CHECKPOINT_FILE, state, trainer.network, trainer.optimizer)
            saved, writing = now, clock() - now
        if stopping:
            return False
    if not team.leads:
        return True
    facts = FoldFacts(
        mirror_axes=trainer.mirroring.axes,
        swap_axis=trainer.mirroring.swap_axis,
        swapped=trainer.mirroring.pairs,
        precision=trainer.run.precision,
        iterations=state.iteration,
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


def _mirror_swaps(labels: LabelSet, mirroring: Mirroring) -> MirrorSwaps:
    """What augmentation exchanges: label indices by axis."""
    swaps = index_swaps(labels, mirroring.pairs)
    if mirroring.swap_axis is None or not swaps:
        return ()
    return ((mirroring.swap_axis, swaps),)


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


def _log_throughput(steps: int, seconds: float, drawing_seconds: float, recipe: Recipe) -> None:
    """How fast the last steps were, and how much of that was data: the rest is the step on a batch that is there."""
    if seconds > 0:
        log.info(
            "%.3f s an iteration, %.1f samples a second, %.1f %% of the time for data",
            seconds / steps,
            steps * recipe.batch_size / seconds,
            100 * drawing_seconds / seconds,
        )


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
        learning_rate=trainer.run.recipe.learning_rate_at(
            state.iteration - 1, Schedule(trainer.run.recipe.iterations, state.checks)
        ),
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
