"""What the page asks of a session, one request after the other, as JSON values and NIfTI files."""

from __future__ import annotations

import base64
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from medseg import documents, io
from medseg.errors import UsageError
from medseg.prompting.prompts import Prompt, parse_prompt
from medseg.prompting.session import Session
from medseg.volume import LabelVolume, Volume, bounding_box

MOST_OBJECTS = 255  # masks travel as bytes


class Desk:
    """A session at which several requests may arrive at once; they are served in turn.

    Args:
        session: with an image, and perhaps with prompts.
        save: writes a mask and says where it lies.
        name: of the image, to be shown.

    Raises:
        UsageError: the session has no image, or an object whose number the page cannot show.
    """

    def __init__(self, session: Session, save: Callable[[LabelVolume], str], name: str) -> None:
        session.image  # noqa: B018 - there is one
        _require_shown(prompt for step in session.steps for prompt in step)
        self._session, self._save, self._name = session, save, name
        self._turn = threading.Lock()
        self._progress = 0.0, 1.0, ""
        self._saved = session.steps

    def state(self) -> dict[str, Any]:
        """Everything that the page shows, but for the image."""
        with self._turn:
            image = self._session.image
            return {
                "name": self._name,
                "engine": self._session.engine.name,
                "channels": image.channels,
                "shape": image.geometry.shape,
                "spacing_mm": image.geometry.spacing_mm,
                "to_mm": image.geometry.affine[:3].tolist(),
                "to_index": np.linalg.inv(image.geometry.affine)[:3].tolist(),
                **self._found(self._session.mask),
            }

    def add(self, content: Any) -> dict[str, Any]:
        """Add the prompts of one step, ``{"prompts": [...]}``, each as in a file of prompts.

        Raises:
            DocumentError: these are no prompts.
            UsageError: a prompt lies outside of the image, or its object is none that the page shows.
        """
        entries = content.get("prompts") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UsageError('expected {"prompts": [...]}')
        prompts = [parse_prompt(entry, f"prompts[{number}]") for number, entry in enumerate(entries)]
        _require_shown(prompts)
        with self._turn:
            try:
                return self._found(self._session.add(*prompts, progress=self._note))
            finally:
                self._progress = 0.0, 1.0, ""

    def undo(self) -> dict[str, Any]:
        """Take the last step back.

        Raises:
            UsageError: there is none.
        """
        with self._turn:
            return self._found(self._session.undo())

    def save(self) -> dict[str, Any]:
        """Write the mask.

        Raises:
            UsageError: no prompt has been added.
            StorageError: the folder cannot be written, or no space is left.
        """
        with self._turn:
            if not self._session.steps:
                raise UsageError("nothing to save: no prompt has been added")
            where = self._save(self._session.mask)
            self._saved = self._session.steps
            return {"saved": where}

    def progress(self) -> dict[str, Any]:
        """How far the work under way is: ``done`` of ``total``, and ``what`` it is."""
        done, total, what = self._progress
        return {"done": done, "total": total, "what": what}

    def image(self, channel: int) -> bytes:
        """One channel of the image as NIfTI.

        Raises:
            UsageError: the image has no such channel.
        """
        image = self._session.image
        if not 0 <= channel < image.channels:
            raise UsageError(f"channel {channel}: the image has channels 0 to {image.channels - 1}")
        array = image.array[channel : channel + 1]
        if array.dtype.itemsize > 4 or array.dtype == np.float16:
            array = array.astype(np.float32)  # viewers read no more
        return _nifti(image.with_array(array))

    def mask(self) -> bytes:
        """The mask as NIfTI."""
        with self._turn:
            return _nifti(self._session.mask)

    def finish(self) -> bool:
        """Wait for the work under way; whether the mask was saved since it last changed."""
        with self._turn:
            return self._saved == self._session.steps

    def _note(self, done: float, total: float, what: str) -> None:
        self._progress = done, total, what

    def _found(self, mask: LabelVolume) -> dict[str, Any]:
        """The prompts and the mask: the box that it fills, and the voxels in it as bytes, deflated."""
        box = bounding_box(mask.array)
        part = mask.array[box.slices].astype(np.uint8).tobytes() if box else b""
        return {
            "steps": documents.to_json(self._session.steps),
            "volume_ml": {str(mask.labels[name]): mask.volume_ml(name) for name in mask.labels},
            "mask": {
                "start": box.start if box else (0, 0, 0),
                "stop": box.stop if box else (0, 0, 0),
                "voxels": base64.b64encode(zlib.compress(part, 1)).decode(),
            },
        }


def _require_shown(prompts: Iterable[Prompt]) -> None:
    for prompt in prompts:
        if prompt.object > MOST_OBJECTS:
            raise UsageError(f"object {prompt.object}: the page shows objects from 1 to {MOST_OBJECTS}")


def _nifti(volume: Volume | LabelVolume) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii"
        io.write(volume, path)
        return path.read_bytes()
