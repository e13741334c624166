"""Boxes as exemplars of a concept: what the detector reads beside the words.

Meta's code always adds a token that has looked at the slice, boxes or not; ``transformers`` 5.23 leaves it out where
there is no box, which changes every mask, and needs torchvision where there is one. So its geometry encoder is walked
through here, layer by layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

ExemplarBox = tuple[float, float, float, float]


def exemplar_tokens(encoder: Any, features: Tensor, encoding: Tensor, box: ExemplarBox | None) -> Tensor:
    """Tokens (1, boxes + 1, channels) of a Sam3GeometryEncoder.

    Args:
        features: (1, channels, h, w) of the slice.
        encoding: of their positions, same shape.
        box: x0, y0, x1, y1 as parts of the slice's width and height.
    """
    tokens = encoder.cls_embed.weight
    if box is not None:
        tokens = torch.cat([_of_box(encoder, features, box), tokens])
    tokens = encoder.prompt_layer_norm(encoder.final_proj(tokens))[None]
    seen, at = (values.flatten(2).transpose(1, 2) for values in (features, encoding))
    for layer in encoder.layers:
        tokens = layer(prompt_feats=tokens, vision_feats=seen, vision_pos_encoding=at, prompt_mask=None)
    return encoder.output_layer_norm(tokens)


def _of_box(encoder: Any, features: Tensor, box: ExemplarBox) -> Tensor:
    """(1, channels): where the box lies, how large it is, and what is in it."""
    x0, y0, x1, y1 = box
    middle = features.new_tensor([[(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]])
    along_x, along_y = encoder.position_encoding.encode_1d_positions(middle[:, 0], middle[:, 1])
    position = torch.cat([along_y, along_x, middle[:, 3:], middle[:, 2:3]], 1)
    normed = encoder.vision_layer_norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    pooled = encoder.boxes_pool_project(roi_align(normed, box, encoder.roi_size)).flatten(1)
    of_box = encoder.boxes_direct_project(middle) + encoder.boxes_pos_enc_project(position) + pooled
    return of_box + encoder.label_embed.weight[1:]  # 1: the box is one, 0: it is none


def roi_align(features: Tensor, box: ExemplarBox, bins: int) -> Tensor:
    """What lies in a box, (1, channels, bins, bins): RoIAlign (He et al., Mask R-CNN, 2017), as torchvision does it.

    Args:
        features: (1, channels, h, w).
        box: x0, y0, x1, y1 as parts of width and height.
    """
    (x0, y0, x1, y1), (height, width) = box, features.shape[2:]
    rows, columns = _pooling(y0, y1, height, bins), _pooling(x0, x1, width, bins)
    return rows.to(features) @ features @ columns.to(features).T


def _pooling(start: float, stop: float, size: int, bins: int) -> Tensor:
    """The matrix (bins, size) that averages linear interpolations, as many to a bin as it is long, along one axis."""
    first, length = start * size, max((stop - start) * size, 1.0)
    each = math.ceil(length / bins)
    at = first + (torch.arange(bins * each, dtype=torch.float64) + 0.5) * length / (bins * each)
    inside = at <= size
    at = at.clamp(max=size - 1)
    weights = (1 - (at[:, None] - torch.arange(size)).abs()).clamp_min(0) * inside[:, None]
    return weights.view(bins, each, size).mean(1)
