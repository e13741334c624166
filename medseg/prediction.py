"""From a scan to a mask on its own grid: prepare, tiles, networks, stitch, restore.

Windows overlap by half a patch, weigh most at their centres, and are averaged over mirrored copies and folds, as
nnU-Net does (Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from medseg import atomic, io
from medseg.device import Precision, autocast, choose_device, prediction_precision
from medseg.errors import MedsegError, MemoryNeedError, StorageError, UsageError
from medseg.footprint import prediction_bytes
from medseg.interop.opening import open_model
from medseg.laterality import mirrored_outputs
from medseg.model import Model
from medseg.parallel import describe
from medseg.planning.plan import Configuration
from medseg.preprocessing import Prepared, prepare, restore_logits, restore_probabilities
from medseg.progress import Progress, silent
from medseg.scans import find_scans
from medseg.stitching import stitch
from medseg.volume import LabelVolume, Volume

Source = Volume | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# Windows are computed together up to so many voxels, mirrored copies included; larger batches are no faster.
BATCH_VOXELS = {"cpu": 300_000, "cuda": 8_000_000, "mps": 2_000_000}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionSettings:
    """How to predict.

    Attributes:
        mirror: average over mirrored copies along the axes that the model allows.
        step: distance of neighbouring windows as part of the patch, in (0, 1].
        max_ram_bytes: memory of this process not to exceed; a scan that needs more is refused before it starts.
    """

    mirror: bool = True
    step: float = 0.5
    max_ram_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise UsageError(f"--step {self.step}: expected a number above 0 and at most 1, such as 0.5")


DEFAULT_SETTINGS = PredictionSettings()


class Predictor:
    """A model on a device, warm for many scans.

    Args:
        model: one or several folds; their logits are averaged.
        device, precision: names as on the command line; ``auto`` chooses the best device the machine has, and the
            fastest precision in which the model is at home.

    Raises:
        UsageError: the machine has no such device or precision, or the model is the second stage of a cascade.
        ModelError: the weights do not fit the plan.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        precision: str = "auto",
        settings: PredictionSettings = DEFAULT_SETTINGS,
    ) -> None:
        require_single_stage(model.configuration)
        self.model = model
        self.settings = settings
        self.device = choose_device(device)
        self.precision: Precision = prediction_precision(precision, self.device, model.precision)
        self.networks = tuple(network.to(self.device) for network in model.build_networks())

    def predict(self, source: Source, *, progress: Progress = silent) -> LabelVolume:
        """The mask of a scan, with file values, on the scan's own grid.

        Args:
            source: a volume, a file, or files of one channel each in the order of the plan's channels.

        Raises:
            DataError: the scan cannot be read or has other channels than the model was trained with.
        """
        volume, case = _open(source, len(self.model.plan.channels))
        prepared = prepare(volume, self.model.plan, self.model.configuration, case=case)
        return self.mask(self.logits(prepared, progress=progress), prepared)

    def predict_probabilities(self, source: Source) -> tuple[LabelVolume, np.ndarray]:
        """The mask of a scan and float32 probabilities (K, Z, Y, X) of each output on the scan's own grid."""
        volume, case = _open(source, len(self.model.plan.channels))
        prepared = prepare(volume, self.model.plan, self.model.configuration, case=case)
        logits = self.logits(prepared)
        return self.mask(logits, prepared), restore_probabilities(logits, prepared.trace, self.model.plan.labels)

    @property
    def windows_together(self) -> int:
        """Windows that are computed at once."""
        voxels = BATCH_VOXELS.get(self.device.type, BATCH_VOXELS["cpu"])
        return max(1, voxels // math.prod(self.model.configuration.patch_size))

    def require_memory(self, images: Sequence[Path]) -> None:
        """Raise if predicting the scan in these files would take the process beyond ``max_ram_bytes``.

        Raises:
            MemoryNeedError: says how much is needed.
        """
        limit = self.settings.max_ram_bytes
        if limit is None:
            return
        header = io.probe(images[0])
        header = dataclasses.replace(header, channels=len(self.model.plan.channels))
        plan, configuration = self.model.plan, self.model.configuration
        need = psutil.Process().memory_info().rss + prediction_bytes(header, plan, configuration, self.windows_together)
        if need > limit:
            raise MemoryNeedError(
                f"{images[0]}: predicting needs up to {need / 1e9:.1f} GB of memory, --max-ram allows"
                f" {limit / 1e9:.1f} GB; give --max-ram {need / 1e9 + 0.05:.1f}GB, or crop the scan"
            )

    def mask(self, logits: torch.Tensor, prepared: Prepared) -> LabelVolume:
        """Logits (K, Z, Y, X) at the prepared spacing as a mask with file values on the scan's own grid."""
        labels = self.model.plan.labels
        indices = restore_logits(logits, prepared.trace, labels)
        return LabelVolume(labels.decode(indices), prepared.trace.source, labels.meaning)

    @torch.inference_mode()
    def logits(self, prepared: Prepared, *, progress: Progress = silent) -> torch.Tensor:
        """Mean logits (K, Z, Y, X) float32 of a prepared scan over windows, mirrored copies and folds, on the CPU."""
        whole = torch.empty((self.model.plan.labels.output_count, *prepared.image.shape[1:]))
        first = 0
        for slab in self._slabs(prepared, progress):
            whole[:, first : first + slab.shape[1]] = slab
            first += slab.shape[1]
        return whole

    def _slabs(self, prepared: Prepared, progress: Progress) -> Iterator[torch.Tensor]:
        """Consecutive slabs (K, n, Y, X) of the scan's logits."""
        image = torch.from_numpy(prepared.image)
        patch_size = self.model.configuration.patch_size
        arguments = (patch_size, self.settings.step, self.model.plan.labels.output_count, self._network_logits)
        together = self.windows_together
        done = 0
        if len(patch_size) == 2:
            slices = (
                torch.cat(list(stitch(image[:, index], *arguments, together=together, device=self.device)), dim=1)[
                    :, None
                ]
                for index in range(image.shape[1])
            )
        else:
            slices = stitch(image, *arguments, together=together, device=self.device)
        for slab in slices:
            done += slab.shape[1]
            progress(done, image.shape[1], "predicting")
            yield slab

    def _network_logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean float32 logits (B, K, ...) of windows (B, C, ...) over folds and mirrored copies."""
        axes = tuple(2 + axis for axis in self.model.mirror_axes) if self.settings.mirror else ()
        swap, order = _outputs_when_mirrored(self.model)
        flips = [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]
        total: torch.Tensor | None = None
        with autocast(self.device, self.precision):
            for flip, network in itertools.product(flips, self.networks):
                logits = network(batch.flip(flip) if flip else batch).float()
                logits = logits.flip(flip) if flip else logits
                logits = logits[:, order] if swap in flip else logits
                total = logits if total is None else total.add_(logits)
        assert total is not None
        return total / (len(flips) * len(self.networks))


@dataclass(frozen=True)
class Job:
    """One scan to predict: its name, its files (one a channel or one with all), and where the mask goes."""

    case: str
    images: tuple[Path, ...]
    output: Path


@dataclass(frozen=True)
class Predictions:
    """What became of each case: the mask's file, or one line saying why there is none."""

    masks: dict[str, Path]
    failures: dict[str, str]


def require_single_stage(configuration: Configuration) -> None:
    """Raise for the second stage of a cascade, which is planned but cannot be trained or predicted with yet.

    Raises:
        UsageError: names the stages that can.
    """
    if configuration.previous_stage is not None:
        raise UsageError(
            f"{configuration.name} needs the masks of {configuration.previous_stage}, and cascades cannot be run yet;"
            f" use {configuration.previous_stage} or 3d_fullres"
        )


def load_predictor(
    folder: str | os.PathLike[str],
    folds: Sequence[int | str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    settings: PredictionSettings = DEFAULT_SETTINGS,
) -> Predictor:
    """A model on a device, ready to predict; by default all folds, logits averaged.

    Args:
        folder: a model folder, ours or nnU-Net v2's, or a zip that holds one model of nnU-Net v2.

    Raises:
        ModelError: the folder or a fold is missing, damaged, or does not fit its plan; a zip holds several models.
        UsageError: the machine has no such device or precision.
    """
    return Predictor(open_model(folder, folds), device, precision, settings)


def predict_files(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    models: Sequence[str | os.PathLike[str]],
    folds: Sequence[int | str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    settings: PredictionSettings = DEFAULT_SETTINGS,
    probabilities: bool = False,
    ending: str | None = None,
    progress: Progress = silent,
) -> Predictions:
    """Predict files and folders of scans into a file (for one case) or a folder (masks named after their cases).

    Args:
        ending: of the masks, such as ``.nii.gz``; by default that of the scan.

    Raises:
        UsageError: no scans, several scans for one output file, or a case without all its channels.
        ModelError: a model is missing, damaged, or does not fit its plan.
    """
    if len(models) != 1:
        raise UsageError(f"--model: expected one model, found {len(models)}")
    predictor = load_predictor(models[0], folds, device, precision, settings)
    scans = find_scans([Path(path) for path in inputs], len(predictor.model.plan.channels))
    target = Path(output)
    if io.is_image_name(target) and not target.is_dir():
        if len(scans) != 1:
            raise UsageError(f"-o {target}: {len(scans)} scans need a folder, found the name of a file")
        jobs = [Job(scans[0].case, scans[0].images, target)]
    else:
        endings = [ending or io.mask_ending(scan.images[0]) for scan in scans]
        jobs = [
            Job(scan.case, scan.images, target / f"{scan.case}{ending}")
            for scan, ending in zip(scans, endings, strict=True)
        ]
    return predict_cases(predictor, jobs, probabilities=probabilities, progress=progress)


def predict_cases(
    predictor: Predictor,
    jobs: Sequence[Job],
    *,
    probabilities: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Predictions:
    """Predict scans one after the other; each mask appears whole or not at all, a bad scan does not stop the others.

    Args:
        probabilities: also write ``CASE.npz`` with float32 ``probabilities`` (K, Z, Y, X) beside each mask.
        should_stop: asked before every scan; once true, the rest is left.

    Raises:
        StorageError: nothing can be written there.
    """
    masks, failures = {}, {}
    progress(0, len(jobs), "predicting")
    for number, job in enumerate(jobs):
        if should_stop():
            break
        started = time.monotonic()
        try:
            _predict_case(predictor, job, probabilities, _within(progress, number, len(jobs), job.case))
        except StorageError:
            raise
        except (MedsegError, MemoryError, RuntimeError) as error:
            failures[job.case] = describe(error).removeprefix(f"{job.case}: ")
            log.warning("%s: %s", job.case, failures[job.case])
        else:
            masks[job.case] = job.output
            log.info("%s: %.1f s", job.case, time.monotonic() - started)
        progress(number + 1, len(jobs), "predicting")
    return Predictions(masks, failures)


def _predict_case(predictor: Predictor, job: Job, probabilities: bool, progress: Progress) -> None:
    predictor.require_memory(job.images)
    volume = io.read(job.images, channels=len(predictor.model.plan.channels))
    prepared = prepare(volume, predictor.model.plan, predictor.model.configuration, case=job.case)
    logits = predictor.logits(prepared, progress=progress)
    mask = predictor.mask(logits, prepared)
    if probabilities:
        values = restore_probabilities(logits, prepared.trace, predictor.model.plan.labels)
        with atomic.replacing_file(job.output.parent / f"{job.case}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=values)
    io.write(mask, job.output, like=job.images[0])


def _outputs_when_mirrored(model: Model) -> tuple[int | None, list[int]]:
    """The axis of a batch whose reversal makes left of right, and the order that puts such outputs back."""
    axis = None if model.swap_axis is None else 2 + model.swap_axis
    return axis, list(mirrored_outputs(model.plan.labels, model.swapped))


def _open(source: Source, channels: int) -> tuple[Volume, str]:
    if isinstance(source, Volume):
        return source, "scan"
    paths = [source] if isinstance(source, str | os.PathLike) else list(source)
    return io.read(paths, channels=channels), Path(paths[0]).name


def _within(progress: Progress, number: int, cases: int, case: str) -> Progress:
    """Progress of one case as a part of all cases."""

    def report(done: float, total: float, what: str) -> None:
        progress(number + 0.95 * done / max(total, 1), cases, f"{what}: {case}")

    return report
