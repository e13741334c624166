"""From a scan to a mask on its own grid: prepare, windows, stitch, resample, decide; a slab of planes at a time.

Windows overlap by half a patch, weigh most at their centres, and are averaged over mirrored copies and folds; several
configurations are averaged as probabilities, all as nnU-Net does (Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medseg import io
from medseg.device import choose_device
from medseg.errors import UsageError
from medseg.model import Model
from medseg.networks.memory import freed_memory_kept
from medseg.planning.plan import Plan
from medseg.prediction.member import Member, Placement
from medseg.prediction.settings import DEFAULT_SETTINGS, PredictionSettings
from medseg.preprocessing import (
    PreparedPlanes,
    Trace,
    decide,
    label_planes,
    logit_planes,
    prepare_planes,
    probabilities,
    restore,
)
from medseg.progress import Progress, silent
from medseg.volume import LabelVolume, Volume

Source = Volume | io.Source | Sequence[io.Source]


@dataclass(frozen=True, eq=False)
class Extras:
    """What is wanted beside the mask: arrays on the grid of the scan, filled while it is predicted.

    Attributes:
        probabilities: (K, Z, Y, X) float32, or None.
        entropy: (Z, Y, X) uint8, or None: how undecided the probabilities are, 0 to 100 % of what is possible.
        disagreement: (Z, Y, X) uint8, or None: share of folds, in %, that would give another label than the mask.
        hear: told of each group of planes the logits (K, n, Y, X) of every fold, and the mask (n, Y, X) as indices
            inside.
        filled: called whenever some planes have been filled.
    """

    probabilities: np.ndarray | None = None
    entropy: np.ndarray | None = None
    disagreement: np.ndarray | None = None
    hear: Callable[[Sequence[torch.Tensor], torch.Tensor], None] | None = None
    filled: Callable[[], None] = lambda: None


class Predictor:
    """One model, or several to be averaged, on a device, warm for many scans.

    Args:
        models: each with one or several folds, whose logits are averaged; of several models the probabilities are.
            The previous stage of a cascade is in its model.
        device, precision: names as on the command line; ``auto`` chooses the best device the machine has, and the
            fastest precision in which the model is at home.

    Raises:
        UsageError: the machine has no such device or precision, or the models have different channels or labels.
        ModelError: the weights do not fit the plan.
    """

    def __init__(
        self,
        models: Model | Sequence[Model],
        device: str = "auto",
        precision: str = "auto",
        settings: PredictionSettings = DEFAULT_SETTINGS,
    ) -> None:
        given = [models] if isinstance(models, Model) else list(models)
        self.plan: Plan = given[0].plan
        self.settings = settings
        self.device = choose_device(device)
        for model in given[1:]:
            _require_same_task(self.plan, model.plan)
        self.members = tuple(Member(model, self.device, precision, settings.mirror, settings.step) for model in given)
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
        """
        volume, case = self._open(source)
        return self.segment(volume, case=case, previous=previous, progress=progress)

    def predict_probabilities(self, source: Source) -> tuple[LabelVolume, np.ndarray]:
        """The mask of a scan and float32 probabilities (K, Z, Y, X) of each output on the scan's own grid."""
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
        """
        with freed_memory_kept() if self.device.type == "cpu" else nullcontext():
            return self._segment(volume, case, previous, extras, progress)

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
        _fill_surroundings(extras, self.plan)
        first = 0
        for opinion in self._opinions(scans, extras.disagreement is not None, extras.hear is not None, progress):
            indices = decide(opinion.probabilities, labels)
            planes = slice(first, first + len(indices))
            trace.inside(mask)[planes] = labels.decode(indices.cpu().numpy())
            _fill(extras, trace, planes, opinion, indices, labels.has_regions)
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
                    " and this model does not have that stage with it"
                )
            previous = stage._segment(volume, case, None, None, progress)
        return prepare_planes(volume, member.model.plan, member.configuration, previous, case=case)

    def _opinions(
        self, scans: Sequence[PreparedPlanes], votes: bool, voices: bool, progress: Progress
    ) -> Iterator[_Opinion]:
        """Mean probabilities and each voter's labels, consecutive planes of the cropped box."""
        streams = [
            _member_opinions(member, scan, placement, votes, voices, progress)
            for member, scan, placement in zip(self.members, scans, self.placements, strict=True)
        ]
        waiting: list[_Opinion | None] = [None] * len(streams)
        while True:
            for index, stream in enumerate(streams):
                if waiting[index] is None:
                    waiting[index] = next(stream, None)
            ready = [opinion for opinion in waiting if opinion is not None]
            if len(ready) < len(streams):
                return
            planes = min(opinion.planes for opinion in ready)
            parts = [opinion.part(0, planes) for opinion in ready]
            likely = parts[0].probabilities
            if len(parts) > 1:
                likely = torch.stack([part.probabilities for part in parts]).mean(0)
            yield _Opinion(
                likely,
                torch.cat([part.votes for part in parts]),
                tuple(voice for part in parts for voice in part.voices),
            )
            waiting = [None if opinion.planes == planes else opinion.part(planes, opinion.planes) for opinion in ready]

    def _open(self, source: Source) -> tuple[Volume, str]:
        if isinstance(source, Volume):
            return source, "scan"
        sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
        first = sources[0] if sources else ""
        name = Path(first).name if isinstance(first, str | os.PathLike) else str(first)
        return io.read(sources, channels=len(self.plan.channels)), name


