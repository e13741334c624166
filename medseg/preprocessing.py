"""From a scan to what a network sees, and back: ``prepare`` and its inverse ``restore``.

Order of steps: orient and order the axes, crop to nonzero, normalise, resample (nnU-Net's order; Isensee et al.,
Nature Methods 2021). Each scan's ``Trace`` records what was done, so that labels and probabilities return to the
scan's own grid, whatever its orientation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from medseg import resampling
from medseg.errors import DataError
from medseg.fingerprinting import IntensityStatistics, nonzero_mask
from medseg.labels import LabelSet
from medseg.planning.plan import Configuration, Normalization, Plan
from medseg.volume import AxisChange, Box, Geometry, LabelVolume, Volume, bounding_box

if TYPE_CHECKING:
    import torch

# Locations kept per class for choosing training patches: nnU-Net's numbers.
LOCATIONS_AT_LEAST = 10_000
LOCATIONS_SHARE = 0.01
_SMALLEST_STD = 1e-8


@dataclass(frozen=True)
class Trace:
    """What was done to a scan; enough to go back.

    Attributes:
        source_shape, source_affine: the grid of the file (see :class:`medseg.volume.Geometry`).
        change: exchange and reversal of axes that came first.
        crop: the box that was kept, in the changed axes.
        shape: size (Z, Y, X) after resampling.
        thick_axis: the axis that was resampled apart, nearest neighbour, if any.
    """

    version: Literal[1]
    source_shape: tuple[int, int, int]
    source_affine: tuple[tuple[float, ...], ...]
    change: AxisChange
    crop: Box
    shape: tuple[int, int, int]
    thick_axis: int | None

    @property
    def source(self) -> Geometry:
        """The grid of the file."""
        return Geometry(self.source_shape, np.array(self.source_affine))

    @property
    def geometry(self) -> Geometry:
        """The grid of the prepared arrays."""
        return self.source.changed(self.change).cropped(self.crop).resized(self.shape)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan as a network sees it.

    Attributes:
        image: (C, Z, Y, X) float32.
        labels: (Z, Y, X) int16 indices (see :class:`medseg.labels.LabelSet`), or None without a reference.
        foreground: for each class (n, 3) int32 voxel indices where it lies; with an ignore label, one entry more with
            annotated voxels of any kind.
        trace: how to go back.
    """

    image: np.ndarray
    labels: np.ndarray | None
    foreground: tuple[np.ndarray, ...]
    trace: Trace


def prepare(
    volume: Volume, plan: Plan, configuration: Configuration, labels: LabelVolume | None = None, *, case: str
) -> Prepared:
    """Bring a scan to what the configuration's network sees.

    Args:
        labels: the reference mask with file values, on the same grid.
        case: names the scan in errors.

    Raises:
        DataError: wrong number of channels, or voxels that are NaN or infinite.
        GeometryError: image and mask lie on different grids.
        LabelError: the mask holds undeclared values.
    """
    if volume.channels != len(plan.channels):
        raise DataError(
            f"{case}: expected {len(plan.channels)} channels ({', '.join(plan.channels)}), found {volume.channels};"
            " give one file a channel in this order"
        )
    change = _axis_change(volume.geometry, plan)
    oriented = volume.changed(change)
    mask = nonzero_mask(oriented.array)
    crop = bounding_box(mask) or Box((0, 0, 0), oriented.geometry.shape)
    image = oriented.array[(slice(None), *crop.slices)].astype(np.float32)
    if not np.isfinite(image).all():
        raise DataError(
            f"{case}: {int((~np.isfinite(image)).sum())} voxels are NaN or infinite; replace them (for example by 0)"
        )
    _normalize(image, mask[crop.slices], configuration.normalization, plan.intensities)
    shape, thick_axis = target_grid(oriented.geometry.spacing_mm, crop.shape, configuration)
    trace = Trace(
        version=1,
        source_shape=volume.geometry.shape,
        source_affine=tuple(map(tuple, volume.geometry.affine.tolist())),
        change=change,
        crop=crop,
        shape=shape,
        thick_axis=thick_axis,
    )
    image = np.asarray(resampling.resize(image, shape, order=3, thick_axis=thick_axis))
    if labels is None:
        return Prepared(image, None, (), trace)
    volume.geometry.require_equal(labels.geometry, f"{case}: image", "its mask")
    indices = plan.labels.encode(labels.changed(change).array[crop.slices], where=case)
    indices = np.asarray(resampling.resize_labels(indices, shape, thick_axis=thick_axis))
    return Prepared(image, indices, locate_foreground(indices, plan.labels), trace)


