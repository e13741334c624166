"""The operations whose fast form on a CPU is not PyTorch's own: layout, normalisation, pooling, upsampling.

On a CPU feature maps stay in channels-last memory, which the convolutions there read without copying. PyTorch's
instance normalisation, average pooling and transposed convolution would leave it, so each has a form here that does
not. Elsewhere, and under ``torch.compile``, they are PyTorch's. Both forms give the same numbers up to rounding.

Feature maps are (B, C, Z, Y, X), or (B, C, Y, X) in two dimensions.
"""

from __future__ import annotations

from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

EPSILON = 1e-5
LEAKY_SLOPE = 0.01


def preferred_layout(x: Tensor) -> Tensor:
    """The same values in the memory layout in which the device computes fastest."""
    if not _own_form(x):
        return x
    # Not x.contiguous(): with one channel that keeps the strides, which are what a convolution chooses its layout by.
    return torch.empty_like(x, memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last).copy_(x)


def convolve(x: Tensor, convolution: nn.Module) -> Tensor:
    """A convolution module applied; one float32 sample on a CPU goes to oneDNN directly.

    PyTorch (2.13) takes small single samples to a loop of its own that is twenty times slower.
    """
    alone = _own_form(x) and len(x) == 1 and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if not alone or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return convolution(x)
    conv = cast(nn.Conv3d, convolution)
    return torch.ops.aten.mkldnn_convolution(
        x, conv.weight, conv.bias, cast("tuple[int, ...]", conv.padding), conv.stride, conv.dilation, conv.groups
    )


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution with kernels of one voxel, weights (K, C, 1, ...); on a CPU contiguous (B, K, ...) in one product.

    PyTorch's own works in another layout there: it takes three times the memory of the result.
    """
    if x.device.type != "cpu":
        return (functional.conv3d if x.ndim == 5 else functional.conv2d)(x, weight, bias)
    weights = weight.flatten(1).expand(len(x), -1, -1)
    return torch.baddbmm(bias[None, :, None].expand(len(x), -1, 1), weights, x.flatten(2)).unflatten(2, x.shape[2:])


def normalize(x: Tensor, weight: Tensor, bias: Tensor, activate: bool, residual: Tensor | None = None) -> Tensor:
    """Instance normalisation with scale and shift (C,), then the sum with ``residual``, then leaky ReLU if wanted."""
    slope = LEAKY_SLOPE if activate else 1.0
    if _own_form(x):
        return _Normalize.apply(x, weight, bias, slope, residual)  # pyright: ignore[reportReturnType]
    out = functional.instance_norm(x, weight=weight, bias=bias, eps=EPSILON)
    if residual is not None:
        out = out + residual
    return functional.leaky_relu(out, slope, inplace=True) if activate else out


def average_pool(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Mean of each block of ``stride`` voxels."""
    if not _own_form(x):
        pool = functional.avg_pool3d if len(stride) == 3 else functional.avg_pool2d
        return pool(x, stride, stride)
    for axis, step in enumerate(stride, start=2):
        if step > 1:
            first, *others = x.unflatten(axis, (-1, step)).unbind(axis + 1)
            x = sum(others, start=first)
    return x / prod(stride)


def upsample(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolution whose stride is its kernel: every voxel becomes a block. ``weight`` is (C, O, *block)."""
    block = weight.shape[2:]
    if not _own_form(x):
        transposed = functional.conv_transpose3d if len(block) == 3 else functional.conv_transpose2d
        return transposed(x, weight, bias, stride=tuple(block))
    # Blocks do not overlap, so this is one matrix product a voxel, (C) to (block, O), and an interleaving of axes.
    batch, channels, *shape = x.shape
    matrix = weight.movedim(0, -1).movedim(0, -2).reshape(-1, channels)
    blocks = functional.linear(x.movedim(1, -1).reshape(-1, channels), matrix, bias.repeat(prod(block)))
    axes = [axis for i in range(1, 1 + len(shape)) for axis in (i, i + len(shape))]
    interleaved = blocks.view(batch, *shape, *block, -1).permute(0, *axes, -1)
    larger = [size * step for size, step in zip(shape, block, strict=True)]
    return interleaved.reshape(batch, *larger, -1).movedim(-1, 1)


def _own_form(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class _Normalize(torch.autograd.Function):
    """Instance normalisation as batch normalisation of one sample at a time.

    PyTorch's batch normalisation keeps channels-last memory, its instance normalisation does not. Sample by sample,
    what one pass writes is still in the cache when the next reads it.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float, residual: Tensor | None
    ) -> Tensor:
        out = torch.empty_like(x)
        statistics = []
        for sample in _samples(x):
            normalized, mean, inverse_std = torch.native_batch_norm(
                x[sample], weight, bias, None, None, training=True, momentum=0.0, eps=EPSILON
            )
            if residual is not None:
                normalized += residual[sample]
            torch.ops.aten.leaky_relu.out(normalized, slope, out=out[sample])
            statistics.append((mean, inverse_std))
        ctx.save_for_backward(x, weight, out, *(torch.stack(part) for part in zip(*statistics, strict=True)))
        ctx.slope = slope
        ctx.has_residual = residual is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight, out, means, inverse_stds = ctx.saved_tensors
        of_x = torch.empty_like(x)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        of_residual = torch.empty_like(x) if ctx.has_residual else None
        for sample, mean, inverse_std in zip(_samples(x), means, inverse_stds, strict=True):
            before = torch.ops.aten.leaky_relu_backward(gradient[sample], out[sample], ctx.slope, True)
            if of_residual is not None:
                of_residual[sample] = before
            of_x[sample], scale, shift = torch.ops.aten.native_batch_norm_backward(
                before, x[sample], weight, None, None, mean, inverse_std, True, EPSILON, [True, True, True]
            )
            of_weight += scale
            of_bias += shift
        return of_x, of_weight, of_bias, None, of_residual


def _samples(x: Tensor) -> list[slice]:
    return [slice(i, i + 1) for i in range(len(x))]
