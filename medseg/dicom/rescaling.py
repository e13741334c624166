"""Stored values become the modality's: Hounsfield units of a CT, say, in the most compact type that holds them."""

from __future__ import annotations

import numpy as np

from medseg.dicom.frames import Plane
from medseg.dicom.headers import InstanceHeader, PixelLayout
from medseg.dicom.pixels import stored_dtype
from medseg.dicom.series import Series

# Modalities whose values have a meaning of their own, which a display's white or black does not change.
_MEASURING = ("CT", "MR", "PT", "NM", "RTDOSE")


class DoesNotFitError(Exception):
    """Values of a slice do not fit into the type that the headers led to expect."""


def candidate_dtypes(series: Series, real: bool) -> list[np.dtype]:
    """Types that may hold the values of a series, the most compact first; the last one surely does.

    Args:
        real: whether they are to be real numbers, since they will be interpolated or scaled further.
    """
    layouts = {header.path: header.pixels for header in series.headers}
    if real or any(layout is not None and layout.has_lookup for layout in layouts.values()):
        return [np.dtype(np.float32)]
    stored = {(layouts[plane.path], plane.slope, plane.intercept) for plane in series.planes}
    known = [(layout, slope, intercept) for layout, slope, intercept in stored if layout is not None]
    if not all(
        layout.kind == "integer" and float(slope).is_integer() and float(intercept).is_integer()
        for layout, slope, intercept in known
    ):
        return [np.dtype(np.float64 if any(layout.kind == "double" for layout, _, _ in known) else np.float32)]
    low, high, identity, kinds = 0.0, 0.0, True, set()
    for layout, slope, intercept in known:
        kinds.add(_output_dtype(layout))
        identity = identity and slope == 1 and intercept == 0
        bits = layout.bits_stored
        ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if layout.signed else (0, 2**bits - 1)
        values = [end * slope + intercept for end in ends]
        low, high = min(low, *values), max(high, *values)
    if identity and len(kinds) == 1:
        return list(kinds)
    fitting = [
        np.dtype(kind) for kind in (np.int16, np.int32) if np.iinfo(kind).min <= low <= high <= np.iinfo(kind).max
    ]
    if fitting and fitting[0] == np.int32 and max(kind.itemsize for kind in kinds) == 2:
        return [np.dtype(np.int16), np.dtype(np.int32)]  # 16 bits are stored, 12 are usual
    return fitting[:1] or [np.dtype(np.float64)]


def _output_dtype(layout: PixelLayout) -> np.dtype:
    """The type of pixels as they are stored, colours included."""
    if layout.photometric == "PALETTE COLOR":
        return np.dtype(np.uint8)
    return stored_dtype(layout)


def rescale(
    picture: np.ndarray, plane: Plane, header: InstanceHeader, factor: float, out: np.ndarray, is_doubtful: bool
) -> None:
    """Stored values (Y, X) of a slice to the modality's, into ``out`` (Y, X).

    Args:
        factor: what real values are multiplied with besides (to become uptake values, say).
        is_doubtful: whether the type of ``out`` may be too narrow, so that it must be looked at.

    Raises:
        DoesNotFitError: it is too narrow.
    """
    layout = header.pixels
    assert layout is not None
    slope, intercept = (1.0, 0.0) if layout.has_lookup else (plane.slope, plane.intercept)
    if layout.photometric == "MONOCHROME1" and header.modality not in _MEASURING:
        # Shown inverted: bright stands for low. Turned within the range of the stored bits, as viewers do.
        bits = layout.bits_stored
        ends = (-(2 ** (bits - 1)) + 2 ** (bits - 1) - 1) if layout.signed else 2**bits - 1
        picture = (ends - picture.astype(np.int64)).astype(picture.dtype)
    if out.dtype.kind == "f":
        # In the precision of the result, as other converters do, so that values agree to the last bit.
        out[...] = picture
        if slope != 1 or factor != 1:
            out *= out.dtype.type(slope * factor)
        if intercept:
            out += out.dtype.type(intercept * factor)
        return
    if is_doubtful:
        limits = np.iinfo(out.dtype)
        ends = [int(value) * int(slope) + int(intercept) for value in (picture.min(), picture.max())]
        if min(ends) < limits.min or max(ends) > limits.max:
            raise DoesNotFitError
    # The results fit, so wrapping around on the way does no harm.
    np.copyto(out, picture, casting="unsafe")
    if slope != 1:
        np.multiply(out, np.array(int(slope)).astype(out.dtype), out=out)
    if intercept:
        np.add(out, np.array(int(intercept)).astype(out.dtype), out=out)
