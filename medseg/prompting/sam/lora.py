"""Low-rank adaptation of SAM's image encoder: few numbers learn, and merge into the weights that they adapt.

To a frozen weight W the product of two thin matrices is added, W + B A, of which B begins as zeros (LoRA: Hu et al.,
ICLR 2022). As in SAMed (Zhang & Liu, Customized Segment Anything Model for Medical Image Segmentation, 2023) queries
and values of every block's attention are adapted, with rank 4 and no further scaling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RANK = 4


class LowRankUpdate(nn.Module):
    """Adds low-rank products to the query and value rows of a weight (3 D, D) that holds queries, keys and values.

    Args:
        weight: to be adapted; nothing changes until the update has learnt.
        generator: on the CPU, for the matrices A.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, width = weight.shape[0] // 3, weight.shape[1]
        # As uniform as the weights of a new linear layer, in which A x would be the first of two.
        limit = width**-0.5
        self.down = nn.ParameterList(
            ((2 * torch.rand(rank, width, generator=generator) - 1) * limit).to(weight) for _ in range(2)
        )
        self.up = nn.ParameterList(weight.new_zeros(rows, rank) for _ in range(2))

    def forward(self, weight: Tensor) -> Tensor:
        queries, values = (up @ down for up, down in zip(self.up, self.down, strict=True))
        return weight + torch.cat([queries, torch.zeros_like(queries), values])


def add_low_rank(encoder: Any, generator: torch.Generator, rank: int = RANK) -> None:
    """Adapt every block of an image encoder of ``transformers``; what learns now are the updates alone."""
    encoder.requires_grad_(False)
    for block in encoder.layers:
        update = LowRankUpdate(block.attn.qkv.weight, rank, generator)
        parametrize.register_parametrization(block.attn.qkv, "weight", update)


def merge_low_rank(encoder: Any) -> None:
    """Make the adapted weights plain ones, so that the encoder is like every other; one without updates stays."""
    for block in encoder.layers:
        if parametrize.is_parametrized(block.attn.qkv, "weight"):
            parametrize.remove_parametrizations(block.attn.qkv, "weight")
