"""SAM 3 as an engine: a concept on every slice, or an object from boxes and points as with SAM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseg.errors import UsageError
from medseg.progress import Progress
from medseg.prompting.engine import Answer
from medseg.prompting.prompts import MaskPrompt, Prompt, Text
from medseg.prompting.sam3.network import (
    Concept,
    embed,
    instances,
    pixels,
    read,
    tracked_logits,
    union,
)
from medseg.prompting.sam3.weights import Sam3, load_sam3
from medseg.prompting.slices.embeddings import EmbeddingCache
from medseg.prompting.slices.engine import PictureEngine
from medseg.prompting.slices.objects import segment_object
from medseg.prompting.slices.prompts import SlicePrompts
from medseg.prompting.slices.seeds import seeds_of, slice_axis
from medseg.prompting.slices.windows import Window

_EMBEDDING = "embedding"


class Sam3Engine(PictureEngine):
    """SAM 3 on a device. Slices are embedded when they are first needed.

    Args:
        window: what becomes black and white; by default chosen by the scan.
    """

    name = "sam3"
    takes_text = True

    def __init__(
        self, sam3: Sam3, device: torch.device, cache: Path | None = None, window: Window | None = None
    ) -> None:
        super().__init__(window)
        (sam3.whole or sam3.detector).to(device)
        self._sam3 = sam3
        self._size = int(sam3.detector.config.image_size)
        self._cache = EmbeddingCache(f"{sam3.digest} sam3 {self._size}", cache)

    @classmethod
    def open(
        cls, path: Path, device: torch.device, cache: Path | None = None, window: Window | None = None
    ) -> Sam3Engine:
        """From a folder: see :func:`medseg.prompting.sam3.weights.load_sam3`."""
        return cls(load_sam3(path), device, cache, window)

    def segment(self, prompts: Sequence[Prompt], previous: np.ndarray | None, progress: Progress) -> Answer:  # noqa: ARG002
        """See :class:`medseg.prompting.engine.Engine`; what was found before does not matter, all prompts do.

        With text, boxes are exemplars of the concept on their slices, boxes through several slices say where to look,
        and points correct their slices. A negative text is taken away at the end.
        """
        pictures = self.opened
        axis = slice_axis(prompts, pictures.spacing_mm)
        texts = [prompt for prompt in prompts if isinstance(prompt, Text)]
        shown = [prompt for prompt in prompts if not isinstance(prompt, Text)]
        named = [self._concept(text) for text in texts if text.positive]
        excluded = [self._concept(text) for text in texts if not text.positive]
        if named:
            mask = self._named(named, shown, axis, progress)
        else:
            self._require_tracker("boxes, points and masks without text")
            mask = segment_object(
                shown, axis, pictures.across(axis), lambda i, p: self.segment_slice(axis, i, p), progress
            )
        if excluded:
            for index in np.flatnonzero(mask.any((1, 2))).tolist():
                mask[index] &= ~self.segment_concepts(axis, index, excluded, SlicePrompts())
        return Answer(np.moveaxis(mask, 0, axis))

    def segment_concepts(self, axis: int, index: int, concepts: Sequence[Concept], prompts: SlicePrompts) -> np.ndarray:
        """The mask (Y, X) bool of all instances of concepts on one slice across an axis.

        Args:
            prompts: a box around an instance, as an exemplar; points that correct the mask.
        """
        embedding, shape = self._embedded(axis, index)
        found = torch.cat([instances(self._sam3.detector, embedding, one, prompts.box, shape) for one in concepts])
        if not prompts.points or not (len(found) or any(inside for _, _, inside in prompts.points)):
            return union(found, shape)
        begun = (found > 0).any(0) if len(found) else None
        return tracked_logits(self._sam3.whole, embedding, SlicePrompts(None, prompts.points), shape, begun) > 0

    def segment_slice(self, axis: int, index: int, prompts: SlicePrompts) -> np.ndarray:
        """The mask (Y, X) bool of a box and points on one slice across an axis."""
        embedding, shape = self._embedded(axis, index)
        return tracked_logits(self._sam3.whole, embedding, prompts, shape) > 0

    def _concept(self, prompt: Text) -> Concept:
        return read(self._sam3.detector, self._sam3.tokenizer, prompt.text)

    def _embedded(self, axis: int, index: int) -> tuple[Tensor, tuple[int, int]]:
        """The embedding of a slice, and its shape (Y, X)."""
        picture = self.opened.slice(axis, index)
        found = self._cache.get(picture, lambda: {_EMBEDDING: embed(self._sam3.detector, pixels(picture, self._size))})
        return found[_EMBEDDING], (picture.shape[0], picture.shape[1])

    def _require_tracker(self, what: str) -> None:
        if self._sam3.whole is None:
            raise UsageError(
                f"{what} go through SAM 3's tracker, which this checkpoint lacks (model_type sam3); give the folder as"
                " published (sam3_video), or a text"
            )

    def _named(self, concepts: Sequence[Concept], shown: Sequence[Prompt], axis: int, progress: Progress) -> np.ndarray:
        """The mask (slices, Y, X) of concepts."""
        if any(isinstance(prompt, MaskPrompt) for prompt in shown):
            raise UsageError("a mask to refine and a text do not go together; make them two objects")
        mask = np.zeros(self.opened.across(axis), bool)
        seeds, limits = seeds_of(shown, axis, mask.shape, interpolate=False)
        if any(seed.points for seed in seeds.values()):
            self._require_tracker("points beside a text")
        shown_on = [index for index, seed in seeds.items() if not seed.is_empty]
        slices = sorted({*range(*(limits or (0, len(mask)))), *shown_on})
        for done, index in enumerate(slices):
            mask[index] = self.segment_concepts(axis, index, concepts, seeds.get(index, SlicePrompts()))
            progress(done + 1, len(slices), "looking for the text")
        return mask
