"""Embeddings of slices: computed when first needed, a few kept in memory, all of them on disk where a folder is given.

A file's name is a digest of the weights, the style and the slice's pixels, so a folder serves any number of scans and
models, and the same slice is never computed twice.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from medseg.errors import ModelError
from medseg.model import load_tensors, save_tensors

KEPT_IN_MEMORY = 64
_NAME = "embedding"


class EmbeddingCache:
    """Embeddings by their slices' content.

    Args:
        weights: digest of the network's weights, and whatever else the embedding depends on.
        folder: where to keep them, or None.
    """

    def __init__(self, weights: str, folder: Path | None) -> None:
        self._weights = weights
        self._folder = folder
        self._recent: OrderedDict[str, torch.Tensor] = OrderedDict()

    def get(self, picture: np.ndarray, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The embedding of a picture, computed if it is not known. A damaged file is written anew.

        Raises:
            StorageError: the folder cannot be written, or no space is left.
        """
        key = self.key(picture)
        if key not in self._recent:
            found = self._read(key)
            if found is None:
                found = compute().cpu()
                if self._folder is not None:
                    save_tensors(self._folder / f"{key}.safetensors", {_NAME: found}, {})
            self._recent[key] = found
        self._recent.move_to_end(key)
        while len(self._recent) > KEPT_IN_MEMORY:
            self._recent.popitem(last=False)
        return self._recent[key]

    def key(self, picture: np.ndarray) -> str:
        """The name under which a picture's embedding is kept."""
        digest = hashlib.sha256(f"{self._weights} {picture.dtype} {picture.shape} ".encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
        return digest.hexdigest()

    def _read(self, key: str) -> torch.Tensor | None:
        path = None if self._folder is None else self._folder / f"{key}.safetensors"
        if path is None or not path.is_file():
            return None
        try:
            return load_tensors(path)[0].get(_NAME)
        except ModelError:
            return None
