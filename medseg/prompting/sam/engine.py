"""SAM and MedSAM as an engine: slices one by one, and volumes from prompts on few of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.progress import Progress
from medseg.prompting.engine import Answer
from medseg.prompting.prompts import Prompt
from medseg.prompting.sam.network import Style, embed, low_resolution_logits, pixels, slice_logits
from medseg.prompting.sam.weights import load_sam
from medseg.prompting.slices.embeddings import EmbeddingCache
from medseg.prompting.slices.engine import PictureEngine
from medseg.prompting.slices.objects import segment_object
from medseg.prompting.slices.prompts import SlicePrompts
from medseg.prompting.slices.seeds import slice_axis
from medseg.prompting.slices.windows import Window

EMBEDDING = "embedding"  # its name in the cache


class SamEngine(PictureEngine):
    """SAM or MedSAM on a device. Slices are embedded when they are first needed.

    Args:
        network: ``transformers``' SamModel.
        digest: of its weights, for the cache.
        window: what becomes black and white; by default chosen by the scan.
    """

    def __init__(
        self,
        network: Any,
        digest: str,
        device: torch.device,
        style: Style,
        cache: Path | None = None,
        window: Window | None = None,
    ) -> None:
        super().__init__(window)
        self._network = network.to(device)
        self._style: Style = style
        self._size = int(network.config.vision_config.image_size)
        self._cache = EmbeddingCache(f"{digest} {style}", cache)

    @classmethod
    def open(
        cls, path: Path, device: torch.device, style: Style, cache: Path | None = None, window: Window | None = None
    ) -> SamEngine:
        """From a checkpoint: see :func:`medseg.prompting.sam.weights.load_sam`."""
        network, digest = load_sam(path)
        return cls(network, digest, device, style, cache, window)

    @property
    def name(self) -> str:
        """``medsam`` or ``sam``."""
        return self._style

    def segment(self, prompts: Sequence[Prompt], previous: np.ndarray | None, progress: Progress) -> Answer:  # noqa: ARG002
        """See :class:`medseg.prompting.engine.Engine`; what was found before does not matter, all prompts do."""
        pictures = self.opened
        axis = slice_axis(prompts, pictures.spacing_mm)
        mask = segment_object(
            prompts, axis, pictures.across(axis), lambda i, p: self.segment_slice(axis, i, p), progress
        )
        return Answer(np.moveaxis(mask, 0, axis))

    def segment_slice(self, axis: int, index: int, prompts: SlicePrompts) -> np.ndarray:
        """The mask (Y, X) bool of one slice across an axis."""
        picture = self.opened.slice(axis, index)
        embedding = self._cache.get(
            picture, lambda: {EMBEDDING: embed(self._network, pixels(picture, self._size, self._style))}
        )
        shape = (picture.shape[0], picture.shape[1])
        low = low_resolution_logits(self._network, embedding[EMBEDDING], prompts, shape, self._style)
        return slice_logits(low, shape, self._size, self._style) > 0
