"""Stored pixels of DICOM files: plain ones straight from the disk, compressed ones through pydicom's decoders."""

from __future__ import annotations

import numpy as np
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array

from medseg.dicom import codecs
from medseg.dicom.files import read_dataset
from medseg.dicom.headers import InstanceHeader, PixelLayout
from medseg.errors import FileUnreadableError

_PLAIN_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
_COMPRESSED_LENGTH = 0xFFFFFFFF
_RGB = 3
_REASON_LENGTH = 120


def read_frames(header: InstanceHeader) -> np.ndarray:
    """All frames of a file: (frames, Y, X) as stored, or (frames, Y, X, 3) as RGB.

    Bits beyond those that hold the value (overlays, junk) are cleared. Where a lookup table stands for slope and
    intercept, it is applied. To be called inside :func:`medseg.dicom.files.quiet_pydicom`.

    Raises:
        FileUnreadableError: cut short, damaged, or in a compression that nothing installed decodes.
    """
    layout = header.pixels
    if layout is None:
        raise FileUnreadableError("holds no pixels")
    return _plain(header, layout) if is_plain(layout) else _decoded(header, layout)


def is_plain(layout: PixelLayout) -> bool:
    """Whether pixels lie in the file as numpy would store them."""
    return (
        layout.transfer_syntax in _PLAIN_SYNTAXES
        and layout.samples == 1
        and layout.bits_allocated in (8, 16, 32, 64)
        and not layout.has_lookup
        and layout.photometric != "PALETTE COLOR"
    )


def stored_dtype(layout: PixelLayout) -> np.dtype:
    """The type of :func:`read_frames`."""
    if layout.kind != "integer":
        return np.dtype(np.float32 if layout.kind == "float" else np.float64)
    size = 1 if layout.bits_allocated <= 8 else layout.bits_allocated // 8
    return np.dtype(f"{'i' if layout.signed else 'u'}{size}")


def _plain(header: InstanceHeader, layout: PixelLayout) -> np.ndarray:
    dtype = stored_dtype(layout).newbyteorder("<")
    count = layout.frames * layout.rows * layout.columns
    with header.path.open("rb") as file:
        file.seek(layout.offset + (4 if layout.implicit else 8))
        length = int.from_bytes(file.read(4), "little")
        if length == _COMPRESSED_LENGTH:
            raise FileUnreadableError(
                "its pixels are compressed although its header says they are not; export it again"
            )
        values = np.fromfile(file, dtype, count)
    if len(values) < count or length < count * dtype.itemsize:
        found = min(values.nbytes, length)
        raise FileUnreadableError(
            f"pixels are cut short: expected {count * dtype.itemsize} bytes, found {found}; copy it again"
        )
    return _cleared(values.reshape(layout.frames, layout.rows, layout.columns), layout)


def _cleared(values: np.ndarray, layout: PixelLayout) -> np.ndarray:
    """The integers themselves, without the bits above and below those that hold the value, the sign restored."""
    unused = layout.bits_allocated - layout.bits_stored
    if layout.kind != "integer" or unused == 0 or layout.bits_allocated < 8:
        return values
    above = layout.bits_allocated - 1 - min(layout.high_bit, layout.bits_allocated - 1)
    if not layout.signed and above == unused:
        values &= values.dtype.type(2**layout.bits_stored - 1)
        return values
    if above:
        values <<= values.dtype.type(above)
    values >>= values.dtype.type(unused)
    return values


def _decoded(header: InstanceHeader, layout: PixelLayout) -> np.ndarray:
    codecs.register()
    dataset = read_dataset(header.path)
    try:
        frames = pixel_array(dataset)  # YBR becomes RGB
        if layout.photometric == "PALETTE COLOR":
            frames = apply_color_lut(frames, dataset)
            frames = (frames >> 8).astype(np.uint8) if frames.dtype.itemsize == 2 else frames
        elif layout.has_lookup:
            frames = np.asarray(apply_modality_lut(frames, dataset))
    except MemoryError:
        raise
    except Exception as error:  # decoders meet damage with errors of every type
        reason = " ".join(str(error).split())
        if "plugin" in reason and "missing dependencies" in reason:
            reason = "nothing installed decodes it"
        reason = reason if len(reason) <= _REASON_LENGTH else f"{reason[:_REASON_LENGTH]} ..."
        raise FileUnreadableError(
            f"its pixels ({dataset.file_meta.TransferSyntaxUID.name}) cannot be decoded: {reason};"
            " export it again, uncompressed"
        ) from error
    colours = 1 if layout.samples == 1 and layout.photometric != "PALETTE COLOR" else _RGB
    shape = (layout.frames, layout.rows, layout.columns, *((colours,) if colours > 1 else ()))
    if frames.size != np.prod(shape):
        raise FileUnreadableError(f"holds other pixels than its header says: expected {shape}, found {frames.shape}")
    frames = frames.reshape(shape).astype(frames.dtype.newbyteorder("="), copy=False)
    if layout.transfer_syntax == "1.2.840.10008.1.2.2":
        return _cleared(frames, layout)
    return frames
