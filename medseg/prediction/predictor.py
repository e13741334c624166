"""From a scan to a mask on its own grid: prepare, windows, stitch, resample, decide; a slab of planes at a time.

Windows overlap by half a patch, weigh most at their centres, and are averaged over mirrored copies and folds; several
configurations are averaged as probabilities, all as nnU-Net does (Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from medseg import io
from medseg.device import choose_device
from medseg.errors import UsageError
from medseg.model import PREVIOUS_FOLDER, Model
from medseg.networks.memory import freed_memory_kept
from medseg.planning.plan import Plan
from medseg.prediction.extras import Extras, fill, fill_surroundings
from medseg.prediction.member import Member
from medseg.prediction.opinions import opinions_of
from medseg.prediction.settings import DEFAULT_SETTINGS, PredictionSettings
from medseg.preprocessing import (
    PreparedPlanes,
    decide,
    label_planes,
    prepare_planes,
    restore,
)
from medseg.progress import Progress, silent
from medseg.volume import Geometry, LabelVolume, Volume

Source = Volume | io.Source | Sequence[io.Source]


class Predictor:
    """One model, or several to be averaged, on a device, warm for many scans.

    Args:
        models: each with one or several folds, whose logits are averaged; of several models, and of folds with
            different networks, the probabilities are.
            The previous stage of a cascade is in its model.
        device, precision: names as on the command line; ``auto`` chooses the best device the machine has, and the
            fastest precision in which the model is at home. An engine that is asked for decides both.

    Attributes:
        scans: how many scans of the kind of the next one are to come; what is measured to be faster has to repay.

    Raises:
        UsageError: the machine has no such device, precision or engine, or the models have different channels or
            labels.
        ModelError: the weights do not fit the plan.
    """

    def __init__(
        self,
        models: Model | Sequence[Model],
        device: str = "auto",
        precision: str = "auto",
        settings: PredictionSettings = DEFAULT_SETTINGS,
    ) -> None:
        asked = [models] if isinstance(models, Model) else list(models)
        given = [part for model in asked for part in model.parts]
        shares = [share for model in asked for share in _shares(model)]
        self.plan: Plan = given[0].plan
        self.settings = settings
        if settings.engine == "openvino":
            device = "cpu" if device == "auto" else device
            precision = "fp32" if precision == "auto" else precision
        self.device = choose_device(device)
        self.scans = 1
        for model in given[1:]:
            _require_same_task(self.plan, model.plan)
        self.members = tuple(
            Member(model, self.device, precision, settings.mirror, settings.step, settings.engine, share / len(asked))
            for model, share in zip(given, shares, strict=True)
        )
        self.placements = tuple(member.placement() for member in self.members)
        self.previous = tuple(
            None if model.previous is None else Predictor(model.previous, device, precision, settings)
            for model in given
        )

    def predict(
        self, source: Source, *, previous: LabelVolume | None = None, progress: Progress = silent
    ) -> LabelVolume:
        """The mask of a scan, with file values, on the scan's own grid.

        Args:
            source: a volume, a file, or files of one channel each in the order of the plan's channels.
            previous: in a cascade the mask of the stage before; predicted first if it is not given.

        Raises:
            DataError: the scan cannot be read or has other channels than the model was trained with.
            UsageError: models that turn the scan to different axes, or a cascade without the stage before.
        """
        volume, case = self._open(source)
        return self.segment(volume, case=case, previous=previous, progress=progress)

    def predict_probabilities(self, source: Source) -> tuple[LabelVolume, np.ndarray]:
        """The mask of a scan and float32 probabilities (K, Z, Y, X) of each output on the scan's own grid.

        Raises:
            DataError, UsageError: as :meth:`predict`.
        """
        volume, case = self._open(source)
        likely = np.empty((self.plan.labels.output_count, *volume.geometry.shape), np.float32)
        return self.segment(volume, case=case, extras=Extras(likely)), likely

    def segment(
        self,
        volume: Volume,
        *,
        case: str,
        previous: LabelVolume | None = None,
        extras: Extras | None = None,
        progress: Progress = silent,
    ) -> LabelVolume:
        """The mask of a volume as :meth:`predict` gives it; fills what else is wanted.

        Args:
            case: names the scan in errors.

        Raises:
            DataError, UsageError: as :meth:`predict`.
        """
        self.choose_engines(volume.geometry)
        with freed_memory_kept() if self.device.type == "cpu" else nullcontext():
            return self._segment(volume, case, previous, extras, progress)

    def choose_engines(self, geometry: Geometry) -> None:
        """Measure which engine is the fastest, of members that have a choice and where scans on this grid repay it."""
        for member in self.members:
            if member.undecided:
                member.choose_engine(self.scans * member.passes(member.prepared_shape(geometry)))
        for stage in self._stages():
            stage.scans = self.scans
            stage.choose_engines(geometry)

    def keep_to_pytorch(self) -> None:
        """Compute with PyTorch from now on, in all stages, unless another engine was asked for."""
        if self.settings.engine not in ("auto", "torch"):
            return
        for member in self.members:
            member.keep_to_pytorch()
        for stage in self._stages():
            stage.keep_to_pytorch()

    def release(self) -> None:
        """Give back the memory that is kept between scans, but for the networks."""
        for member in self.members:
            member.release()
        for stage in self._stages():
            stage.release()

    def engines(self) -> str:
        """What computes the networks, in words."""
        used = [member.engine.version() for member in self.members]
        for stage in self._stages():
            used.append(stage.engines())
        return ", ".join(dict.fromkeys(used))

    def _stages(self) -> list[Predictor]:
        return [stage for stage in self.previous if stage is not None]

    def _segment(
        self, volume: Volume, case: str, previous: LabelVolume | None, extras: Extras | None, progress: Progress
    ) -> LabelVolume:
        scans = [self._prepare(index, volume, case, previous, progress) for index in range(len(self.members))]
        trace, labels = scans[0].trace, self.plan.labels
        if len(scans) == 1 and extras is None:
            slabs = self.members[0].slabs(scans[0], self.placements[0], progress=progress)
            return restore(label_planes(slabs, trace, labels), trace, labels)
        for scan in scans[1:]:
            if (scan.trace.change, scan.trace.crop) != (trace.change, trace.crop):
                raise UsageError(f"{case}: the models turn the scan to different axes; predict with each on its own")
        mask = np.full(trace.source_shape, labels.background, dtype=labels.dtype)
        extras = extras or Extras()
        fill_surroundings(extras, self.plan)
        first = 0
        votes, voices = extras.disagreement is not None, extras.hear is not None
        for opinion in opinions_of(self.members, self.placements, scans, votes, voices, progress):
            indices = decide(opinion.probabilities, labels)
            planes = slice(first, first + len(indices))
            trace.inside(mask)[planes] = labels.decode(indices.cpu().numpy())
            fill(extras, trace, planes, opinion, indices, labels.has_regions)
            if extras.hear is not None:
                extras.hear(opinion.voices, indices)
            extras.filled()
            first += len(indices)
        return LabelVolume(mask, trace.source, labels.meaning)

    def _prepare(
        self, index: int, volume: Volume, case: str, previous: LabelVolume | None, progress: Progress
    ) -> PreparedPlanes:
        """The scan as a member sees it; in a cascade with the mask of the stage before."""
        stage, member = self.previous[index], self.members[index]
        if member.configuration.previous_stage is None:
            previous = None
        elif previous is None:
            if stage is None:
                raise UsageError(
                    f"{case}: {member.configuration.name} needs the mask of {member.configuration.previous_stage},"
                    f" and this model does not have that stage with it; copy the model whole, with {PREVIOUS_FOLDER}"
                )
            previous = stage._segment(volume, case, None, None, progress)
        return prepare_planes(volume, member.model.plan, member.configuration, previous, case=case)

    def _open(self, source: Source) -> tuple[Volume, str]:
        if isinstance(source, Volume):
            return source, "scan"
        sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
        first = sources[0] if sources else ""
        name = Path(first).name if isinstance(first, str | os.PathLike) else str(first)
        return io.read(sources, channels=len(self.plan.channels)), name


def _shares(model: Model) -> list[float]:
    """Of a model's parts in its probabilities: every fold counts the same."""
    folds = [len(part.weights) for part in model.parts]
    return [count / sum(folds) for count in folds]


def _require_same_task(first: Plan, other: Plan) -> None:
    for what, one, two in (("channels", first.channels, other.channels), ("labels", first.labels, other.labels)):
        if one != two:
            raise UsageError(f"--model: models can be averaged if they have the same {what}, found {one} and {two}")
