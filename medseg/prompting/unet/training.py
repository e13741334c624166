"""Training of a promptable network: any plan's, with prompts as further channels and one object at a time.

Each sample shows one object of the dataset's own labels and prompts drawn from its reference. In half of the steps the
network first answers without learning, and then learns to mend its own answer from clicks in what is wrong with it
(iterative training: Sofiiuk et al., 2021). Loss, schedule, loop and checkpoints are those of every other training.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from medseg import documents
from medseg.augmentation.previous_stage import disturb, draw_disturbances
from medseg.crossvalidation.budget import size_for_budget
from medseg.crossvalidation.folds import fill_budget
from medseg.device import autocast, choose_device, choose_precision, describe
from medseg.errors import UsageError
from medseg.labels import LabelSet
from medseg.model import FOLD_PLAN_FILE, MODEL_FILE, WEIGHTS_FILE, ModelDocument, fold_folder
from medseg.networks.memory import freed_memory_kept
from medseg.planning.plan import Configuration, Plan
from medseg.progress import Progress, silent
from medseg.prompting.grid import GridPrompts, tight_box
from medseg.prompting.simulation import corrections, draw_object, draw_prompts, with_clicks
from medseg.prompting.unet.channels import prompt_channels
from medseg.prompting.unet.promptable import OBJECT, SUFFIX, object_patch, point_sigmas, promptable_plan
from medseg.report import training_plot
from medseg.training.cases import open_cases, stored_cases
from medseg.training.curve import PROGRESS_FILE
from medseg.training.history import read_history
from medseg.training.loop import train_network
from medseg.training.outcome import TrainingOutcome, judge_training
from medseg.training.recipe import recipe_for_iterations
from medseg.training.run import Run
from medseg.training.sampling import PatchSource
from medseg.training.starting import RUN_FILE, Length, run_under_way
from medseg.training.trainer import Trainer
from medseg.workspace import Workspace, preprocess

# Part of the steps in which the network mends its own answer, and the most clicks it gets for that.
MENDING_SHARE = 0.5
MOST_CLICKS = 3
# Part of the other steps' samples that begin with a mask which is nearly right.
GIVEN_MASK_SHARE = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Sample:
    """The object of a sample, or None without any, voxels that nobody annotated, and the prompts so far."""

    target: np.ndarray | None
    ignored: np.ndarray
    prompts: GridPrompts


class PromptableTrainer(Trainer):
    """A trainer whose samples show one object each, with simulated prompts.

    Args:
        plan, configuration: of the dataset; the network is that of :func:`promptable_plan`.
    """

    foreground_share = 1.0  # a patch without an object teaches next to nothing

    def __init__(
        self,
        plan: Plan,
        configuration: Configuration,
        cases: Sequence[PatchSource],
        validation_cases: Sequence[PatchSource],
        run: Run,
        device: torch.device,
    ) -> None:
        extents = _extents(cases, len(plan.labels.classes))
        self.document_plan, promptable = promptable_plan(plan, configuration, extents)
        super().__init__(self.document_plan, promptable, cases, validation_cases, run, device)
        self.task: LabelSet = plan.labels
        self.sigmas = point_sigmas(configuration)
        if self.validation is not None:
            images, labels = self.validation
            random = np.random.default_rng(0)
            samples = [self._first_sample(indices, random) for indices in labels.numpy()]
            self.validation = self._with_prompts(images, samples), self._targets(samples)

    def draw(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The augmented batch of a step with prompts; in a step of mending after the network's first answer."""
        images, labels, _ = super().draw(iteration)
        random = np.random.default_rng((self.run.seed, iteration, 1))
        samples = [self._first_sample(indices, random) for indices in labels.cpu().numpy()]
        if random.random() < MENDING_SHARE:
            answers = self._answer(self._with_prompts(images, samples))
            samples = [_mended(sample, answer, random) for sample, answer in zip(samples, answers, strict=True)]
        else:
            samples = [
                _with_given_mask(sample, random) if random.random() < GIVEN_MASK_SHARE else sample for sample in samples
            ]
        return self._with_prompts(images, samples), self._targets(samples).to(self.device), None

    def _first_sample(self, indices: np.ndarray, random: np.random.Generator) -> _Sample:
        groups = [np.isin(indices, covered) for covered in self.task.class_indices]
        target = draw_object(groups, random)
        ignored = indices == (-1 if self.task.ignore_index is None else self.task.ignore_index)
        return _Sample(target, ignored, draw_prompts(target, indices.shape, random))

    def _with_prompts(self, images: torch.Tensor, samples: Sequence[_Sample]) -> torch.Tensor:
        shape = images.shape[2:]
        channels = np.stack([prompt_channels(sample.prompts, shape, self.sigmas) for sample in samples])
        return torch.cat([images, torch.from_numpy(channels).to(images.device)], dim=1)

    @staticmethod
    def _targets(samples: Sequence[_Sample]) -> torch.Tensor:
        """Indices (B, ...) int16: 1 in the object, 2 where nobody annotated."""
        indices = [2 * s.ignored if s.target is None else np.where(s.target, 1, 2 * s.ignored) for s in samples]
        return torch.from_numpy(np.stack(indices).astype(np.int16))

    @torch.no_grad()
    def _answer(self, images: torch.Tensor) -> np.ndarray:
        with autocast(self.device, self.run.precision):
            logits = self.network(images).float()
        return (logits[:, 1] > logits[:, 0]).cpu().numpy()


