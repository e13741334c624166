"""Networks by their specification. A further family is one file, one builder and one line of the table."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from medseg.architecture import Family, NetworkSpec
from medseg.networks.blocks import InstanceNorm, ResidualBlock, Upsampling
from medseg.networks.operations import LEAKY_SLOPE
from medseg.networks.unet import UNet, plain_unet, residual_unet

BUILDERS: dict[Family, Callable[[NetworkSpec, int, int], UNet]] = {
    "plain_unet": plain_unet,
    "residual_unet": residual_unet,
}


def build(spec: NetworkSpec, in_channels: int, out_channels: int, *, generator: torch.Generator | None = None) -> UNet:
    """A network on the CPU with weights drawn as nnU-Net draws them (He et al., 2015); biases are zero.

    Args:
        in_channels: channels of the scan and, in a cascade, the classes of the previous stage's mask.
        generator: source of the weights, on the CPU; by default one with seed 0. Global random state is not used.
    """
    network = _outline(spec, in_channels, out_channels).to_empty(device="cpu")
    _initialize(network, generator or torch.Generator().manual_seed(0))
    return network


def tensor_shapes(spec: NetworkSpec, in_channels: int, out_channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors; none are allocated."""
    outline = _outline(spec, in_channels, out_channels)
    return {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}


def _outline(spec: NetworkSpec, in_channels: int, out_channels: int) -> UNet:
    with torch.device("meta"):
        return BUILDERS[spec.family](spec, in_channels, out_channels)


@torch.no_grad()
def _initialize(network: nn.Module, generator: torch.Generator) -> None:
    for module in network.modules():
        match module:
            case nn.Conv2d() | nn.Conv3d() | Upsampling():
                nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            case InstanceNorm():
                module.weight.fill_(1)
                module.bias.zero_()
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.second.norm.weight.zero_()  # so that a block begins as its shortcut
