"""nnU-Net's U-Nets, plain and with a residual encoder, in two and three dimensions.

The same weights give the same numbers as in `PlainConvUNet` and `ResidualEncoderUNet` of nnU-Net's
`dynamic-network-architectures` (Isensee et al.); `medseg.interop.nnunet.weights` renames the tensors.
Names, with stage 0 at full resolution:

    encoder.{stage}.{block}.{conv|norm}.{weight|bias}                             plain
    stem.{conv|norm}.{weight|bias}                                                residual
    encoder.{stage}.{block}.{first|second|shortcut}.{conv|norm}.{weight|bias}     residual; shortcut has no conv.bias
    decoder.{stage}.up.{weight|bias}
    decoder.{stage}.blocks.{block}.{conv|norm}.{weight|bias}
    heads.{stage}.{weight|bias}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from medseg.architecture import NetworkSpec
from medseg.errors import UsageError
from medseg.networks.blocks import ConvNorm, DecoderStage, ResidualBlock, convolution
from medseg.networks.operations import pointwise, preferred_layout


class UNet(nn.Module):
    """A U-Net. Every decoder stage has a head; a network of one stage has its head on the encoder.

    Inputs are (B, C, Z, Y, X), or (B, C, Y, X) in two dimensions, each axis a multiple of ``spec.divisor``.

    Raises:
        UsageError: an input of another form; names what was expected and found.
    """

    def __init__(
        self, spec: NetworkSpec, in_channels: int, out_channels: int, stem: nn.Module, encoder: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.divisor = spec.divisor
        self.stem = stem
        self.encoder = nn.ModuleList(encoder)
        features = spec.features
        self.decoder = nn.ModuleList(
            DecoderStage(
                features[i + 1], features[i], spec.kernel_sizes[i], spec.strides[i + 1], spec.decoder_blocks[i]
            )
            for i in range(spec.stages - 1)
        )
        ones = (1,) * spec.dimensions
        self.heads = nn.ModuleList(
            convolution(features[i], out_channels, ones, ones) for i in range(max(spec.stages - 1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits at full resolution, (B, K, Z, Y, X)."""
        head = cast(nn.Conv3d, self.heads[0])
        return pointwise(self._features(x)[0], head.weight, cast(Tensor, head.bias))

    def forward_scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of every decoder stage, full resolution first: for deep supervision."""
        return tuple(head(features) for head, features in zip(self.heads, self._features(x), strict=False))

    def _features(self, x: Tensor) -> list[Tensor]:
        """Features of every stage on the way up, full resolution first, the encoder's last one at the end."""
        self._check(x)
        x = self.stem(preferred_layout(x))
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        features = [skips.pop()]
        for stage in reversed(self.decoder):
            features.append(stage(features[-1], skips.pop()))
        return features[::-1]

    def _check(self, x: Tensor) -> None:
        dimensions = len(self.divisor)
        if x.ndim != 2 + dimensions or x.shape[1] != self.in_channels:
            expected = f"(batch, {self.in_channels}, {'Z, Y, X' if dimensions == 3 else 'Y, X'})"
            raise UsageError(f"network: expected an input {expected}, found {tuple(x.shape)}")
        shape = tuple(x.shape[2:])
        if any(shape[axis] % self.divisor[axis] for axis in range(dimensions)):
            raise UsageError(f"network: expected sizes that are multiples of {self.divisor}, found {shape}; pad it")
        if shape == self.divisor:
            raise UsageError(f"network: of {shape} a single voxel is left at the coarsest stage; use larger patches")


def plain_unet(spec: NetworkSpec, in_channels: int, out_channels: int) -> UNet:
    """nnU-Net's default: convolutions on both sides; the first of a stage carries its stride."""
    encoder = []
    incoming = in_channels
    for features, kernel, stride, blocks in _encoder_stages(spec):
        first = ConvNorm(incoming, features, kernel, stride)
        encoder.append(nn.Sequential(first, *(ConvNorm(features, features, kernel) for _ in range(blocks - 1))))
        incoming = features
    return UNet(spec, in_channels, out_channels, nn.Identity(), encoder)


def residual_unet(spec: NetworkSpec, in_channels: int, out_channels: int) -> UNet:
    """nnU-Net's residual encoder: a convolution, then residual blocks; the decoder is that of the plain network."""
    encoder = []
    incoming = spec.features[0]
    for features, kernel, stride, blocks in _encoder_stages(spec):
        first = ResidualBlock(incoming, features, kernel, stride)
        ones = (1,) * len(stride)
        others = (ResidualBlock(features, features, kernel, ones) for _ in range(blocks - 1))
        encoder.append(nn.Sequential(first, *others))
        incoming = features
    stem = ConvNorm(in_channels, spec.features[0], spec.kernel_sizes[0])
    return UNet(spec, in_channels, out_channels, stem, encoder)


def _encoder_stages(spec: NetworkSpec) -> Sequence[tuple[int, tuple[int, ...], tuple[int, ...], int]]:
    return tuple(zip(spec.features, spec.kernel_sizes, spec.strides, spec.encoder_blocks, strict=True))
