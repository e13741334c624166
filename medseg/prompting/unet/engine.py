"""The promptable U-Net as an engine: native 3D, at the plan's spacing, around the prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from medseg.errors import UsageError
from medseg.model import Model
from medseg.prediction.member import Member
from medseg.preprocessing import Trace, prepare
from medseg.progress import Progress
from medseg.prompting.engine import Answer
from medseg.prompting.grid import GridPrompts, line_points, tight_box
from medseg.prompting.prompts import Box, MaskPrompt, Point, Prompt, Scribble
from medseg.prompting.unet.channels import prompt_channels
from medseg.prompting.unet.placement import box_on_prepared, mask_on_prepared, on_image, points_on_prepared
from medseg.prompting.unet.promptable import point_sigmas, scan_plan
from medseg.stitching import stitch
from medseg.volume import Box as VoxelBox
from medseg.volume import Volume

# What is looked at around boxes and masks, as part of the patch.
MARGIN = 1 / 8
# A region whose mask reaches its edge grows by half of itself there, so many times at most.
MOST_GROWTHS = 6
LINE_STEP_VOXELS = 2.0
_FLAT_SIGMA = 0.3  # a network of two dimensions sees a point on its own slice

log = logging.getLogger(__name__)


class UNetEngine:
    """A promptable model folder on a device.

    Raises:
        ModelError: the model takes no prompts, or its weights do not fit its plan.
        UsageError: the machine has no such device.
    """

    name = "unet"
    takes_text = False

    def __init__(self, model: Model, device: torch.device) -> None:
        if model.others:
            left_out = ", ".join(fold for other in model.others for fold in other.weights)
            log.warning(
                "folds %s have other networks than fold %s and are left out", left_out, ", ".join(model.weights)
            )
        self._plan, self._configuration = scan_plan(model.plan, model.configuration)
        self._member = Member(model, device, "auto", mirror=False, step=0.5)
        self._placement = self._member.placement()
        self._device = device
        sigmas = point_sigmas(self._configuration)
        self._sigmas = (_FLAT_SIGMA,) * (3 - len(sigmas)) + sigmas
        patch = self._configuration.patch_size
        self._patch = (1,) * (3 - len(patch)) + patch
        self._prepared: tuple[np.ndarray, Trace] | None = None

    def set_image(self, volume: Volume, *, case: str, progress: Progress) -> None:
        """Prepare the scan as the plan says."""
        progress(0, 1, "preparing the image")
        prepared = prepare(volume, self._plan, self._configuration, case=case)
        self._prepared = prepared.image, prepared.trace
        progress(1, 1, "preparing the image")

    def segment(self, prompts: Sequence[Prompt], previous: np.ndarray | None, progress: Progress) -> Answer:
        """See :class:`medseg.prompting.engine.Engine`."""
        if self._prepared is None:
            raise UsageError("the session has no image yet; begin with set_image(volume)")
        image, trace = self._prepared
        given = self._on_grid(prompts, previous, trace)
        lead, region = self._looked(image, given, progress)
        if previous is None and (lead > 0).any():  # what it answered is a mask to mend, as in its training
            answer = np.zeros(trace.shape, bool)
            answer[region.slices] = lead > 0
            lead, region = self._looked(image, replace(given, mask=answer), progress)
        progress(1, 1, "segmenting")
        return Answer(on_image(lead, region, trace), expected_dice(lead))

    def _looked(self, image: np.ndarray, given: GridPrompts, progress: Progress) -> tuple[np.ndarray, VoxelBox]:
        """The object's lead on the region that holds it, which grows until it does."""
        _, *shape = image.shape
        region = self._region(given, shape)
        lead = self._lead(image, given, region)
        for growth in range(MOST_GROWTHS):
            progress(growth, MOST_GROWTHS, "segmenting")
            grown = _grown(region, lead > 0, self._patch, shape)
            if grown == region:
                break
            region = grown
            lead = self._lead(image, given, region)
        return lead, region

    def _on_grid(self, prompts: Sequence[Prompt], previous: np.ndarray | None, trace: Trace) -> GridPrompts:
        """The prompts on the prepared grid."""
        points: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
        boxes, begun = [], previous
        for prompt in prompts:
            match prompt:
                case Box():
                    boxes.append(box_on_prepared(prompt.voxels, trace))
                case Point():
                    points[prompt.positive] += points_on_prepared([prompt.at], trace)
                case Scribble():
                    ends = points_on_prepared(prompt.points, trace)
                    points[prompt.positive] += line_points(ends, LINE_STEP_VOXELS)
                case MaskPrompt() if previous is None:
                    begun = prompt.array if begun is None else begun | prompt.array
        mask = None if begun is None else mask_on_prepared(begun, trace)
        if mask is not None and not mask.any():
            mask = None
        if mask is not None and not boxes and any(isinstance(prompt, MaskPrompt) for prompt in prompts):
            boxes = [tight_box(mask)]
        return GridPrompts(tuple(points[True]), tuple(points[False]), tuple(boxes), mask)

    def _region(self, given: GridPrompts, shape: Sequence[int]) -> VoxelBox:
        """What is looked at: all that the prompts touch, a margin around boxes and masks, a patch at least."""
        margin = np.ceil(np.array(self._patch) * MARGIN).astype(int) * (np.array(self._patch) > 1)
        corners = [np.floor(point) for point in given.inside + given.outside]
        corners += [np.floor(point) + 1 for point in given.inside + given.outside]
        for start, stop in (*given.boxes, *(() if given.mask is None else (tight_box(given.mask),))):
            corners += [np.array(start) - margin, np.array(stop) + margin]
        low, high = np.min(corners, axis=0).astype(int), np.max(corners, axis=0).astype(int)
        missing = np.maximum(np.array(self._patch) - (high - low), 0)
        return _clipped(low - missing // 2, high + missing - missing // 2, shape)

    def _lead(self, image: np.ndarray, given: GridPrompts, region: VoxelBox) -> np.ndarray:
        """How far the object's logit lies above the background's, float32 on the region."""

        def moved(point: Sequence[float]) -> tuple[float, ...]:
            return tuple(value - first for value, first in zip(point, region.start, strict=True))

        local = replace(
            given,
            inside=tuple(moved(point) for point in given.inside),
            outside=tuple(moved(point) for point in given.outside),
            boxes=tuple((tuple(map(int, moved(start))), tuple(map(int, moved(stop)))) for start, stop in given.boxes),
            mask=None if given.mask is None else given.mask[region.slices],
        )
        channels = prompt_channels(local, region.shape, self._sigmas)
        scan = _Planes(torch.from_numpy(np.concatenate([image[(slice(None), *region.slices)], channels])))
        with torch.inference_mode():
            slabs = stitch(
                scan,
                self._configuration.patch_size,
                self._member.step,
                self._member.outputs,
                self._member.window_logits,
                together=self._placement.together,
                device=self._device,
            )
            return torch.cat([slab[1] - slab[0] for slab in slabs]).cpu().numpy()


def expected_dice(lead: np.ndarray) -> float:
    """What Dice the probabilities behind a lead (logits, of any shape) promise its positive part; 0 without any.

    Twice the probable voxels in the mask, as part of the mask and all that is probable.
    """
    inside = lead > 0
    probable = 1 / (1 + np.exp(-lead.astype(np.float64)))
    return 2 * float(probable[inside].sum()) / float(inside.sum() + probable.sum()) if inside.any() else 0.0


class _Planes:
    """A region in memory as :func:`medseg.stitching.stitch` reads it."""

    def __init__(self, image: torch.Tensor) -> None:
        self._image = image

    @property
    def shape(self) -> tuple[int, int, int, int]:
        c, z, y, x = self._image.shape
        return c, z, y, x

    def planes(self, start: int, stop: int) -> torch.Tensor:
        return self._image[:, start:stop]


def _clipped(low: np.ndarray, high: np.ndarray, shape: Sequence[int]) -> VoxelBox:
    """A region moved into the grid where it fits, and cut where it does not."""
    start, stop = [], []
    for first, last, size in zip(low.tolist(), high.tolist(), shape, strict=True):
        move = max(-first, 0) + min(size - last, 0) if last - first <= size else 0
        start.append(min(max(first + move, 0), size - 1))
        stop.append(max(min(last + move, size), start[-1] + 1))
    return VoxelBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _grown(region: VoxelBox, mask: np.ndarray, patch: Sequence[int], shape: Sequence[int]) -> VoxelBox:
    """The region grown by half its size where its mask reaches an edge that is not the scan's."""
    start, stop = list(region.start), list(region.stop)
    for axis, (length, size) in enumerate(zip(patch, shape, strict=True)):
        if length == 1:
            continue  # a network of two dimensions knows nothing of other slices
        first, last = np.take(mask, 0, axis).any(), np.take(mask, -1, axis).any()
        more = (stop[axis] - start[axis] + 1) // 2
        start[axis] = max(start[axis] - (more if first else 0), 0)
        stop[axis] = min(stop[axis] + (more if last else 0), size)
    return VoxelBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
