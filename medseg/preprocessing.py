"""From a scan to what a network sees, and back: ``prepare`` and its inverse ``restore``.

Order of steps: orient and order the axes, crop to nonzero, normalise, resample (nnU-Net's order; Isensee et al.,
Nature Methods 2021). Each scan's ``Trace`` records what was done, so that labels and probabilities return to the
scan's own grid, whatever its orientation. Both ways can be gone a few planes at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch

from medseg import resampling
from medseg.errors import DataError, GeometryError
from medseg.labels import LabelSet
from medseg.nonzero import nonzero_box, nonzero_mask
from medseg.normalization import normalized
from medseg.orientation import AS_STORED, AxisChange
from medseg.planning.plan import Configuration, Plan
from medseg.resampling import CubicPlanes
from medseg.volume import Box, Geometry, LabelVolume, Volume

# Locations kept per class for choosing training patches: nnU-Net's numbers.
LOCATIONS_AT_LEAST = 10_000
LOCATIONS_SHARE = 0.01
# A scan that resampling would make a thousand times as large, and huge, has its spacing in another unit.
_MOST_VOXELS = 2**31
_MOST_GROWTH = 1000


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

    def inside(self, array: np.ndarray) -> np.ndarray:
        """The kept box of an array (..., Z, Y, X) on the grid of the file: a view, in the changed axes."""
        return self.change.apply(array)[(..., *self.crop.slices)]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan as a network sees it.

    Attributes:
        image: (C, Z, Y, X) float32.
        labels: (Z, Y, X) int16 indices (see :class:`medseg.labels.LabelSet`), or None without a reference.
        foreground: for each class (n, 3) int32 voxel indices where it lies; with an ignore label, one entry more with
            annotated voxels of any kind.
        trace: how to go back.
        previous: (Z, Y, X) int16 indices of a cascade's previous stage, or None.
    """

    image: np.ndarray
    labels: np.ndarray | None
    foreground: tuple[np.ndarray, ...]
    trace: Trace
    previous: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class PreparedPlanes:
    """A scan as a network sees it, made a few planes at a time: what prediction reads.

    Attributes:
        channels: the scan's channels.
        previous: the mask of a cascade's previous stage, in the changed axes and cropped, with file values; each of
            the labels' values is one more channel, 1 where it lies.
    """

    trace: Trace
    channels: tuple[CubicPlanes, ...]
    labels: LabelSet
    previous: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, Z, Y, X)."""
        more = 0 if self.previous is None else len(self.labels.values)
        return (len(self.channels) + more, *self.trace.shape)

    def planes(self, start: int, stop: int) -> torch.Tensor:
        """Planes from ``start`` to ``stop`` (C, n, Y, X) float32."""
        image = torch.empty(self.shape[0], stop - start, *self.trace.shape[1:])
        for channel, out in zip(self.channels, image, strict=False):
            out.copy_(channel.planes(start, stop))
        if self.previous is not None:
            mask = self.previous_planes(start, stop)
            for index, out in enumerate(image[len(self.channels) :], 1):
                out.copy_(mask == index)
        return image

    def previous_planes(self, start: int, stop: int) -> torch.Tensor:
        """Indices inside of the previous stage's mask from plane ``start`` to ``stop`` (n, Y, X) int16."""
        previous = self.previous
        assert previous is not None

        def read(first: int, last: int) -> torch.Tensor:
            return torch.from_numpy(self.labels.encode(previous[first:last], where="the previous stage's mask"))

        box, thick_axis = self.trace.crop.shape, self.trace.thick_axis
        return resampling.label_planes(read, box, self.trace.shape, start, stop, thick_axis)


def prepare_planes(
    volume: Volume, plan: Plan, configuration: Configuration, previous: LabelVolume | None = None, *, case: str
) -> PreparedPlanes:
    """What ``prepare`` does to a scan, to be done plane by plane; memory does not grow with the number of planes.

    (But for normalisation of nonzero voxels alone, which takes a byte a voxel.)

    Args:
        previous: in a cascade the mask of the stage before, with file values, on the scan's grid.
        case: names the scan in errors.

    Raises:
        DataError: wrong number of channels, or voxels that are NaN or infinite.
        GeometryError: scan and previous mask lie on different grids, or a spacing that no scan has.
    """
    if volume.channels != len(plan.channels):
        raise DataError(
            f"{case}: expected {len(plan.channels)} channels ({', '.join(plan.channels)}), found {volume.channels};"
            " give one file a channel in this order"
        )
    change = _axis_change(volume.geometry, plan)
    oriented = volume.changed(change)
    crop = nonzero_box(oriented.array)
    shape, thick_axis = target_grid(oriented.geometry.spacing_mm, crop.shape, configuration)
    voxels = prod(shape)
    if voxels > max(_MOST_VOXELS, _MOST_GROWTH * prod(crop.shape)):
        raise GeometryError(
            f"{case}: at the model's spacing this scan would have {'x'.join(map(str, shape))} voxels (now"
            f" {'x'.join(map(str, crop.shape))}); its spacing of {oriented.geometry.spacing_mm} mm must be wrong,"
            " write it in mm"
        )
    trace = Trace(
        version=1,
        source_shape=volume.geometry.shape,
        source_affine=tuple(map(tuple, volume.geometry.affine.tolist())),
        change=change,
        crop=crop,
        shape=shape,
        thick_axis=thick_axis,
    )
    if previous is not None:
        volume.geometry.require_equal(previous.geometry, f"{case}: image", "the mask of the previous stage")
    image = oriented.array[(slice(None), *crop.slices)]
    masked = any(rule.nonzero_only for rule in configuration.normalization)
    nonzero = nonzero_mask(image) if masked else None
    channels = [
        normalized(channel, rule, statistics, nonzero, case)
        for channel, rule, statistics in zip(image, configuration.normalization, plan.intensities, strict=True)
    ]
    return PreparedPlanes(
        trace,
        tuple(resampling.CubicPlanes.between(channel.planes, crop.shape, shape, thick_axis) for channel in channels),
        plan.labels,
        None if previous is None else previous.changed(change).array[crop.slices],
    )


