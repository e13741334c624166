"""A series becomes a volume: slices in order, in the modality's values, on a RAS grid. Each file is read once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from medseg.dicom.discovery import FolderContent, survey_folder
from medseg.dicom.files import quiet_pydicom
from medseg.dicom.frames import Plane
from medseg.dicom.geometry import evened
from medseg.dicom.mosaic import tile
from medseg.dicom.pixels import read_frames
from medseg.dicom.rescaling import DoesNotFitError, candidate_dtypes, rescale
from medseg.dicom.series import Series
from medseg.dicom.shearing import sheared_out
from medseg.dicom.uptake import suv_factors
from medseg.errors import DataError, FileUnreadableError, GeometryError, UsageError
from medseg.progress import Progress, silent
from medseg.volume import Geometry, Volume

PathLike = str | os.PathLike[str]

# Files decoded at once: enough to keep a disk busy, few enough that their pixels take no memory to speak of.
_THREADS = 4
_LISTED = 6

log = logging.getLogger(__name__)


def read_series(
    source: Series | Sequence[Series] | PathLike,
    *,
    fix_spacing: bool = False,
    suv: bool = False,
    progress: Progress = silent,
) -> Volume:
    """Read a series as a volume (C, Z, Y, X): slices along z, rows along y, columns along x.

    Values are the modality's (Hounsfield units of a CT). They keep an integer type where slope and intercept of all
    slices are integers, else they are float32. Colour becomes three channels. Slices that a tilted gantry shifted
    against each other are moved onto an upright grid (cubic interpolation within each slice; outside, the lowest
    value).

    Args:
        source: a series; several parts of one series on one grid, which become channels; or a folder or file that
            holds one such thing. Localisers and single images beside a volume are left out, with a line in the log.
        fix_spacing: interpolate unevenly spaced slices linearly onto an even grid, rather than refuse them.
        suv: body-weight standardised uptake values (g/ml) of a PET series.

    Raises:
        UsageError: several volumes to choose from.
        GeometryError: the slices make no even grid, or parts lie on different grids; says where.
        FileUnreadableError: a file is missing, damaged or cut short.
        DataError: no volume here, or no uptake values can be computed.
    """
    parts = find_volume(source, fix_spacing=fix_spacing, progress=progress)
    with quiet_pydicom():
        volumes = [_read_part(part, fix_spacing, suv, progress) for part in parts]
    if len(volumes) == 1:
        return volumes[0]
    dtype = np.result_type(*(volume.array.dtype for volume in volumes))
    return volumes[0].with_array(np.concatenate([volume.array.astype(dtype, copy=False) for volume in volumes]))


def probe_series(
    source: Series | Sequence[Series] | PathLike, *, fix_spacing: bool = False
) -> tuple[int, Geometry, np.dtype]:
    """Channels, grid and type of what :func:`read_series` gives, without reading pixels.

    The type is a guess where 16 bits and an intercept leave open whether int16 suffices.

    Raises:
        As :func:`read_series`.
    """
    parts = find_volume(source, fix_spacing=fix_spacing)
    dtypes = [candidate_dtypes(part, fix_spacing)[0] for part in parts]
    return sum(part.channels for part in parts), _grid(parts[0], fix_spacing), np.result_type(*dtypes)


def find_volume(
    source: Series | Sequence[Series] | PathLike, *, fix_spacing: bool = False, progress: Progress = silent
) -> tuple[Series, ...]:
    """The series that is meant: one, or the parts of one on one grid.

    Raises:
        As :func:`read_series`.
    """
    if isinstance(source, Series):
        return (source,)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _only_volume(survey_folder(path, progress=progress), path, fix_spacing)
    parts = tuple(source)
    if not parts:
        raise UsageError("no series was given")
    for part in parts[1:]:
        _grid(parts[0], fix_spacing).require_equal(_grid(part, fix_spacing), str(parts[0]), str(part))
    return parts


def share_grid(parts: Sequence[Series], *, fix_spacing: bool = False) -> bool:
    """Whether series lie on one grid, as the channels of a volume do."""
    try:
        find_volume(tuple(parts), fix_spacing=fix_spacing)
    except GeometryError:
        return False
    return True


def _only_volume(content: FolderContent, path: Path, fix_spacing: bool) -> tuple[Series, ...]:
    """The one volume of a folder or file."""
    if content.unreadable:
        file, reason = next(iter(content.unreadable.items()))
        if file == path:
            raise FileUnreadableError(reason)
        raise FileUnreadableError(
            f"{len(content.unreadable)} DICOM files cannot be read and may be slices of the scan: {file.name} {reason}"
        )
    if not content.series:
        raise FileUnreadableError("holds no DICOM files; give a DICOM file, or a folder of them")
    images = [one for one in content.series if one.planes]
    if not images:
        raise DataError(f"{content.series[0].problem}; give the folder of the scan")
    volumes = [one for one in images if one.is_volume]
    stacks = [one for one in images if one.kind in ("stack", "frames")]
    singles = [one for one in images if one.kind == "single image"]
    if stacks and not (fix_spacing and all(one.is_uneven for one in stacks)):
        # Beside a good volume too: the slices that do not fit may have been meant to belong to it.
        raise GeometryError("; ".join(f"{one.described}: {one.problem}" for one in stacks[:2]))
    found = volumes + stacks or singles
    if not found:
        raise DataError(f"holds only a localiser ({images[0].size} slices); give the folder of the scan")
    if len(found) > 1 and not _parts_of_one(found, fix_spacing):
        listed = "; ".join(one.described for one in found[:_LISTED])
        raise UsageError(
            f"holds {len(found)} {'volumes' if volumes else 'images'}, expected one: {listed}"
            f"{' ...' if len(found) > _LISTED else ''}; give the files of one (see them with: medseg series FOLDER)"
        )
    left_out = len(images) - len(found)
    if left_out:
        log.warning("%s: %d localisers or single images beside the volume are left out", path, left_out)
    return tuple(found)


def _parts_of_one(found: Sequence[Series], fix_spacing: bool) -> bool:
    if len({(one.study_uid, one.uid) for one in found}) > 1 or len({one.size for one in found}) > 1:
        return False
    return share_grid(found, fix_spacing=fix_spacing)


def _grid(series: Series, fix_spacing: bool) -> Geometry:
    if fix_spacing and series.arrangement is not None and series.arrangement.is_uneven:
        return evened(series.arrangement, *series.plane_shape)[0]
    return series.geometry


def _read_part(series: Series, fix_spacing: bool, suv: bool, progress: Progress) -> Volume:
    geometry = _grid(series, fix_spacing)
    factors = suv_factors(series) if suv else None
    candidates = candidate_dtypes(series, fix_spacing or suv)
    for dtype in candidates:
        try:
            array = _filled(series, dtype, factors, dtype != candidates[-1], progress)
        except DoesNotFitError:
            continue
        break
    else:
        raise AssertionError("the widest type holds every value")
    arrangement = series.arrangement
    if arrangement is not None and arrangement.is_sheared:
        log.info("%s: slices are sheared by a tilt of %.1f degrees, moved upright", series, arrangement.tilt_degrees)
        array = sheared_out(array, arrangement)
    elif fix_spacing and arrangement is not None and arrangement.is_uneven:
        array = _between(array, evened(arrangement, *series.plane_shape)[1])
    return Volume(array, geometry)


def _filled(
    series: Series, dtype: np.dtype, factors: dict[Path, float] | None, is_doubtful: bool, progress: Progress
) -> np.ndarray:
    """The slices in order as (C, Z, Y, X) of a type."""
    channels = series.channels
    out = np.empty((channels, len(series.planes), *series.plane_shape), dtype)
    by_path = {header.path: header for header in series.headers}
    # Slices of one file follow each other here, so that it is read once.
    work = sorted(enumerate(series.planes), key=lambda item: str(item[1].path))
    files = [(path, list(group)) for path, group in groupby(work, key=lambda item: item[1].path)]

    def fill(item: tuple[Path, list[tuple[int, Plane]]]) -> None:
        path, planes = item
        header = by_path[path]
        try:
            frames = read_frames(header)
        except FileUnreadableError as error:
            raise FileUnreadableError(f"{path.name}: {error}" if len(files) > 1 else str(error)) from error
        except OSError as error:
            raise FileUnreadableError(f"{path.name}: cannot be read: {error.strerror or error}") from error
        factor = 1.0 if factors is None else factors[path]
        for index, plane in planes:
            picture = tile(frames[0], header, plane.frame) if header.mosaic else frames[plane.frame]
            if channels > 1:
                out[:, index] = np.moveaxis(picture, -1, 0)
            else:
                rescale(picture, plane, header, factor, out[0, index], is_doubtful)

    for done, _ in enumerate(_in_threads(fill, files), 1):
        progress(done, len(files), "reading DICOM pixels")
    return out


def _in_threads(function: Callable[..., None], items: Sequence[object]) -> Iterator[None]:
    """Call a function for every item, a few at a time; the first error ends it."""
    if len(items) == 1:
        yield function(items[0])
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = iter(items)
        flying = [pool.submit(function, item) for item in islice(waiting, 2 * _THREADS)]
        try:
            while flying:
                yield flying.pop(0).result()
                flying += [pool.submit(function, item) for item in islice(waiting, 1)]
        finally:
            for future in flying:
                future.cancel()


def _between(array: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Slices at fractional indices, linearly between their neighbours, as float32."""
    out = np.empty((array.shape[0], len(where), *array.shape[2:]), np.float32)
    for index, place in enumerate(where):
        below = min(int(place), array.shape[1] - 2)
        part = place - below
        out[:, index] = array[:, below] * (1 - part) + array[:, below + 1] * part
    return out
