"""Problems of one file, and of two files that should lie on one grid."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from medseg import io
from medseg.dataset import Finding
from medseg.errors import MedsegError
from medseg.io import formats
from medseg.volume import EQUAL_WITHIN_VOXELS, Geometry, Volume

# A mask whose grid lies off by less than this belongs to its image; further away someone has to look.
SURELY_MEANT_WITHIN_VOXELS = 1.0
_PIXDIM_WITHIN = 0.01


def examine_file(file: Path, case: str | None, source: io.Source | None = None) -> tuple[Volume | None, list[Finding]]:
    """One image by itself; ``source`` says how it is read where it is DICOM."""
    findings = list(header_problems(file, case))
    try:
        volume = io.read(file if source is None else source)
    except MedsegError as error:
        return None, [*findings, of_error(error, file, case)]
    return volume, [*findings, *content_problems(volume, file, case)]


def content_problems(volume: Volume, file: Path, case: str | None) -> Iterator[Finding]:
    """What voxels should not be."""
    if volume.array.dtype.kind == "f":
        strange = int(np.count_nonzero(~np.isfinite(volume.array)))
        if strange:
            problem = f"{strange} of {volume.array.size} voxels are NaN or infinite"
            yield Finding("error", problem, case, file, _replace_strange(file))
    for number, channel in enumerate(volume.array):
        if channel.min() == channel.max():
            which = f"channel {number}: " if volume.channels > 1 else ""
            remedy = "export the scan anew, or remove the case: there is nothing to see"
            yield Finding("warning", f"{which}all voxels are {channel.flat[0]}", case, file, remedy)


def header_problems(file: Path, case: str | None) -> Iterator[Finding]:
    """What a NIfTI header says that programs will read differently."""
    from medseg.io import nifti

    try:
        if file.is_dir():
            return
        grid_file = formats.grid_file(file)
        if formats.reader(grid_file) is not nifti:
            return
        header = nifti.raw_header(grid_file)
        geometry = io.probe(grid_file).geometry
    except (MedsegError, OSError):
        return  # reading the file reports it
    rewrite = f"write it anew: {command(f'io.write(io.read({str(file)!r}), {str(file)!r})')}"
    if header["sform_code"]:
        stored = np.array(header["pixdim"][3:0:-1], dtype=np.float64)
        if (np.abs(stored / np.array(geometry.spacing_mm) - 1) > _PIXDIM_WITHIN).any():
            sizes = f"{_sizes(stored)} (z, y, x) by pixdim and {_sizes(geometry.spacing_mm)} by sform"
            yield Finding("warning", f"voxel sizes are {sizes}, which is used", case, file, rewrite)
            return
    try:
        qform, sform = nifti.form_geometries(header, geometry.shape)
    except ValueError as error:
        yield Finding("warning", f"{error}; the other form is used", case, file, rewrite)
        return
    if qform is None and sform is None:
        problem = f"no qform and no sform: left and right are not known, {geometry.orientation} is assumed"
        yield Finding("warning", problem, case, file, "convert it anew from DICOM, or set the form if you know it")
    elif qform is not None and sform is not None:
        apart = qform.distance_voxels(sform)
        if apart > EQUAL_WITHIN_VOXELS:
            problem = f"qform ({qform.orientation}) and sform ({sform.orientation}) lie {_apart(apart, sform)} apart"
            yield Finding("warning", f"{problem}; sform is used, other programs may use qform", case, file, rewrite)


def compare_grids(
    case: str, file: Path, grid: Geometry, other: Path, other_grid: Geometry, *, is_mask: bool
) -> Iterator[Finding]:
    """Whether a mask or a further channel lies on the grid of the first image."""
    apart = grid.distance_voxels(other_grid)
    if apart <= EQUAL_WITHIN_VOXELS:
        return
    if np.isinf(apart):
        problem = f"grid differs from {file.name}: {other_grid} against {grid}"
        remedy = f"resample it onto {file.name}"
        if not (io.holds_dicom(file) or io.holds_dicom(other)):
            remedy = f"{remedy}: {_resample(file, other, is_mask)}"
    else:
        problem = f"grid lies {_apart(apart, grid)} off that of {file.name}"
        remedy = f"take over the grid of {file.name}: {_take_grid(file, other, is_mask)}"
        if apart > SURELY_MEANT_WITHIN_VOXELS:
            remedy = f"look at both overlaid, and resample it unless the voxels belong together; then {remedy}"
    yield Finding("error", problem, case, other, remedy)


def of_error(error: MedsegError, file: Path, case: str | None) -> Finding:
    """An error as a finding: what its message says to do next becomes the remedy."""
    text = str(error).removeprefix(f"{file}: ")
    problem, _, remedy = text.rpartition("; ") if "; " in text else (text, "", "")
    return Finding("error", problem, case, file, remedy)


def _apart(voxels: float, grid: Geometry) -> str:
    return f"{voxels:.3g} voxels ({voxels * min(grid.spacing_mm):.3g} mm)"


def _sizes(spacing_mm: Iterable[float]) -> str:
    return " x ".join(f"{size:g}" for size in spacing_mm)


def command(code: str) -> str:
    """A line for the shell that runs some Python."""
    code = code if code.startswith("from medseg") else f"from medseg import io; {code}"
    return f"python -c {shlex.quote(code)}" if any(mark in code for mark in '"$`\\') else f'python -c "{code}"'


def _take_grid(image: Path, other: Path, is_mask: bool) -> str:
    kind, read = ("LabelVolume", "read_labels") if is_mask else ("Volume", "read")
    return command(
        f"i, m = {str(image)!r}, {str(other)!r}; from medseg.volume import {kind};"
        f" io.write({kind}(io.{read}(m).array, io.probe(i).geometry), m, like=i)"
    )


def _resample(image: Path, other: Path, is_mask: bool) -> str:
    how = (
        "from medseg.evaluation.grids import onto_grid; v = onto_grid(io.read_labels(m), io.probe(i).geometry)"
        if is_mask
        else "from medseg.io.alignment import onto; v = onto(io.read(m), io.probe(i).geometry, m)"
    )
    return command(f"i, m = {str(image)!r}, {str(other)!r}; {how}; io.write(v, m, like=i)")


def _replace_strange(file: Path) -> str:
    return "set them to 0: " + command(
        f"f = {str(file)!r}; import numpy; v = io.read(f);"
        " io.write(v.with_array(numpy.nan_to_num(v.array, posinf=0, neginf=0)), f, like=f)"
    )