def restore(labels: np.ndarray, trace: Trace) -> np.ndarray:
    """Labels of the cropped box, at the scan's own spacing (``trace.crop.shape``), on the whole grid of the file.

    Voxels outside the box become 0. Returns an array of ``trace.source_shape`` and the same type.
    """
    whole = np.zeros(trace.source.changed(trace.change).shape, dtype=labels.dtype)
    whole[trace.crop.slices] = labels
    return np.ascontiguousarray(trace.change.inverse().apply(whole))


def restore_logits(logits: torch.Tensor, trace: Trace, labels: LabelSet) -> np.ndarray:
    """Network output (K, Z, Y, X) at the prepared spacing as label indices on the grid of the file.

    Logits are interpolated linearly; the largest wins, or for regions each positive one in the declared order.
    """
    if labels.has_regions:
        decided = resampling.resize_regions(
            logits, trace.crop.shape, labels.region_order_indices, thick_axis=trace.thick_axis
        )
    else:
        decided = resampling.resize_argmax(logits, trace.crop.shape, thick_axis=trace.thick_axis)
    return restore(decided.cpu().numpy(), trace)


def restore_probabilities(logits: torch.Tensor, trace: Trace, labels: LabelSet) -> np.ndarray:
    """Network output (K, Z, Y, X) at the prepared spacing as float32 probabilities (K, Z, Y, X) on the file's grid.

    Outside the cropped box background is certain (for regions: no region is present).
    """
    resized = resampling.resize(logits.float(), trace.crop.shape, order=1, thick_axis=trace.thick_axis)
    inside = (resized.sigmoid() if labels.has_regions else resized.softmax(0)).cpu().numpy()
    whole = np.zeros((inside.shape[0], *trace.source.changed(trace.change).shape), dtype=np.float32)
    if not labels.has_regions:
        whole[0] = 1.0
    whole[(slice(None), *trace.crop.slices)] = inside
    return np.ascontiguousarray(trace.change.inverse().apply(whole))


def locate_foreground(indices: np.ndarray, labels: LabelSet) -> tuple[np.ndarray, ...]:
    """For each class up to 10,000 (or 1 %, if more) of its voxels, chosen with a fixed seed, as (n, 3) int32.

    With an ignore label one entry more: annotated voxels of any kind, so that patches see annotation.
    """
    generator = np.random.default_rng(1234)
    groups = [np.isin(indices, covered) for covered in labels.class_indices]
    if labels.ignore_index is not None:
        groups.append(indices != labels.ignore_index)
    return tuple(_sample_voxels(group, generator) for group in groups)


def _sample_voxels(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    flat = np.flatnonzero(mask)
    keep = min(len(flat), max(LOCATIONS_AT_LEAST, int(np.ceil(len(flat) * LOCATIONS_SHARE))))
    if keep < len(flat):
        flat = np.sort(generator.choice(flat, keep, replace=False))
    return np.stack(np.unravel_index(flat, mask.shape), axis=1).astype(np.int32)


def _axis_change(geometry: Geometry, plan: Plan) -> AxisChange:
    if plan.orientation == "stored":
        oriented = AxisChange((0, 1, 2), (False, False, False))
    else:
        oriented = geometry.change_to(plan.orientation)
    first, second, third = plan.axis_order
    return AxisChange(
        (oriented.order[first], oriented.order[second], oriented.order[third]),
        (oriented.flips[first], oriented.flips[second], oriented.flips[third]),
    )


def target_grid(
    spacing_mm: tuple[float, float, float], shape: tuple[int, int, int], configuration: Configuration
) -> tuple[tuple[int, int, int], int | None]:
    """Size after resampling and the axis to treat apart; in two dimensions slices keep their distance."""
    target = configuration.spacing_mm
    if configuration.dimensions == 2:
        target = (spacing_mm[0], *target)
    z, y, x = (round(old / new * size) for old, new, size in zip(spacing_mm, target, shape, strict=True))
    return (max(z, 1), max(y, 1), max(x, 1)), resampling.thick_axis(spacing_mm, target)


def _normalize(
    image: np.ndarray,
    nonzero: np.ndarray,
    normalization: tuple[Normalization, ...],
    intensities: tuple[IntensityStatistics, ...],
) -> None:
    """Normalise each channel of a (C, Z, Y, X) float32 image in place."""
    for channel, rule, statistics in zip(image, normalization, intensities, strict=True):
        match rule.scheme:
            case "ct":
                np.clip(channel, statistics.percentile_00_5, statistics.percentile_99_5, out=channel)
                channel -= statistics.mean
                channel /= max(statistics.std, _SMALLEST_STD)
            case "zscore":
                where = nonzero if rule.nonzero_only else slice(None)
                values = channel[where]
                channel[where] = (values - values.mean()) / max(values.std(), _SMALLEST_STD)
            case "rescale_to_0_1":
                channel -= channel.min()
                channel /= max(float(channel.max()), _SMALLEST_STD)
            case "rgb_to_0_1":
                channel /= 255.0
            case "none":
                pass