def _extents(cases: Sequence[PatchSource], classes: int) -> np.ndarray:
    """(objects, 3): voxels that each class reaches along (Z, Y, X) in each case that shows it."""
    found = [np.asarray(voxels) for case in cases for voxels in case.foreground[:classes] if len(voxels)]
    return np.array([np.ptp(voxels, axis=0) + 1 for voxels in found]).reshape(-1, 3)


def _mended(sample: _Sample, answer: np.ndarray, random: np.random.Generator) -> _Sample:
    """The sample with the network's answer as its mask, and clicks, if any, in the largest parts that are wrong."""
    reference = np.zeros_like(answer) if sample.target is None else sample.target
    clicks = corrections(reference, answer & ~sample.ignored, int(random.integers(MOST_CLICKS + 1)))
    return replace(sample, prompts=replace(with_clicks(sample.prompts, clicks), mask=answer))


def _with_given_mask(sample: _Sample, random: np.random.Generator) -> _Sample:
    """A sample that begins with a mask which is nearly right, and the box around that."""
    if sample.target is None:
        return sample
    given = torch.from_numpy(sample.target[None].astype(np.int16))
    mask = disturb(given, draw_disturbances(1, 1, random)).numpy()[0] > 0
    boxes = (tight_box(mask),) if mask.any() else ()
    return replace(sample, prompts=replace(sample.prompts, boxes=boxes, mask=mask))


def train_promptable(
    workspace: str | os.PathLike[str] | Workspace,
    configuration: str | None = None,
    fold: int = 0,
    *,
    epochs: int | None = None,
    iterations: int | None = None,
    budget_seconds: float | Literal["auto"] | None = None,
    network: Literal["auto", "plan"] = "auto",
    began: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int | None = None,
    restart: bool = False,
    workers: int | str = 0,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Path | None:
    """Train one fold of a promptable network into ``models/CONFIGURATION_promptable``; arguments as for ``train``.

    Returns:
        The model folder, or None if training was stopped.

    Raises:
        UsageError: arguments that contradict each other or a run under way, or a second stage of a cascade.
        CasesFailedError: cases that cannot be prepared.
    """
    began = time.monotonic() if began is None else began
    opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    chosen = opened.plan.configuration(configuration)
    if chosen.previous_stage is not None:
        raise UsageError(f"{chosen.name} is a second stage; choose a configuration that stands on its own with -c")
    length = Length(epochs, iterations, budget_seconds)
    model_folder = opened.model_folder(chosen.name + SUFFIX)
    folder = fold_folder(model_folder, fold)
    split = opened.split(fold)
    where = choose_device(device)  # what cannot be used is refused before anything is thrown away
    wanted_precision = choose_precision(precision, where)
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    run = run_under_way(folder, length, seed=seed, balance_classes=None)
    if run is not None and (folder / WEIGHTS_FILE).is_file():
        return model_folder
    preprocess(opened, chosen, cases=[*split.train, *split.validation], workers=workers, progress=progress)
    cases, held_out = open_cases(opened, chosen, split.train), stored_cases(opened, chosen, split.validation)
    if run is None:
        length = length.on(where)
        run = Run(
            version=1,
            configuration=chosen.name + SUFFIX,
            fold=fold,
            seed=seed or 0,
            precision=wanted_precision,
            recipe=recipe_for_iterations(length.steps or 1, chosen.batch_size),  # a budget decides below
        )
        if length.budget_seconds is not None:
            extents = _extents(cases, len(opened.plan.labels.classes))
            sizing = size_for_budget(
                opened,
                replace(chosen, patch_size=object_patch(extents, chosen)[0]),
                length.budget_seconds,
                where,
                wanted_precision,
                freedom="none" if network == "plan" else "width",
                held_out=False,
                trainer=PromptableTrainer,
                name=run.configuration,
                progress=progress,
            )
            run = fill_budget(run, sizing, time.monotonic() - began)
            chosen = replace(chosen, network=sizing.configuration.network, decisions=sizing.configuration.decisions)
    elif (folder / FOLD_PLAN_FILE).is_file():
        trained = Plan.load(folder / FOLD_PLAN_FILE).configuration(run.configuration)
        chosen = replace(chosen, network=trained.network)
    log.info("%s; %s", describe(where, run.precision), run.recipe.because)
    trainer = PromptableTrainer(opened.plan, chosen, cases, held_out, run, where)
    if not (folder / RUN_FILE).is_file():
        trainer.document_plan.save(folder / FOLD_PLAN_FILE)
        documents.save(run, folder / RUN_FILE)
    documents.save(ModelDocument(1, trainer.document_plan, chosen.name + SUFFIX), model_folder / MODEL_FILE)
    with freed_memory_kept():
        finished = train_network(trainer, folder, should_stop=should_stop, progress=progress)
    if (folder / PROGRESS_FILE).is_file():
        training_plot(folder / PROGRESS_FILE, folder / "progress.png")
    return model_folder if finished else None


def promptable_outcome(model_folder: Path, fold: int) -> TrainingOutcome:
    """What a training came to, as far as the patches of its learning curve tell.

    Raises:
        DocumentError: the run or its curve cannot be read.
    """
    folder = fold_folder(model_folder, fold)
    run = documents.load(Run, folder / RUN_FILE)
    return judge_training(run, (OBJECT,), read_history(folder / PROGRESS_FILE))
