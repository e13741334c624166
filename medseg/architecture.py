"""What a network is, as numbers: its topology and what its feature maps cost. No torch.

The memory estimate is nnU-Net's: the voxels of every feature map times its channels, for one sample (rules as
published with nnU-Net v2, Isensee et al., Nature Methods 2021, and its `dynamic-network-architectures` package).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from medseg.errors import DocumentError

Family = Literal["plain_unet", "residual_unet"]


@dataclass(frozen=True)
class NetworkSpec:
    """A U-Net: one entry a stage, from full resolution down; axes (Z, Y, X), or (Y, X) in two dimensions.

    Attributes:
        family: plain convolutions or residual blocks in the encoder.
        features: channels of each stage.
        kernel_sizes: convolution kernel of each stage.
        strides: by how much each stage is coarser than the one before; the first is all ones.
        encoder_blocks: convolutions (plain) or residual blocks a stage of the encoder.
        decoder_blocks: convolutions a stage of the decoder, one entry fewer.

    Raises:
        DocumentError: the lists do not belong together.
    """

    family: Family
    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        stages = len(self.features)
        lengths = (
            len(self.kernel_sizes),
            len(self.strides),
            len(self.encoder_blocks),
            len(self.decoder_blocks) + 1,
        )
        if stages < 1 or any(length != stages for length in lengths):
            raise DocumentError(f"network: {stages} stages, but its lists have {lengths} entries (decoder one fewer)")
        if any(len(axes) != self.dimensions for axes in (*self.kernel_sizes, *self.strides)):
            raise DocumentError("network: kernels and strides do not agree whether it is 2D or 3D")

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.strides[0])

    @property
    def stages(self) -> int:
        """Number of resolutions."""
        return len(self.features)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of a patch must be a multiple of."""
        return tuple(prod(stride[axis] for stride in self.strides) for axis in range(self.dimensions))


def stage_shapes(spec: NetworkSpec, patch_size: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Size of the feature maps of each stage for a patch, finest first."""
    shapes, shape = [], patch_size
    for stride in spec.strides:
        shape = tuple(-(-size // step) for size, step in zip(shape, stride, strict=True))
        shapes.append(shape)
    return tuple(shapes)


def feature_map_elements(spec: NetworkSpec, patch_size: tuple[int, ...], outputs: int) -> int:
    """Numbers that the feature maps of one sample hold, from first convolution to output: the memory estimate.

    Counted is what every convolution and upsampling writes; the input and the batch are not. ``outputs`` are the
    channels of the last layer, which a network of a single resolution does not have in this count.
    """
    voxels = [prod(shape) for shape in stage_shapes(spec, patch_size)]
    total = spec.features[0] * prod(patch_size) if spec.family == "residual_unet" else 0
    for stage in range(spec.stages):
        total += _encoder_maps(spec, stage) * spec.features[stage] * voxels[stage]
        if stage < spec.stages - 1:
            upsampled_and_convolved = 1 + spec.decoder_blocks[stage]
            total += upsampled_and_convolved * spec.features[stage] * voxels[stage]
    return total + (outputs * voxels[0] if spec.stages > 1 else 0)


def _encoder_maps(spec: NetworkSpec, stage: int) -> int:
    """Feature maps that the encoder writes at a stage; a residual block projects its input where the size changes."""
    blocks = spec.encoder_blocks[stage]
    if spec.family == "plain_unet":
        return blocks
    incoming = spec.features[max(stage - 1, 0)]
    projects = incoming != spec.features[stage] or any(step > 1 for step in spec.strides[stage])
    return 2 * blocks + projects
