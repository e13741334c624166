"""From files and folders of scans to masks in a file or folder, where the same command goes on with what is missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from medseg import dicom, documents, io
from medseg.dicom.mask_writing import MaskFormat
from medseg.errors import UsageError
from medseg.postprocessing import Step
from medseg.prediction import dicom_masks
from medseg.prediction.cases import Job, Predictions, predict_cases
from medseg.prediction.models import ModelPath, load_predictor
from medseg.prediction.outputs import NO_WISHES, Wishes
from medseg.prediction.predictor import Predictor
from medseg.prediction.record import RECORD_FILE, Record, describe_model, job_key, load_record, run_key
from medseg.prediction.settings import DEFAULT_SETTINGS, PredictionSettings
from medseg.progress import Progress, silent
from medseg.scans import find_scans
from medseg.trust import VERDICTS_FILE, CaseTrust, load_verdicts, write_verdicts

log = logging.getLogger(__name__)


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
        StorageError: nothing can be written there, or no space is left.
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
    record = load_record(folder)
    known, engines = record.keys, record.engines
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
        engines[job.output.name] = predictor.engines()
        if verdict is not None:
            verdicts[job.case] = verdict
            write_verdicts(list(verdicts.values()), folder / VERDICTS_FILE)
        documents.save(Record(model=model, keys=known, engines=engines), folder / RECORD_FILE)

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