@dataclass(frozen=True, eq=False)
class _Opinion:
    """Of some planes: probabilities (K, n, Y, X), and of each voter the indices inside (V, n, Y, X) that it would give
    and its logits (K, n, Y, X); none of these where they are not asked for."""

    probabilities: torch.Tensor
    votes: torch.Tensor
    voices: tuple[torch.Tensor, ...] = ()

    @property
    def planes(self) -> int:
        return self.probabilities.shape[1]

    def part(self, start: int, stop: int) -> _Opinion:
        return _Opinion(
            self.probabilities[:, start:stop],
            self.votes[:, start:stop],
            tuple(voice[:, start:stop] for voice in self.voices),
        )


def _member_opinions(
    member: Member, scan: PreparedPlanes, placement: Placement, votes: bool, voices: bool, progress: Progress
) -> Iterator[_Opinion]:
    labels, apart = member.model.plan.labels, votes or voices
    slabs = member.slabs(scan, placement, apart=apart, progress=progress)
    for logits in logit_planes(slabs, scan.trace):
        folds = logits.unflatten(0, (-1, member.outputs))
        voters = [decide(probabilities(fold, labels), labels) for fold in folds] if votes else []
        yield _Opinion(
            probabilities(folds.mean(0) if apart else logits, labels),
            torch.stack(voters) if votes else logits.new_empty(0, *logits.shape[1:]),
            tuple(folds) if voices else (),
        )


def _fill_surroundings(extras: Extras, plan: Plan) -> None:
    """What lies outside the cropped box: background is certain; of regions none is present."""
    if extras.probabilities is not None:
        for plane in extras.probabilities.swapaxes(0, 1):
            plane[...] = 0
            if not plan.labels.has_regions:
                plane[0] = 1
            extras.filled()
    for array in (extras.entropy, extras.disagreement):
        if array is not None:
            array[...] = 0


def _fill(
    extras: Extras, trace: Trace, planes: slice, opinion: _Opinion, indices: torch.Tensor, has_regions: bool
) -> None:
    if extras.probabilities is not None:
        trace.inside(extras.probabilities)[:, planes] = opinion.probabilities.cpu().numpy()
    if extras.entropy is not None:
        share = _entropy(opinion.probabilities, has_regions)
        trace.inside(extras.entropy)[planes] = (100 * share).round().to(torch.uint8).cpu().numpy()
    if extras.disagreement is not None:
        share = (opinion.votes != indices).float().mean(0)
        trace.inside(extras.disagreement)[planes] = (100 * share).round().to(torch.uint8).cpu().numpy()


def _entropy(probabilities: torch.Tensor, has_regions: bool) -> torch.Tensor:
    """Shannon's entropy (n, Y, X) of probabilities (K, n, Y, X) as part of the largest; of regions the mean."""
    if has_regions:
        each = torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
        return each.mean(0) / math.log(2)
    return torch.special.entr(probabilities).sum(0) / math.log(len(probabilities))


def _require_same_task(first: Plan, other: Plan) -> None:
    for what, one, two in (("channels", first.channels, other.channels), ("labels", first.labels, other.labels)):
        if one != two:
            raise UsageError(f"--model: models can be averaged if they have the same {what}, found {one} and {two}")
