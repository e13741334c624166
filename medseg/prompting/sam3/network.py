"""One slice and its prompts through SAM 3: pixels in, embedding, what a concept or a box and points show there.

The slice is stretched to the network's square and goes from -1 to 1. An instance of a concept counts when its score,
the product of its own and of the concept's presence on the slice, is above one half, as in Meta's own code; a voxel
when its probability is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.errors import UsageError
from medseg.prompting.sam3.exemplars import exemplar_tokens
from medseg.prompting.slices.prompts import SliceBox, SlicePrompts

SCORE = 0.5
PROBABILITY = 0.5


@dataclass(frozen=True, eq=False)
class Concept:
    """Words as the detector reads them.

    Attributes:
        features: (1, tokens, channels).
        mask: (1, tokens), 1 where there is a word and 0 after the last one.
    """

    features: Tensor
    mask: Tensor


def pixels(picture: np.ndarray, size: int) -> Tensor:
    """Float32 (1, 3, size, size) of a picture (Y, X, 3) uint8."""
    values = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    # In bytes, so that values are rounded as in Meta's code.
    values = functional.interpolate(values, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return values.float() / 127.5 - 1


@torch.inference_mode()
def embed(detector: Any, values: Tensor) -> Tensor:
    """The image encoder's answer (1, places, channels) to :func:`pixels`; detector and tracker share it."""
    return detector.vision_encoder.backbone(values.to(detector.device)).last_hidden_state


@torch.inference_mode()
def read(detector: Any, tokenizer: Any, text: str) -> Concept:
    """Words as a concept.

    Raises:
        UsageError: more words than the network reads.
    """
    most = detector.config.text_config.max_position_embeddings
    tokens = tokenizer(text, padding="max_length", max_length=most, return_tensors="pt")
    found = tokens["input_ids"].shape[1]
    if found > most:
        raise UsageError(f"text {text!r}: SAM 3 reads {most} tokens at most, found {found}; say it shorter")
    mask = tokens["attention_mask"].to(detector.device)
    return Concept(detector.get_text_features(tokens["input_ids"].to(detector.device), mask).pooler_output, mask)


@torch.inference_mode()
def instances(
    detector: Any, embedding: Tensor, concept: Concept, box: SliceBox | None, shape: tuple[int, int]
) -> Tensor:
    """Logits (instances, h, w) of a concept's instances that score above one half, on a quarter of the square.

    Args:
        box: around one of them, as an exemplar.
        shape: (Y, X) of the slice.
    """
    from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

    pyramid, encodings = detector.vision_encoder.neck(_in_space(embedding.to(detector.device)))
    part = None
    if box is not None:
        (y0, x0, y1, x1), (height, width) = box, shape
        part = x0 / width, y0 / height, x1 / width, y1 / height
    # The last map, half as fine as the embedding, is used by nobody.
    exemplars = exemplar_tokens(detector.geometry_encoder, pyramid[-2], encodings[-2], part)
    answer = detector(
        vision_embeds=Sam3VisionEncoderOutput(fpn_hidden_states=pyramid, fpn_position_encoding=encodings),
        text_embeds=SimpleNamespace(pooler_output=torch.cat([concept.features, exemplars], 1)),
        attention_mask=torch.cat([concept.mask, concept.mask.new_ones(exemplars.shape[:2])], 1),
    )
    scores = answer.pred_logits.sigmoid() * answer.presence_logits.sigmoid()
    return answer.pred_masks[scores > SCORE].float().cpu()


def union(logits: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """The mask (Y, X) bool of all instances (instances, h, w) together."""
    if not len(logits):
        return np.zeros(shape, bool)
    probabilities = functional.interpolate(logits[None].sigmoid(), shape, mode="bilinear", align_corners=False)[0]
    return (probabilities > PROBABILITY).any(0).numpy()


@torch.inference_mode()
def tracked_logits(
    whole: Any, embedding: Tensor, prompts: SlicePrompts, shape: tuple[int, int], begun: Tensor | None = None
) -> np.ndarray:
    """Logits (Y, X) of the object that a box and points show, by the tracker.

    Args:
        shape: (Y, X) of the slice.
        begun: a mask to correct, (h, w) bool as large as that of :func:`instances`.
    """
    tracker = whole.tracker_model
    maps, _ = whole.get_vision_features_for_tracker(SimpleNamespace(last_hidden_state=embedding.to(whole.device)))
    maps[-1] = maps[-1] + tracker.no_memory_embedding
    features = [
        values.permute(1, 2, 0).unflatten(2, size)
        for values, size in zip(maps, tracker.backbone_feature_sizes, strict=True)
    ]
    scale_y, scale_x = (whole.config.image_size / length for length in shape)
    points = labels = box = mask = None
    if prompts.points:
        # The network adds half a pixel itself, to corners of voxels that are counted from 0.
        at = [[(x + 0.5) * scale_x - 0.5, (y + 0.5) * scale_y - 0.5] for y, x, _ in prompts.points]
        points = torch.tensor([[at]], device=whole.device)
        labels = torch.tensor([[[int(inside) for _, _, inside in prompts.points]]], device=whole.device)
    if prompts.box is not None:
        y0, x0, y1, x1 = prompts.box
        box = torch.tensor([[[x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y]]], device=whole.device)
    if begun is not None:
        # As Meta's code gives the tracker a mask that it has not found itself.
        mask = begun[None, None].to(whole.device) * 20.0 - 10.0
    sparse, dense = tracker.get_prompt_embeddings(points, labels, box, mask)
    logits = tracker.mask_decoder(
        image_embeddings=features[-1],
        image_positional_embeddings=tracker.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        high_resolution_features=features[:-1],
    )[0]
    logits = logits[:, 0].float().cpu()
    return functional.interpolate(logits, shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def _in_space(embedding: Tensor) -> Tensor:
    """(1, channels, h, w) of (1, places, channels)."""
    side = math.isqrt(embedding.shape[1])
    return embedding.transpose(1, 2).unflatten(2, (side, side))
