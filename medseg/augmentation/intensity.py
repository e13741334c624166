"""Change the grey values of a batch, on its own device: noise, blur, brightness, contrast, resolution, gamma.

Each step works on rows, one row a channel of a sample, and only on those that take part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from medseg.augmentation.parameters import AugmentationParameters

_UPSAMPLING = {2: "bilinear", 3: "trilinear"}
# A Gaussian ends at this many standard deviations of its own, whatever other rows need.
_TRUNCATE = 3.0
_TINY = 1e-7


def change_intensities(images: Tensor, parameters: AugmentationParameters) -> None:
    """Apply every intensity transform to contiguous (B, C, *patch) images, in place."""
    _add_noise(images, parameters)
    rows = images.flatten(0, 1)
    _change(rows, parameters.blur_sigma_voxels, 0.0, _blur)
    _change(rows, parameters.brightness, 1.0, _brighten)
    _change(rows, parameters.contrast, 1.0, _contrast)
    _change(rows, parameters.low_resolution, 1.0, _coarsen)
    _change(rows, parameters.inverted_gamma, 1.0, _inverted_gamma)
    _change(rows, parameters.gamma, 1.0, _gamma)


def _change(rows: Tensor, values: Tensor, neutral: float, transform: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the rows whose (B, C, ...) values are not neutral by ``transform(those rows, their values)``."""
    values = values.flatten(0, 1)
    chosen = (values.view(len(values), -1) != neutral).any(dim=1).nonzero().flatten()
    if len(chosen):
        index = chosen.to(rows.device, non_blocking=True)
        rows.index_copy_(0, index, transform(rows.index_select(0, index), values[chosen]))


def _add_noise(images: Tensor, parameters: AugmentationParameters) -> None:
    for sample in parameters.noise_sigma.nonzero().flatten().tolist():
        generator = Generator(images.device).manual_seed(int(parameters.noise_seed[sample]))
        noise = torch.randn(images.shape[2:], generator=generator, dtype=images.dtype, device=images.device)
        images[sample].add_(noise, alpha=float(parameters.noise_sigma[sample]))


def _blur(rows: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian of (N, D) standard deviations, separable, reflected at the border."""
    for axis in range(1, rows.ndim):
        along = sigma[:, axis - 1]
        radius = int(torch.ceil(_TRUNCATE * along.max()))
        if not radius:
            continue
        taps = torch.arange(-radius, radius + 1)
        weights = torch.exp(-0.5 * (taps / along[:, None].clamp_min(_TINY)) ** 2)
        weights = weights * (taps.abs() <= torch.ceil(_TRUNCATE * along[:, None]))
        weights = weights / weights.sum(dim=1, keepdim=True)
        last = rows.shape[axis] - 1
        inside = torch.arange(-radius, last + radius + 1, device=rows.device).abs()
        inside = (last - (last - inside).abs()).clamp_min(0)
        padded = rows.index_select(axis, inside)
        # Shifted sums: a few passes over memory, where a one-channel convolution is ten times slower on a CPU.
        rows = torch.zeros_like(rows)
        for tap in range(len(taps)):
            rows.addcmul_(padded.narrow(axis, tap, last + 1), _per_row(weights[:, tap], rows))
    return rows


def _brighten(rows: Tensor, factor: Tensor) -> Tensor:
    return rows.mul_(_per_row(factor, rows))


def _contrast(rows: Tensor, factor: Tensor) -> Tensor:
    """Stretch about each row's mean, within the row's own range."""
    flat = rows.flatten(1)
    low, high, mean = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True), flat.mean(1, keepdim=True)
    stretched = flat.sub_(mean).mul_(_per_row(factor, flat)).add_(mean)
    return torch.clamp(stretched, low, high).view_as(rows)


def _coarsen(rows: Tensor, kept: Tensor) -> Tensor:
    """Keep (N, D) parts of the voxels (nearest), then return to the full size (linear)."""
    size = rows.shape[1:]
    for row, parts in zip(rows, kept.tolist(), strict=True):
        coarse = [max(1, round(length * part)) for length, part in zip(size, parts, strict=True)]
        small = interpolate(row[None, None], coarse, mode="nearest-exact")
        row.copy_(interpolate(small, size, mode=_UPSAMPLING[len(size)])[0, 0])
    return rows


def _gamma(rows: Tensor, exponent: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return _power(flat - flat.amin(1, keepdim=True), flat, exponent, 1.0).view_as(rows)


def _inverted_gamma(rows: Tensor, exponent: Tensor) -> Tensor:
    """Gamma of the negative image."""
    flat = rows.flatten(1)
    return _power(flat.amax(1, keepdim=True) - flat, flat, exponent, -1.0).view_as(rows)


def _power(heights: Tensor, flat: Tensor, exponent: Tensor, sign: float) -> Tensor:
    """(N, V) heights above 0, scaled to 0..1 and raised, then given the mean and standard deviation of ``flat``."""
    mean = flat.mean(1, keepdim=True)
    spread = torch.linalg.vector_norm(flat.sub_(mean), dim=1, keepdim=True)
    raised = heights.div_(heights.amax(1, keepdim=True).clamp_min_(_TINY)).pow_(_per_row(exponent, heights))
    raised.sub_(raised.mean(1, keepdim=True))
    found = torch.linalg.vector_norm(raised, dim=1, keepdim=True).clamp_min_(_TINY)
    return raised.mul_(sign * spread / found).add_(mean)


def _per_row(values: Tensor, rows: Tensor) -> Tensor:
    """(N,) CPU values as (N, 1, ...) on the device and in the type of ``rows``."""
    return values.to(rows.dtype).to(rows.device, non_blocking=True).view(-1, *[1] * (rows.ndim - 1))
