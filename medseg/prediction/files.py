"""Cases from files to files: each mask appears whole or not at all, and a bad scan does not stop the others."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from medseg import dicom, documents, io
from medseg.dicom.mask_writing import MaskFormat
from medseg.errors import MedsegError, StorageError, UsageError
from medseg.parallel import describe
from medseg.postprocessing import Step, apply
from medseg.prediction import dicom_masks
from medseg.prediction.memory import require_memory
from medseg.prediction.models import ModelPath, load_predictor
from medseg.prediction.outputs import NO_WISHES, Wishes, extras_for
from medseg.prediction.predictor import Extras, Predictor
from medseg.prediction.record import RECORD_FILE, Record, describe_model, job_key, load_record, run_key
from medseg.prediction.settings import DEFAULT_SETTINGS, PredictionSettings
from medseg.progress import Progress, silent
from medseg.scans import find_scans
from medseg.trust import VERDICTS_FILE, CaseTrust, OverlapSums, judge, load_verdicts, write_verdicts
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


def predict_files(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    models: Sequence[ModelPath],
    folds: Sequence[int | str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    settings: PredictionSettings = DEFAULT_SETTINGS,
    steps: Sequence[Step] = (),
    wishes: Wishes = NO_WISHES,
    ending: str | None = None,
    wanted: dicom.SeriesChoice = dicom.ANY,
    format: MaskFormat | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Predictions:
    """Predict files and folders of scans into a file (for one case) or a folder (masks named after their cases).

    In a folder, masks that an earlier run has made of the same scans with the same model and settings are kept, so the
    same command goes on where it was stopped.

    Args:
        models: model folders or zips; the probabilities of several are averaged.
        steps: what is done to each mask before it is written, in this order.
        wishes: what to write beside the masks.
        ending: of the masks, such as ``.nii.gz``; by default that of the scan.
        wanted: which series of DICOM folders are predicted, and how they are read.
        format: masks of DICOM scans as DICOM objects: ``STUDY_UID/SERIES_UID.seg.dcm`` in the folder, in which
            ``measurements.csv`` gathers their volumes.

    Raises:
        UsageError: no scans, several scans for one output file, a case without all its channels, or a DICOM object
            asked for a scan that is no DICOM.
        ModelError: a model is missing, damaged, or does not fit its plan.
    """
    predictor = load_predictor(models, folds, device, precision, settings)
    jobs, folder = jobs_for(inputs, output, predictor, ending, format, wanted, progress=progress)
    if folder is None:
        done = predict_cases(predictor, jobs, steps=steps, wishes=wishes, should_stop=should_stop, progress=progress)
        for case in done.trust.values():
            path = done.masks[case.case]
            write_verdicts([case], path.with_name(f"{io.name_of(path)}_{VERDICTS_FILE}"))
        return done
    run = run_key(predictor, wishes, steps)
    model = describe_model(predictor)
    keys = {job.case: job_key(run, job.images, job.format) for job in jobs}
    known = load_record(folder).keys
    verdicts = {} if wishes.trust is None else {case.case: case for case in load_verdicts(folder / VERDICTS_FILE)}
    kept = [
        job
        for job in jobs
        if known.get(job.output.name) == keys[job.case]
        and all(path.is_file() for path in (job.output, *wishes.paths(job.output, job.case, predictor)))
        and (wishes.trust is None or job.case in verdicts)
        and (job.measurements is None or job.measurements.is_file())
    ]
    if kept:
        log.info("%d masks are there already, made from the same scans with the same model and settings", len(kept))

    def note(job: Job, verdict: CaseTrust | None) -> None:
        known[job.output.name] = keys[job.case]
        if verdict is not None:
            verdicts[job.case] = verdict
            write_verdicts(list(verdicts.values()), folder / VERDICTS_FILE)
        documents.save(Record(model=model, keys=known), folder / RECORD_FILE)

    waiting = [job for job in jobs if job not in kept]
    done = predict_cases(
        predictor, waiting, steps=steps, wishes=wishes, should_stop=should_stop, note=note, progress=progress
    )
    masks = {job.case: job.output for job in kept} | done.masks
    trust = {case: verdict for case, verdict in verdicts.items() if case in masks}
    return Predictions(masks, done.failures, tuple(job.case for job in kept), trust)


def jobs_for(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    predictor: Predictor,
    ending: str | None = None,
    format: MaskFormat | None = None,
    wanted: dicom.SeriesChoice = dicom.ANY,
    *,
    progress: Progress = silent,
) -> tuple[list[Job], Path | None]:
    """The scans in the inputs as jobs, and the folder of the masks unless a file is asked for.

    Raises:
        UsageError: no scans, several scans for one output file or one that is a scan itself, a case without all its
            channels, or a DICOM object asked for a scan that is no DICOM.
    """
    scans = find_scans([Path(path) for path in inputs], predictor.plan.channels, wanted, progress=progress)
    target = Path(output)
    named = io.is_image_name(target) if format is None else target.suffix == ".dcm"
    if named and not target.is_dir():
        if len(scans) != 1:
            raise UsageError(f"-o {target}: {len(scans)} scans need a folder, found the name of a file")
        if format is None:
            io.require_writable(target)
        else:
            dicom_masks.source_series(scans[0].images[0], scans[0].case)
        return _sparing_scans([Job(scans[0].case, scans[0].images, target, format=format)]), None
    if format is not None:
        paths = [dicom_masks.mask_path(target, scan.images[0], scan.case, format) for scan in scans]
        table = target / dicom_masks.MEASUREMENTS_FILE
        return [
            Job(scan.case, scan.images, path, None, format, table) for scan, path in zip(scans, paths, strict=True)
        ], target
    jobs = [
        Job(scan.case, scan.images, target / f"{scan.case}{ending or io.mask_ending(scan.images[0])}") for scan in scans
    ]
    return _sparing_scans(jobs), target


def _sparing_scans(jobs: list[Job]) -> list[Job]:
    """The jobs, if none would write its mask over a scan."""
    scans = {Path(image).resolve() for job in jobs for image in job.images if isinstance(image, str | os.PathLike)}
    for job in jobs:
        if job.output.resolve() in scans:
            raise UsageError(f"-o: {job.output} is a scan, and its mask would replace it; give another folder or name")
    return jobs


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
