"""JPEG of 12 and 16 bits, lossy and lossless, which pydicom's own plug-ins do not decode under a permissive licence.

Registers imagecodecs (libjpeg-turbo) with pydicom, by the interface that pydicom documents for plug-ins. JPEG-LS comes
through pyjpegls, JPEG 2000 through pylibjpeg-openjpeg, RLE and the plain syntaxes are pydicom's own.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.pixels.decoders import base as decoders

_SYNTAXES = {
    uid.JPEGExtended12Bit: decoders.JPEGExtended12BitDecoder,
    uid.JPEGLossless: decoders.JPEGLosslessDecoder,
    uid.JPEGLosslessSV1: decoders.JPEGLosslessSV1Decoder,
}
DECODER_DEPENDENCIES = dict.fromkeys(_SYNTAXES, ("imagecodecs",))


def is_available(syntax: str) -> bool:
    """Whether imagecodecs is there; asked by pydicom."""
    return syntax in _SYNTAXES and importlib.util.find_spec("imagecodecs") is not None


@cache
def register() -> None:
    """Make the plug-in known to pydicom. Once is enough; again does nothing."""
    for decoder in _SYNTAXES.values():
        if "imagecodecs" not in decoder.available_plugins:
            decoder.add_plugin("imagecodecs", (__name__, "decode_frame"))


def decode_frame(source: bytes, runner: Any) -> bytearray:
    """One frame's pixels in the byte order of this machine; called by pydicom."""
    import imagecodecs

    image = imagecodecs.jpeg_decode(source)
    runner.set_option("bits_allocated", image.dtype.itemsize * 8)
    return bytearray(np.ascontiguousarray(image).tobytes())
