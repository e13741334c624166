"""SAM and MedSAM as an engine: slices one by one, and volumes from prompts on few of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from medseg.errors import DataError, UsageError
from medseg.progress import Progress
from medseg.prompting.embeddings import EmbeddingCache
from medseg.prompting.prompts import Box, MaskPrompt, Point, Prompt, Scribble
from medseg.prompting.propagation import SliceBox, between, box_around, propagate, recist_box
from medseg.prompting.sam_slices import SlicePrompts, Style, embed, low_resolution_logits, pixels, slice_logits
from medseg.prompting.sam_weights import load_sam
from medseg.prompting.simulation import line_points
from medseg.prompting.windows import Window, window_of
from medseg.volume import Volume

# Around each component of a given mask, as part of its size: MedSAM's boxes are loose by some voxels as well.
MASK_MARGIN = 0.05
LINE_STEP_VOXELS = 8.0


class SamEngine:
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
        self._network = network.to(device)
        self._style: Style = style
        self._window = window
        self._size = int(network.config.vision_config.image_size)
        self._cache = EmbeddingCache(f"{digest} {style}", cache)
        self._picture: np.ndarray | None = None
        self._spacing_mm = (1.0, 1.0, 1.0)

    @classmethod
    def open(
        cls, path: Path, device: torch.device, style: str, cache: Path | None = None, window: Window | None = None
    ) -> SamEngine:
        """From a checkpoint: see :func:`medseg.prompting.sam_weights.load_sam`."""
        network, digest = load_sam(path)
        return cls(network, digest, device, "medsam" if style == "medsam" else "sam", cache, window)

    @property
    def name(self) -> str:
        """``medsam`` or ``sam``."""
        return self._style

    def set_image(self, volume: Volume, *, case: str, progress: Progress) -> None:
        """Bring the scan to 0 to 255; nothing is embedded yet."""
        if volume.channels not in (1, 3):
            raise DataError(f"{case}: SAM sees pictures of 1 or 3 channels, found {volume.channels}; give one of them")
        progress(0, 1, "preparing the image")
        window = self._window or window_of(volume, case)
        self._picture = window.apply(volume.array)
        self._spacing_mm = volume.geometry.spacing_mm
        progress(1, 1, "preparing the image")

    def segment(self, prompts: Sequence[Prompt], previous: np.ndarray | None, progress: Progress) -> np.ndarray:  # noqa: ARG002
        """See :class:`medseg.prompting.engine.Engine`; what was found before does not matter, all prompts do."""
        if self._picture is None:
            raise UsageError("the session has no image yet; begin with set_image(volume)")
        axis = slice_axis(prompts, self._spacing_mm)
        shape = self._picture.shape[1:]
        turned = (shape[axis], *(size for a, size in enumerate(shape) if a != axis))
        result = np.zeros(turned, bool)
        masks = [np.moveaxis(prompt.array, axis, 0) for prompt in prompts if isinstance(prompt, MaskPrompt)]
        for mask in masks:
            result |= self._refined(mask, axis, progress)
        seeds, limits = seeds_of(prompts, axis, turned)
        if seeds and not all(seed.is_empty for seed in seeds.values()):
            result |= self._from_seeds(seeds, limits, axis, turned, bool(masks), progress)
        return np.moveaxis(result, 0, axis)

    def segment_slice(self, axis: int, index: int, prompts: SlicePrompts) -> np.ndarray:
        """The mask (Y, X) bool of one slice across an axis."""
        picture = self._slice(axis, index)
        embedding = self._cache.get(picture, lambda: embed(self._network, pixels(picture, self._size, self._style)))
        shape = (picture.shape[0], picture.shape[1])
        low = low_resolution_logits(self._network, embedding, prompts, shape, self._style)
        return slice_logits(low, shape, self._size, self._style) > 0

    def _slice(self, axis: int, index: int) -> np.ndarray:
        """(Y, X, 3) uint8."""
        assert self._picture is not None
        plane = np.moveaxis(self._picture.take(index, axis + 1), 0, -1)
        return np.ascontiguousarray(np.broadcast_to(plane, (*plane.shape[:2], 3)))

    def _from_seeds(
        self,
        seeds: dict[int, SlicePrompts],
        limits: tuple[int, int] | None,
        axis: int,
        shape: tuple[int, ...],
        only_seeds: bool,
        progress: Progress,
    ) -> np.ndarray:
        usable = {index: seed for index, seed in seeds.items() if not seed.is_empty}
        first, last = min(usable), max(usable)
        if only_seeds:  # a mask says already where the object ends
            limits = (first, last + 1)
        size = (shape[0], shape[1], shape[2])
        mask = propagate(usable, lambda i, p: self.segment_slice(axis, i, p), size, limits=limits, progress=progress)
        for index, seed in seeds.items():
            if seed.is_empty and mask[index].any():  # points outside only: the slice again, with its own box
                box = box_around(mask[index], MASK_MARGIN)
                mask[index] = self.segment_slice(axis, index, SlicePrompts(box, seed.points))
        return mask

    def _refined(self, mask: np.ndarray, axis: int, progress: Progress) -> np.ndarray:
        """A mask (slices, Y, X) anew: a box for each component on each slice."""
        result = np.zeros_like(mask)
        slices = np.flatnonzero(mask.any((1, 2)))
        for done, index in enumerate(slices.tolist()):
            components, count = ndimage.label(mask[index])  # type: ignore[misc]
            for number in range(1, count + 1):
                box = box_around(components == number, MASK_MARGIN)
                result[index] |= self.segment_slice(axis, index, SlicePrompts(box))
            progress(done + 1, len(slices), "refining slices")
        return result


def slice_axis(prompts: Sequence[Prompt], spacing_mm: Sequence[float]) -> int:
    """The axis across which slices are taken: that of flat boxes and lines, else the coarsest, the first of equals."""
    candidates = {0, 1, 2}
    for prompt in prompts:
        if isinstance(prompt, Box) and prompt.flat_axes:
            candidates &= set(prompt.flat_axes)
        if isinstance(prompt, Scribble):
            flat = np.flatnonzero(np.ptp(np.round(prompt.points), axis=0) == 0)
            candidates &= set(flat.tolist()) or candidates
    if not candidates:
        raise UsageError("the boxes and lines of an object lie on slices across different axes; draw them on one kind")
    return max(sorted(candidates), key=lambda axis: spacing_mm[axis])


def seeds_of(
    prompts: Sequence[Prompt], axis: int, shape: Sequence[int]
) -> tuple[dict[int, SlicePrompts], tuple[int, int] | None]:
    """What is shown on which slice across an axis, and the slices that may hold the object where a box says so.

    Boxes on several slices are interpolated; a box through several slices begins on its middle one; a line alone
    becomes the box of a lesion with that diameter.

    Args:
        shape: (slices, Y, X).
    """
    flat: dict[int, SliceBox] = {}
    limits: tuple[int, int] | None = None
    points: dict[int, list[tuple[float, float, bool]]] = {}
    lines: dict[int, SliceBox] = {}
    for prompt in prompts:
        match prompt:
            case Box():
                box = prompt.voxels
                (y0, x0), (y1, x1) = _others(box.start, axis), _others(box.stop, axis)
                first, last = box.start[axis], box.stop[axis]
                flat[(first + last - 1) // 2] = (int(y0), int(x0), int(y1), int(x1))
                if last - first > 1:
                    low, high = limits or (first, last)
                    limits = min(low, first), max(high, last)
            case Point():
                points.setdefault(round(prompt.at[axis]), []).append((*_others(prompt.at, axis), prompt.positive))
            case Scribble():
                one, two = _others(prompt.points[0], axis), _others(prompt.points[-1], axis)
                if (
                    prompt.positive
                    and len(prompt.points) == 2
                    and round(prompt.points[0][axis]) == round(prompt.points[1][axis])
                ):
                    lines[round(prompt.points[0][axis])] = recist_box(one, two, shape[1:])
                    continue
                for at in line_points(prompt.points, LINE_STEP_VOXELS):
                    points.setdefault(round(at[axis]), []).append((*_others(at, axis), prompt.positive))
    boxes = between({**lines, **flat}) if flat or lines else {}
    if limits is not None:
        limits = min(limits[0], *boxes), max(limits[1], max(boxes) + 1)
    seeds = {
        index: SlicePrompts(boxes.get(index), tuple(points.get(index, ())))
        for index in sorted({*boxes, *points})
        if 0 <= index < shape[0]
    }
    return seeds, limits


def _others(position: Sequence[float], axis: int) -> tuple[float, float]:
    first, second = (value for a, value in enumerate(position) if a != axis)
    return first, second
