"""Embeddings of slices: computed when first needed, some kept in memory, all of them on disk where a folder is given.

A file's name is a digest of the weights, the style and the slice's pixels, so a folder serves any number of scans and
models, and the same slice is never computed twice.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from medseg.errors import ModelError
from medseg.model import load_tensors, save_tensors

Embedding = Mapping[str, torch.Tensor]
# 256 slices of SAM, or 64 of SAM 2.
KEPT_BYTES = 1 << 30


class EmbeddingCache:
    """Embeddings, each of one or several named tensors, by their slices' content.

    Args:
        weights: digest of the network's weights, and whatever else the embedding depends on.
        folder: where to keep them, or None.
    """

    def __init__(self, weights: str, folder: Path | None) -> None:
        self._weights = weights
        self._folder = folder
        self._recent: OrderedDict[str, Embedding] = OrderedDict()

    def get(self, picture: np.ndarray, compute: Callable[[], Embedding]) -> Embedding:
        """The embedding of a picture on the CPU, computed if it is not known. A damaged file is written anew.

        Raises:
            StorageError: the folder cannot be written, or no space is left.
        """
        key = self.key(picture)
        if key not in self._recent:
            found = self._read(key)
            if found is None:
                found = {name: value.cpu() for name, value in compute().items()}
                if self._folder is not None:
                    save_tensors(self._folder / f"{key}.safetensors", found, {})
            self._recent[key] = found
        self._recent.move_to_end(key)
        while len(self._recent) > 1 and sum(map(_bytes_of, self._recent.values())) > KEPT_BYTES:
            self._recent.popitem(last=False)
        return self._recent[key]

    def key(self, picture: np.ndarray) -> str:
        """The name under which a picture's embedding is kept."""
        digest = hashlib.sha256(f"{self._weights} {picture.dtype} {picture.shape} ".encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
        return digest.hexdigest()

    def _read(self, key: str) -> Embedding | None:
        path = None if self._folder is None else self._folder / f"{key}.safetensors"
        if path is None or not path.is_file():
            return None
        try:
            return load_tensors(path)[0]
        except ModelError:
            return None


def _bytes_of(embedding: Embedding) -> int:
    return sum(value.nbytes for value in embedding.values())