def prepare(
    volume: Volume,
    plan: Plan,
    configuration: Configuration,
    labels: LabelVolume | None = None,
    previous: LabelVolume | None = None,
    *,
    case: str,
) -> Prepared:
    """Bring a scan to what the configuration's network sees.

    Args:
        labels: the reference mask with file values, on the same grid.
        previous: in a cascade the mask of the stage before, on the same grid.
        case: names the scan in errors.

    Raises:
        DataError: wrong number of channels, or voxels that are NaN or infinite.
        GeometryError: image and mask lie on different grids.
        LabelError: the mask holds undeclared values.
    """
    scan = prepare_planes(volume, plan, configuration, previous, case=case)
    trace, planes = scan.trace, scan.trace.shape[0]
    image = np.stack([channel.planes(0, planes).numpy() for channel in scan.channels])
    before = None if previous is None else scan.previous_planes(0, planes).numpy()
    if labels is None:
        return Prepared(image, None, (), trace, before)
    volume.geometry.require_equal(labels.geometry, f"{case}: image", "its mask")
    indices = plan.labels.encode(labels.changed(trace.change).array[trace.crop.slices], where=case)
    indices = np.asarray(resampling.resize_labels(indices, trace.shape, thick_axis=trace.thick_axis))
    return Prepared(image, indices, locate_foreground(indices, plan.labels), trace, before)


def restore(planes: Iterable[torch.Tensor], trace: Trace, labels: LabelSet) -> LabelVolume:
    """Labels as indices inside, on the grid of the file with file values; background lies outside the box.

    Args:
        planes: consecutive planes (n, Y, X) of the cropped box, ``trace.crop.shape`` together.
    """
    whole = np.full(trace.source_shape, labels.background, dtype=labels.dtype)
    inside = trace.inside(whole)
    first = 0
    for part in planes:
        inside[first : first + len(part)] = labels.decode(part.cpu().numpy())
        first += len(part)
    return LabelVolume(whole, trace.source, labels.meaning)


def label_planes(slabs: Iterable[torch.Tensor], trace: Trace, labels: LabelSet) -> Iterator[torch.Tensor]:
    """Indices inside (n, Y, X) of the cropped box from slabs of logits (K, n, Y, X) at the prepared spacing.

    Logits are interpolated linearly; the largest wins, or for regions each positive one in the declared order.
    """
    old, new, thick_axis = trace.shape, trace.crop.shape, trace.thick_axis
    if labels.has_regions:
        return resampling.region_planes(slabs, labels.region_order_indices, old, new, thick_axis)
    return resampling.argmax_planes(slabs, old, new, thick_axis)


def logit_planes(slabs: Iterable[torch.Tensor], trace: Trace) -> Iterator[torch.Tensor]:
    """Linearly interpolated logits (K, n, Y, X) of the cropped box from slabs (K, n, Y, X) at the prepared spacing."""
    return resampling.linear_planes(slabs, trace.shape, trace.crop.shape, trace.thick_axis)


def probabilities(logits: torch.Tensor, labels: LabelSet) -> torch.Tensor:
    """Of logits (K, ...): through a softmax, or for regions each through a sigmoid."""
    return logits.sigmoid() if labels.has_regions else logits.softmax(0)


def decide(likely: torch.Tensor, labels: LabelSet) -> torch.Tensor:
    """Indices inside (n, Y, X) of probabilities (K, n, Y, X): the largest, or regions above one half in their order."""
    if not labels.has_regions:
        return likely.argmax(0)
    decided = likely.argmax(0).zero_()
    for region, index in zip(likely, labels.region_order_indices, strict=True):
        decided[region > 0.5] = index
    return decided


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
    oriented = AS_STORED if plan.orientation == "stored" else geometry.change_to(plan.orientation)
    first, second, third = plan.axis_order
    return AxisChange(
        (oriented.order[first], oriented.order[second], oriented.order[third]),
        (oriented.flips[first], oriented.flips[second], oriented.flips[third]),
    )


def target_grid(
    spacing_mm: tuple[float, float, float], shape: tuple[int, int, int], configuration: Configuration
) -> tuple[tuple[int, int, int], int | None]:
    """Size (Z, Y, X) after resampling a grid of some spacing and shape (Z, Y, X), and the axis to treat apart, if any.

    In two dimensions slices keep their distance.
    """
    target = configuration.spacing_mm
    if configuration.dimensions == 2:
        target = (spacing_mm[0], *target)
    z, y, x = (round(old / new * size) for old, new, size in zip(spacing_mm, target, shape, strict=True))
    return (max(z, 1), max(y, 1), max(x, 1)), resampling.thick_axis(spacing_mm, target)
