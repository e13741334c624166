"""A network in training: the step, and its measurement on held-out patches."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from medseg import networks
from medseg.augmentation import AugmentationPolicy
from medseg.augmentation.policy import MirrorSwaps
from medseg.dataset import CaseRef
from medseg.device import autocast
from medseg.labels import LabelSet
from medseg.laterality import Mirroring, index_swaps, laterality_of, mirroring_of
from medseg.model import input_channels
from medseg.planning.plan import Configuration, Plan
from medseg.training.ahead import ReadAhead
from medseg.training.compiling import compiled, is_worth_compiling
from medseg.training.losses import DeepSupervision, DiceCrossEntropy, hard_dice_counts
from medseg.training.optimizers import build_optimizer
from medseg.training.pace import Schedule
from medseg.training.partial import unannotated_classes
from medseg.training.pretrained import freeze_encoder
from medseg.training.run import Run
from medseg.training.sampling import (
    CPU,
    FOREGROUND_SHARE,
    Batch,
    PatchSource,
    draw_batch,
    memory_of,
    validation_patches,
    validation_subset,
)
from medseg.training.team import ALONE, Team

VALIDATION_PATCHES = 16


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

    foreground_share = FOREGROUND_SHARE

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
        self.plan = plan
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
        channels = input_channels(plan, configuration)
        self.network = networks.build(
            configuration.network,
            channels,
            plan.labels.output_count,
            generator=torch.Generator().manual_seed(run.seed),
        ).to(device)
        self.compiled = None
        if is_worth_compiling(run, device):
            share = self.share.stop - self.share.start
            example = torch.zeros((share, channels, *configuration.patch_size), device=device)
            self.network, self.compiled = compiled(self.network, example, run.precision)
        self.unannotated = unannotated_classes(plan.labels, partial, self.mirroring)
        held_out = validation_partial[validation_subset(len(validation_partial), VALIDATION_PATCHES)]
        self.validation_unannotated = unannotated_classes(plan.labels, held_out, Mirroring(()))
        self.loss = DeepSupervision(DiceCrossEntropy(plan.labels, configuration.batch_dice, team.total))
        self.validation_loss = DeepSupervision(DiceCrossEntropy(plan.labels, configuration.batch_dice))
        self.optimizer = build_optimizer(self.network, run.recipe)
        self.average = [p.detach().clone() for p in self.network.parameters()] if run.recipe.average_power else []
        self.drawing_seconds = 0.0
        # What a GPU holds is cut there in no time; what lies here or on disk is read while the step before computes.
        self.batches = ReadAhead(self._read) if memory_of(cases) == CPU else self._read
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
        batch = self.batches(iteration)
        unannotated = self.unannotated and self.unannotated.of(batch.cases, batch.parameters.mirror)
        images, target = batch.augmented(self.configuration.patch_size, self.device, self.previous_labels)
        return images, target, unannotated

    def _read(self, iteration: int) -> Batch:
        """The batch of a step before augmentation."""
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
            self.foreground_share,
        )
        return batch.pinned() if self.device.type == "cuda" and memory_of(self.cases) == CPU else batch

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
            scales = (self.compiled or self.network.forward_scales)(images)
        loss = self.loss(scales, target, unannotated)
        self.scaler.scale(loss).backward()
        self.team.average_gradients(self.network)
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            with torch.no_grad():
                for average, parameter in zip(self.average, self.network.parameters(), strict=True):
                    average.lerp_(parameter, recipe.average_weight(iteration))
        return loss.detach()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While inside, the network has the averaged weights, where the recipe averages them."""
        own = [parameter.detach().clone() for parameter in self.network.parameters()] if self.average else []
        try:
            self._set_weights(self.average)
            yield
        finally:
            self._set_weights(own)

    @torch.no_grad()
    def _set_weights(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self.network.parameters(), values, strict=False):
            parameter.copy_(value)

    def validate(self) -> tuple[float, tuple[float, ...]]:
        """Loss and Dice of each class on fixed patches with the averaged weights; NaN where nothing can be measured."""
        if self.validation is None:
            return math.nan, (math.nan,) * len(self.labels.classes)
        with self.averaged(), torch.inference_mode():
            return self._validate(self.validation)

    def _validate(self, patches: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, tuple[float, ...]]:
        losses, counts = [], torch.zeros(len(self.labels.classes), 3, dtype=torch.float64)
        size = self.run.recipe.batch_size
        self.network.eval()
        unannotated = self.validation_unannotated
        for start, images, target in zip(
            itertools.count(step=size), *(part.split(size) for part in patches), strict=False
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


def _mirror_swaps(labels: LabelSet, mirroring: Mirroring) -> MirrorSwaps:
    """What augmentation exchanges: label indices by axis."""
    swaps = index_swaps(labels, mirroring.pairs)
    if mirroring.swap_axis is None or not swaps:
        return ()
    return ((mirroring.swap_axis, swaps),)
