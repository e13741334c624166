"""What is kept of each image while a dataset is looked through: enough to compare cases, far less than the voxels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import uniform_filter

from medseg.orientation import CANONICAL
from medseg.volume import Geometry, Volume

SKETCH = 16
"""Cells of a sketch along each axis."""
PERCENTILES = (0.5, 50.0, 99.5)
MOST_SAMPLES = 200_000
"""Voxels that intensities are judged by."""


@dataclass(frozen=True, eq=False)
class CaseRecord:
    """One image, and the mask that belongs to it.

    Attributes:
        geometry: of the first channel, as stored.
        digest: of all voxels and the array's shape; equal for equal images.
        sketch: (4096,) what the image shows, as :func:`sketch` makes it.
        intensities: of each channel the percentiles ``PERCENTILES``; NaN where no voxel is finite.
        voxels: of the mask, how many hold each value; None without a mask that could be read.
        group: what the dataset says of the case's patient.
    """

    name: str
    geometry: Geometry
    digest: str
    sketch: np.ndarray
    intensities: tuple[tuple[float, float, float], ...]
    voxels: dict[int, int] | None = None
    group: str | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Along z, y and x of the patient, whatever the order of the file's axes."""
        return self.geometry.changed(self.geometry.change_to(CANONICAL)).spacing_mm

    def with_mask(self, voxels: dict[int, int]) -> CaseRecord:
        """The record with the counts of its mask."""
        return replace(self, voxels=voxels)


def record(name: str, volumes: Sequence[Volume], group: str | None = None) -> CaseRecord:
    """The record of a case's channels."""
    digest = hashlib.blake2b(digest_size=16)
    for volume in volumes:
        digest.update(repr(volume.array.shape).encode() + np.ascontiguousarray(volume.array).data)
    first = volumes[0]
    return CaseRecord(
        name,
        first.geometry,
        digest.hexdigest(),
        sketch(first.geometry.change_to(CANONICAL).apply(first.array[0])),
        tuple(_percentiles(channel) for volume in volumes for channel in volume.array),
        group=group,
    )


def sketch(array: np.ndarray) -> np.ndarray:
    """What an image (Z, Y, X) shows, as a vector of length 1 whose products are correlations.

    The image becomes 16x16x16 means; of these, what differs from the surroundings of five cells, so that two heads or
    two abdomens are not alike for being heads or abdomens. Brightness, contrast, spacing and a little noise or a thin
    margin do not matter. An image without any detail gives zeros.
    """
    cells = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32, copy=False)
    for axis in range(3):
        cells = _means(cells, axis)
    detail = cells - uniform_filter(cells, 5, mode="nearest")
    length = float(np.linalg.norm(detail))
    return (detail / length if length > 1e-6 * float(np.abs(cells).sum()) else detail * 0).ravel()


def samples(array: np.ndarray) -> np.ndarray:
    """Finite voxels, evenly spread, at most about ``MOST_SAMPLES``."""
    flat = array.reshape(-1)[:: max(1, array.size // MOST_SAMPLES)]
    return flat[np.isfinite(flat)]


def _percentiles(array: np.ndarray) -> tuple[float, float, float]:
    values = samples(array)
    if not values.size:
        return float("nan"), float("nan"), float("nan")
    low, middle, high = np.percentile(values, PERCENTILES)
    return float(low), float(middle), float(high)


def _means(array: np.ndarray, axis: int) -> np.ndarray:
    """Means of ``SKETCH`` equal parts along an axis; voxels on a border count for both sides by their share."""
    length = array.shape[axis]
    edges = np.linspace(0, length, SKETCH + 1)
    voxels = np.arange(length)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    weights = np.maximum(overlap, 0).astype(np.float32) * np.float32(SKETCH / length)
    return np.moveaxis(np.tensordot(weights, array, axes=(1, axis)), 0, axis)
