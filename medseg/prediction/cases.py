"""Cases, one after the other: each mask appears whole or not at all, and a bad scan does not stop the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from medseg import io
from medseg.dicom.mask_writing import MaskFormat
from medseg.errors import MedsegError, StorageError
from medseg.parallel import describe
from medseg.postprocessing import Step, apply
from medseg.prediction import dicom_masks
from medseg.prediction.extras import Extras
from medseg.prediction.memory import require_memory
from medseg.prediction.outputs import NO_WISHES, Wishes, extras_for
from medseg.prediction.predictor import Predictor
from medseg.progress import Progress, silent
from medseg.trust import CaseTrust, OverlapSums, judge
from medseg.volume import LabelVolume, Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One scan to predict.

    Attributes:
        images: its files or DICOM series, one a channel or one with all.
        output: where the mask goes.
        format: DICOM object to write; by default the format that the output's ending says.
        measurements: of a DICOM object: the table that gets its volumes.
        previous: in a cascade the mask of the stage before; predicted if there is none.
    """

    case: str
    images: tuple[io.Source, ...]
    output: Path
    previous: Path | None = None
    format: MaskFormat | None = None
    measurements: Path | None = None


@dataclass(frozen=True)
class Predictions:
    """What became of each case: the mask's file, or one line saying why there is none.

    Attributes:
        kept: cases whose masks an earlier run had made of the same scan with the same model and settings.
        trust: how far each mask can be trusted, if that was wished.
    """

    masks: dict[str, Path]
    failures: dict[str, str]
    kept: tuple[str, ...] = ()
    trust: dict[str, CaseTrust] = field(default_factory=dict)


def predict_cases(
    predictor: Predictor,
    jobs: Sequence[Job],
    *,
    steps: Sequence[Step] = (),
    wishes: Wishes = NO_WISHES,
    should_stop: Callable[[], bool] = lambda: False,
    note: Callable[[Job, CaseTrust | None], None] | None = None,
    progress: Progress = silent,
) -> Predictions:
    """Predict scans one after the other; each mask appears whole or not at all, a bad scan does not stop the others.

    While one is computed, threads read the next and write the one before; not where memory is limited, since each would
    take its part of it.

    Args:
        steps: what is done to each mask before it is written, in this order.
        should_stop: asked before every scan; once true, the rest is left.
        note: told of each case whose mask is written, and how far it can be trusted.

    Raises:
        StorageError: nothing can be written there.
    """
    masks: dict[str, Path] = {}
    failures: dict[str, str] = {}
    verdicts: dict[str, CaseTrust] = {}
    limited = (predictor.settings.max_ram_bytes, predictor.settings.max_vram_bytes) != (None, None)
    progress(0, len(jobs), "predicting")
    predictor.scans = max(1, len(jobs))

    def collect(job: Job, written: Future[None], started: float) -> None:
        try:
            written.result()
        except StorageError:
            raise
        except (MedsegError, MemoryError, RuntimeError) as error:
            failures[job.case] = _in_words(error).removeprefix(f"{job.case}: ")
            if len(jobs) > 1:
                log.warning("%s: %s", job.case, failures[job.case])
        else:
            masks[job.case] = job.output
            if note is not None:
                note(job, verdicts.get(job.case))
            log.info("%s: %.1f s", job.case, time.monotonic() - started)

    with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(1, "write") as writing:
        pending: tuple[Job, Future[None], float] | None = None
        volumes = _ahead(predictor, jobs, wishes, reading, limited)
        for number, job in enumerate(jobs):
            if should_stop():
                break
            started = time.monotonic()
            written: Future[None] = Future()
            try:
                volume = next(volumes).result()
                within = _within(progress, number, len(jobs), job.case)
                written, verdict = _predict_case(predictor, job, volume, steps, wishes, writing, within)
                if verdict is not None:
                    verdicts[job.case] = verdict
                del volume
            except (MedsegError, MemoryError, RuntimeError) as error:
                written.set_exception(error)
            if pending is not None:
                collect(*pending)
            pending = (job, written, started)
            if limited or written.done():
                collect(*pending)
                pending = None
            progress(number + 1, len(jobs), "predicting")
        if pending is not None:
            collect(*pending)
    predictor.scans = 1
    trust = {case: verdict for case, verdict in verdicts.items() if case in masks}
    return Predictions(masks, failures, trust=trust)


def _ahead(
    predictor: Predictor, jobs: Sequence[Job], wishes: Wishes, reading: ThreadPoolExecutor, limited: bool
) -> Iterator[Future[Volume]]:
    """Each job's scan, the next one already being read."""

    def start(job: Job) -> Future[Volume]:
        return reading.submit(_read, predictor, job, wishes, limited)

    coming = None if limited or not jobs else start(jobs[0])
    for number, job in enumerate(jobs):
        current = coming or start(job)
        coming = start(jobs[number + 1]) if not limited and number + 1 < len(jobs) else None
        yield current


def _read(predictor: Predictor, job: Job, wishes: Wishes, limited: bool) -> Volume:
    if limited:
        require_memory(predictor, io.probe(job.images[0]), str(job.images[0]), wishes.wanted(predictor))
    return io.read(job.images, channels=len(predictor.plan.channels))


def _predict_case(
    predictor: Predictor,
    job: Job,
    volume: Volume,
    steps: Sequence[Step],
    wishes: Wishes,
    writing: ThreadPoolExecutor,
    progress: Progress,
) -> tuple[Future[None], CaseTrust | None]:
    """The mask of a case, being written when this returns, and how far it can be trusted if that is wished."""
    previous = None if job.previous is None else io.read_labels(job.previous)
    labels = predictor.plan.labels
    sums = None
    if wishes.trust is not None:
        folds = [fold for member in predictor.members for fold in member.model.weights]
        sums = OverlapSums(labels, [wishes.trust.temperature_of(fold) for fold in folds])
    with extras_for(wishes, predictor, volume, job.output, job.case) as extras:
        if sums is not None:
            extras = replace(extras or Extras(), hear=sums.hear)
        mask = predictor.segment(volume, case=job.case, previous=previous, extras=extras, progress=progress)
    verdict = None
    if sums is not None and wishes.trust is not None:
        verdict = judge(wishes.trust, sums.found(), volume, predictor.plan, job.case)
    return writing.submit(_write, predictor, apply(steps, mask, labels.background), job), verdict


def _write(predictor: Predictor, mask: LabelVolume, job: Job) -> None:
    if job.format is None:
        io.write(mask, job.output, like=job.images[0])
    else:
        dicom_masks.write(mask, predictor, job.images[0], job.output, job.format)
        if job.measurements is not None:
            dicom_masks.add_volumes(mask, predictor.plan, job.case, job.measurements)


def _in_words(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU has no room for a single window; use --device cpu, or a model planned for less memory"
    return describe(error)


def _within(progress: Progress, number: int, cases: int, case: str) -> Progress:
    """Progress of one case as a part of all cases."""

    def report(done: float, total: float, what: str) -> None:
        progress(number + 0.95 * done / max(total, 1), cases, f"{what}: {case}")

    return report
