"""SAM 2 and MedSAM2 as an engine: few slices are shown, memory does the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from medseg.progress import Progress
from medseg.prompting.engine import Answer
from medseg.prompting.prompts import MaskPrompt, Prompt
from medseg.prompting.sam2.following import Shown, follow
from medseg.prompting.sam2.network import Features, encode, pixels
from medseg.prompting.sam2.weights import load_sam2
from medseg.prompting.slices.embeddings import EmbeddingCache
from medseg.prompting.slices.engine import PictureEngine
from medseg.prompting.slices.prompts import SlicePrompts
from medseg.prompting.slices.seeds import seeds_of, slice_axis
from medseg.prompting.slices.windows import Window

Style = Literal["medsam2", "sam2"]
# What the two were trained at, in pixels.
SIZES: dict[Style, int] = {"medsam2": 512, "sam2": 1024}


class Sam2Engine(PictureEngine):
    """SAM 2 or MedSAM2 on a device. Slices are encoded when they are first needed.

    Args:
        network: ``transformers``' Sam2VideoModel.
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
        self._size = int(network.config.image_size)
        self._cache = EmbeddingCache(f"{digest} sam2 {self._size}", cache)

    @classmethod
    def open(
        cls, path: Path, device: torch.device, style: Style, cache: Path | None = None, window: Window | None = None
    ) -> Sam2Engine:
        """From a checkpoint: see :func:`medseg.prompting.sam2.weights.load_sam2`."""
        network, digest = load_sam2(path, SIZES[style])
        return cls(network, digest, device, style, cache, window)

    @property
    def name(self) -> str:
        """``medsam2`` or ``sam2``."""
        return self._style

    def segment(self, prompts: Sequence[Prompt], previous: np.ndarray | None, progress: Progress) -> Answer:  # noqa: ARG002
        """See :class:`medseg.prompting.engine.Engine`; what was found before does not matter, all prompts do."""
        pictures = self.opened
        axis = slice_axis(prompts, pictures.spacing_mm)
        shape = pictures.across(axis)
        shown, corrections, limits = shown_on(prompts, axis, shape)
        mask = follow(
            self._network,
            lambda index: self._features(axis, index),
            shown,
            corrections,
            shape,
            limits=limits,
            progress=progress,
        )
        return Answer(np.moveaxis(mask, 0, axis))

    def _features(self, axis: int, index: int) -> Features:
        picture = self.opened.slice(axis, index)
        found = self._cache.get(picture, lambda: encode(self._network, pixels(picture, self._size)))
        return Features.of(found, self._network.device)


def shown_on(
    prompts: Sequence[Prompt], axis: int, shape: tuple[int, int, int]
) -> tuple[dict[int, Shown], dict[int, SlicePrompts], tuple[int, int] | None]:
    """What shows an object on which slice across an axis, what corrects it there, and the slices that a box allows.

    Slices with boxes, lines or masks show it, or else the first with a point inside. Points on other slices correct.

    Args:
        shape: (slices, Y, X).
    """
    seeds, limits = seeds_of(prompts, axis, shape, interpolate=False)
    masks = np.zeros(shape, bool)
    for prompt in prompts:
        if isinstance(prompt, MaskPrompt):
            masks |= np.moveaxis(prompt.array, axis, 0)
    drawn = {index for index, seed in seeds.items() if seed.box} | set(np.flatnonzero(masks.any((1, 2))).tolist())
    if not drawn:
        drawn = {next(index for index, seed in seeds.items() if not seed.is_empty)}
    shown = {
        index: Shown(seeds.get(index, SlicePrompts()), masks[index] if masks[index].any() else None)
        for index in sorted(drawn)
    }
    return shown, {index: seed for index, seed in seeds.items() if index not in drawn}, limits
