"""Problems of DICOM series in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medseg import dicom
from medseg.dataset import Finding
from medseg.errors import MedsegError
from medseg.integrity.files import content_problems, of_error
from medseg.progress import Progress
from medseg.volume import Volume

_KNOWN = ("volume", "single image", "stack", "frames")


def examine_series(files: Sequence[Path], progress: Progress) -> Iterator[tuple[str, Volume | None, list[Finding]]]:
    """Each series among DICOM files by itself: what it is, its image where it has one, and what is wrong with it."""
    if not files:
        return
    try:
        content = dicom.survey_files(files, progress=progress)
    except MedsegError as error:
        yield "", None, [of_error(error, files[0], None)]
        return
    for file, reason in content.unreadable.items():
        problem, _, remedy = reason.partition("; ")
        yield file.name, None, [Finding("error", problem, file=file, remedy=remedy)]
    for number, series in enumerate(content.series):
        progress(number, len(content.series), "examining")
        place = series.files[0].parent
        if series.kind not in _KNOWN:
            yield str(series), None, [Finding("note", f"holds {series.kind}", series.uid, place)]
        elif series.problem:
            problem, _, remedy = series.problem.rpartition("; ") if "; " in series.problem else (series.problem, "", "")
            yield str(series), None, [Finding("error", problem, series.uid, place, remedy)]
        else:
            volume, findings = _read(series, place)
            if volume is not None and series.arrangement is not None and series.arrangement.is_sheared:
                tilt = f"slices are tilted by {series.arrangement.tilt_degrees:.1f} degrees; read on an upright grid"
                findings.append(Finding("note", tilt, series.uid, place))
            yield str(series), volume, findings


def _read(series: dicom.Series, place: Path) -> tuple[Volume | None, list[Finding]]:
    try:
        volume = dicom.read_series(series)
    except MedsegError as error:
        return None, [of_error(error, place, series.uid)]
    return volume, list(content_problems(volume, place, series.uid))
