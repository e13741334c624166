"""One slice through SAM 2: pixels in, features; from features and prompts, what the network says of an object.

A slice becomes a square and back as in the original's video predictor, and MedSAM2's (Ravi et al., SAM 2: Segment
Anything in Images and Videos, 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from medseg.prompting.slices.prompts import SlicePrompts

_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_STD = np.array((0.229, 0.224, 0.225), np.float32)
# What the prompt encoder calls points, and the first and second corner of a box.
_OUTSIDE, _INSIDE, _FIRST, _SECOND = 0, 1, 2, 3
# A mask's two values as logits; other logits are cut before they become a prompt.
_MASK_SCALE, _MASK_BIAS = 20.0, -10.0
_MOST = 32.0


@dataclass(frozen=True, eq=False)
class Features:
    """What the image encoder makes of a slice, in three resolutions; h and w are a sixteenth of the square.

    Attributes:
        fine: (1, C / 8, 4h, 4w).
        middle: (1, C / 4, 2h, 2w).
        coarse: (1, C, h, w), to which memory is added.
    """

    fine: torch.Tensor
    middle: torch.Tensor
    coarse: torch.Tensor

    @classmethod
    def of(cls, embedding: Mapping[str, torch.Tensor], device: torch.device) -> Features:
        """From :func:`encode`, on a device."""
        return cls(**{name: value.to(device) for name, value in embedding.items()})


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network says of an object on a slice.

    Attributes:
        logits: (1, 1, 4h, 4w) on the square; far below 0 where the object is not there.
        pointer: (1, 1, C), the object as one vector.
        score: (1, 1, 1), above 0 where the object is there.
    """

    logits: torch.Tensor
    pointer: torch.Tensor
    score: torch.Tensor


def pixels(picture: np.ndarray, size: int) -> torch.Tensor:
    """Float32 (1, 3, size, size) of a picture (Y, X, 3) uint8."""
    square = np.asarray(Image.fromarray(picture).resize((size, size)), np.float32) / 255
    return torch.from_numpy((square - _MEAN) / _STD).permute(2, 0, 1)[None]


@torch.inference_mode()
def encode(network: Any, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of :class:`Features` of :func:`pixels`."""
    maps = network.get_image_features(values.to(network.device), return_dict=True).fpn_hidden_states
    squares = [flat.permute(1, 2, 0).unflatten(2, (isqrt(len(flat)),) * 2).contiguous() for flat in maps]
    return dict(zip(("fine", "middle", "coarse"), squares, strict=True))


def without_memory(network: Any, features: Features) -> torch.Tensor:
    """Coarse features (1, C, h, w) of a slice that is looked at for itself."""
    return features.coarse + network.no_memory_embedding.reshape(1, -1, 1, 1)


@torch.inference_mode()
def decode(
    network: Any,
    features: Features,
    coarse: torch.Tensor,
    prompts: SlicePrompts,
    shape: tuple[int, int],
    logits: torch.Tensor | None = None,
) -> Answer:
    """The answer to prompts; without any, what memory alone says.

    Args:
        coarse: coarse features with memory, or :func:`without_memory`.
        shape: (Y, X) of the slice.
        logits: of an earlier answer on this slice, to be corrected.
    """
    at, kinds = _coordinates(prompts, shape, network.config.image_size)
    given: dict[str, torch.Tensor] = {}
    if at:
        given["input_points"] = torch.tensor([[at]], dtype=torch.float32, device=coarse.device)
        given["input_labels"] = torch.tensor([[kinds]], dtype=torch.int32, device=coarse.device)
    if logits is not None:
        given["input_masks"] = logits.clamp(-_MOST, _MOST)
    answer = network._single_frame_forward(
        image_embeddings=[features.fine, features.middle, coarse],
        # One point may mean a part or the whole: the network then offers three masks and ranks them.
        multimask_output=len(at) <= 1,
        **given,
    )
    return Answer(answer.pred_masks, answer.object_pointer, answer.object_score_logits)


@torch.inference_mode()
def given_mask(network: Any, features: Features, mask: np.ndarray) -> Answer:
    """A mask (Y, X) bool of the slice as if the network had answered so.

    ``transformers`` 5 takes the pointer of the best of three masks here, the original code that of the only one.
    """
    size = network.config.image_size
    values = torch.from_numpy(mask).to(features.coarse.device, torch.float32)[None, None]
    square = (_resized(values, size) >= 0.5).float()
    pointer = network._single_frame_forward(
        image_embeddings=[features.fine, features.middle, features.coarse],
        input_masks=network.mask_downsample(square),
        multimask_output=False,
    ).object_pointer
    there = bool(square.any())  # what is thinner than a pixel of the square is not
    return Answer(
        _resized(square * _MASK_SCALE + _MASK_BIAS, size // 4),
        pointer if there else network.no_object_pointer[None],
        torch.full((1, 1, 1), there * _MASK_SCALE + _MASK_BIAS, device=square.device),
    )


def slice_mask(answer: Answer, shape: tuple[int, int]) -> np.ndarray:
    """The mask (Y, X) bool of the slice."""
    logits = functional.interpolate(answer.logits.float(), shape, mode="bilinear", align_corners=False)
    return (logits[0, 0] > 0).cpu().numpy()


def _resized(values: torch.Tensor, size: int) -> torch.Tensor:
    return functional.interpolate(values, (size, size), mode="bilinear", align_corners=False, antialias=True)


def _coordinates(
    prompts: SlicePrompts, shape: tuple[int, int], size: int
) -> tuple[list[tuple[float, float]], list[int]]:
    """Where prompts lie on the square as (x, y), to which the network adds half a pixel, and what they are."""
    scale_y, scale_x = size / shape[0], size / shape[1]
    at, kinds = [], []
    if prompts.box is not None:
        y0, x0, y1, x1 = prompts.box
        at += [(x0 * scale_x, y0 * scale_y), (x1 * scale_x, y1 * scale_y)]
        kinds += [_FIRST, _SECOND]
    for y, x, inside in prompts.points:
        at.append(((x + 0.5) * scale_x - 0.5, (y + 0.5) * scale_y - 0.5))
        kinds.append(_INSIDE if inside else _OUTSIDE)
    return at, kinds
