"""The memory of SAM 2: what stays of slices that were segmented, and how the next slice looks at it.

A slice attends to the slices with prompts, to the last six before it, and to the pointers of up to fifteen (Ravi et
al., SAM 2: Segment Anything in Images and Videos, 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from medseg.prompting.sam2.network import Answer, Features

# Each slice with prompts costs time on every slice that is followed; in training there were never more in a video.
MOST_PROMPTED = 8


@dataclass(frozen=True, eq=False)
class Memory:
    """What stays of a slice.

    Attributes:
        features: (h·w, 1, M), bfloat16 as in the original.
        places: (h·w, 1, M), where they are on the slice.
        pointer: (1, 1, C), the object as one vector.
    """

    features: torch.Tensor
    places: torch.Tensor
    pointer: torch.Tensor


def nearest(prompted: Iterable[int], index: int) -> list[int]:
    """Which of the slices with prompts a slice attends to, in order."""
    return sorted(sorted(prompted, key=lambda other: (abs(other - index), other))[:MOST_PROMPTED])


def reach(network: Any) -> int:
    """How many slices back anything is remembered, prompts aside."""
    return max(network.config.num_maskmem, network.config.max_object_pointers_in_encoder) - 1


@torch.inference_mode()
def remember(network: Any, features: Features, answer: Answer, prompted: bool) -> Memory:
    """What stays of an answer; that to a prompt is remembered as a mask, without its doubts."""
    size = network.config.image_size
    kept, places = network._encode_new_memory(
        current_vision_feats=features.coarse.flatten(2).permute(2, 0, 1),
        pred_masks_high_res=functional.interpolate(answer.logits, (size, size), mode="bilinear", align_corners=False),
        object_score_logits=answer.score,
        is_mask_from_pts=prompted,
    )
    return Memory(kept, places, answer.pointer)


@torch.inference_mode()
def with_memory(
    network: Any,
    features: Features,
    index: int,
    step: int,
    prompted: Mapping[int, Memory],
    followed: Mapping[int, Memory],
    count: int,
) -> torch.Tensor:
    """Coarse features (1, C, h, w) of a slice, after it has looked at what is remembered.

    Args:
        step: 1 where slices are followed upwards, -1 downwards.
        prompted, followed: memories by slice; at least one is prompted.
        count: slices in all.
    """
    coarse = features.coarse
    seen = [(0, memory) for memory in prompted.values()]
    seen += [
        (distance, followed[index - step * distance])
        for distance in range(network.config.num_maskmem - 1, 0, -1)
        if index - step * distance in followed
    ]
    # Only what lies behind may point: those in front know nothing of the way so far.
    pointers = [((index - at) * step, m.pointer) for at, m in prompted.items() if (index - at) * step >= 0]
    most = min(count, network.config.max_object_pointers_in_encoder)
    pointers += [
        (distance, followed[index - step * distance].pointer)
        for distance in range(1, most)
        if index - step * distance in followed
    ]
    memory, places = network._build_memory_attention_inputs(
        [(distance, {"maskmem_features": m.features, "maskmem_pos_enc": m.places}) for distance, m in seen],
        coarse.device,
    )
    tokens = 0
    if pointers:
        distances, vectors = (list(values) for values in zip(*pointers, strict=True))
        pointing, when = network._process_object_pointers(
            distances, vectors, most, 1, network.config.vision_config.fpn_hidden_size, coarse.device
        )
        memory, places, tokens = [*memory, pointing], [*places, when], len(pointing)
    here = network.vision_encoder.neck.position_encoding(coarse.shape, coarse.device, coarse.dtype)
    flat = network.memory_attention(
        coarse.flatten(2).permute(2, 0, 1),
        torch.cat([part.to(coarse.dtype) for part in memory]),
        here.flatten(2).permute(2, 0, 1),
        torch.cat(places),
        tokens,
    )
    return flat.reshape(coarse.shape[2] * coarse.shape[3], -1).T.reshape(coarse.shape)
