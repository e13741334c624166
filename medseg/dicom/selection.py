"""Series that were chosen to be read as a scan, or as some of its channels, and how: what takes the place of a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.dicom.series import Series
from medseg.dicom.volumes import probe_series, read_series, share_grid
from medseg.errors import FileUnreadableError, GeometryError
from medseg.progress import Progress, silent
from medseg.volume import Geometry, Volume


@dataclass(frozen=True)
class SeriesChoice:
    """Which series are meant, and how they are read.

    Attributes:
        series: UIDs, or parts of descriptions in any case of letters. For scans of several channels one a channel.
        modality: "CT", "MR", "PT" ...; empty for any.
        fix_spacing, suv: see :func:`medseg.dicom.read_series`.
        resample: channels on other grids of the same frame of reference are brought onto the first channel's.
    """

    series: tuple[str, ...] = ()
    modality: str = ""
    fix_spacing: bool = False
    suv: bool = False
    resample: bool = False


ANY = SeriesChoice()


@dataclass(frozen=True, eq=False)
class Selection:
    """A scan that is still to be read, or some of its channels, and how. It takes the place of a path.

    Attributes:
        parts: one series, or the parts of one that become channels.
        name: UIDs, never anything of the patient.
        problem: why it must not be read although its slices look well; empty if it may.
        fix_spacing, suv, resample: as in :class:`SeriesChoice`.
    """

    parts: tuple[Series, ...]
    name: str
    problem: str = ""
    fix_spacing: bool = False
    suv: bool = False
    resample: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of its slices."""
        return tuple(dict.fromkeys(file for part in self.parts for file in part.files))

    @property
    def settings(self) -> tuple[bool, ...]:
        """How it is read."""
        return self.fix_spacing, self.suv, self.resample

    def read(self, progress: Progress = silent) -> Volume:
        """See :func:`medseg.dicom.read_series`, with the same errors."""
        self._require_whole()
        return read_series(self.parts, fix_spacing=self.fix_spacing, suv=self.suv, progress=progress)

    def probe(self) -> tuple[int, Geometry, object]:
        """See :func:`medseg.dicom.probe_series`, with the same errors."""
        self._require_whole()
        return probe_series(self.parts, fix_spacing=self.fix_spacing)

    def _require_whole(self) -> None:
        if self.problem:
            raise FileUnreadableError(self.problem)
        for part in self.parts:
            if part.problem and not (self.fix_spacing and part.is_uneven):
                raise GeometryError(part.problem)

    def __str__(self) -> str:
        return f"series {self.name}"


def require_one_place(selections: Sequence[Selection]) -> None:
    """Raise where series must not be laid over each other, although their coordinates may look alike.

    Raises:
        GeometryError: their frames of reference differ; or one is not named, and their grids are to be resampled.
    """
    if not selections:
        return
    first = selections[0].parts[0]
    for other in selections[1:]:
        series = other.parts[0]
        frames = first.frame_of_reference_uid, series.frame_of_reference_uid
        if frames[0] == frames[1] != "" or ("" in frames and share_grid((first, series))):
            continue
        if all(frames) or other.resample:
            raise GeometryError(
                f"{series.described} lies in another frame of reference than {first.described}; register the two first"
            )
