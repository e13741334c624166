"""CT that is not in Hounsfield units, told by its values: a network learns HU, and plans clip and scale by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medseg.dataset import Finding
from medseg.integrity.files import command
from medseg.integrity.records import samples

CT = "ct"
OFFSET_HU = 1024
"""What scanners add to store HU without a sign (the usual rescale intercept is -1024)."""
_NORMALISED_SPAN = 20.0
_LARGEST_BYTE = 255.0
# Fat, organs and muscle, of which every scan of a body holds much.
_SOFT_HU = (-100, 200)
_ENOUGH = 0.2


def unit_problems(channel: np.ndarray, name: str, file: Path, case: str | None, alone: bool) -> Iterator[Finding]:
    """What is wrong with the values of one channel (Z, Y, X), if it is called CT.

    Args:
        alone: it is the file's only channel, so that a command can mend the file.
    """
    if name.casefold() != CT:
        return
    values = samples(channel)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low == high:
        return  # told elsewhere
    export = "export it anew from DICOM in HU (slope and intercept applied)"
    if high - low <= _NORMALISED_SPAN:
        problem = f"CT values span {low:.4g} to {high:.4g}: normalised, not HU (air is -1000, water 0)"
        yield Finding("warning", problem, case, file, export)
    elif low >= 0 and high <= _LARGEST_BYTE:
        problem = f"CT values span {low:.4g} to {high:.4g}: a window in 8 bits, not HU; what it cut off is lost"
        yield Finding("warning", problem, case, file, export)
    elif low > -OFFSET_HU / 2 and _is_shifted(values[values > low], 1 if low >= 0 else 4):
        problem = (
            f"CT values span {low:.4g} to {high:.4g} with soft tissue near {OFFSET_HU}: stored without rescale,"
            " so that air is near 0 instead of -1000"
        )
        yield Finding("warning", problem, case, file, _subtract(file) if alone else export)
    elif low >= 0:
        problem = f"CT values span {low:.4g} to {high:.4g}, none below 0: fat and air have negative HU"
        yield Finding("warning", problem, case, file, export)


def _is_shifted(values: np.ndarray, times: float) -> bool:
    """Whether soft tissue lies at the offset, and so many times less where it lies in HU.

    Values are without the lowest, which fills the corners.
    """
    shifted, plain = (
        float(np.mean((values >= _SOFT_HU[0] + offset) & (values <= _SOFT_HU[1] + offset))) for offset in (OFFSET_HU, 0)
    )
    return shifted >= max(_ENOUGH, times * plain)


def _subtract(file: Path) -> str:
    return f"subtract {OFFSET_HU}: " + command(
        f"f = {str(file)!r}; v = io.read(f); a = v.array.astype('float32') - {OFFSET_HU};"
        " io.write(v.with_array(a.astype('int16') if v.array.dtype.kind in 'iu' else a), f, like=f)"
    )
