"""What the U-Nets are made of: a convolution with normalisation, a residual block, a decoder stage.

Modules are built without values (on the meta device); ``medseg.networks.build`` gives them memory and draws them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.networks.operations import average_pool, convolve, normalize, upsample

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def convolution(
    incoming: int, outgoing: int, kernel: Sequence[int], stride: Sequence[int], bias: bool = True
) -> nn.Module:
    """A convolution that pads so that stride 1 keeps the size."""
    padding = tuple((size - 1) // 2 for size in kernel)
    return CONVOLUTIONS[len(kernel)](incoming, outgoing, tuple(kernel), tuple(stride), padding, bias=bias)


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and shift, the sum with a shortcut, leaky ReLU."""

    def __init__(self, channels: int, activate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.activate = activate

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return normalize(x, self.weight, self.bias, self.activate, residual)


class ConvNorm(nn.Module):
    """Convolution, normalisation and, if wanted, activation."""

    def __init__(
        self,
        incoming: int,
        outgoing: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = convolution(incoming, outgoing, kernel, stride or (1,) * len(kernel), bias)
        self.norm = InstanceNorm(outgoing, activate)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.norm(convolve(x, self.conv), residual)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, activated after their sum.

    Where the block is strided the shortcut pools, and where channels change it projects: ResNet-D (He et al., "Bag of
    tricks for image classification with convolutional neural networks", CVPR 2019).
    """

    def __init__(self, incoming: int, outgoing: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.first = ConvNorm(incoming, outgoing, kernel, stride)
        self.second = ConvNorm(outgoing, outgoing, kernel)
        self.pooling = tuple(stride) if any(step > 1 for step in stride) else None
        projects = incoming != outgoing
        self.shortcut = (
            ConvNorm(incoming, outgoing, (1,) * len(kernel), bias=False, activate=False) if projects else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = x if self.pooling is None else average_pool(x, self.pooling)
        return self.second(self.first(x), self.shortcut(pooled))


class Upsampling(nn.Module):
    """Transposed convolution whose kernel is its stride."""

    def __init__(self, incoming: int, outgoing: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(incoming, outgoing, *stride))
        self.bias = nn.Parameter(torch.empty(outgoing))

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.weight, self.bias)


class DecoderStage(nn.Module):
    """Upsample what comes from below, join it with the encoder's features of this resolution, convolve."""

    def __init__(
        self, below: int, channels: int, kernel: Sequence[int], stride: Sequence[int], convolutions: int
    ) -> None:
        super().__init__()
        self.up = Upsampling(below, channels, stride)
        self.blocks = nn.Sequential(
            *(ConvNorm(channels if index else 2 * channels, channels, kernel) for index in range(convolutions))
        )

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        return self.blocks(torch.cat((self.up(below), skip), dim=1))
