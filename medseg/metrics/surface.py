"""Distances between two surfaces, each element weighted by its area, and the metrics read from them.

The surface of a mask lies between voxels: each 2x2x2 neighbourhood that holds both sides contributes one element, whose
area is that of its marching-cubes triangles (Lorensen and Cline 1987). Percentiles, means and fractions weigh elements
by area, so that they do not depend on how finely a surface happens to be sampled (Nikolov et al. 2018, arXiv
1809.04430; the definitions and figures of DeepMind's surface-distance). In 2D: contours, 2x2 neighbourhoods, lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from medseg.errors import UsageError
from medseg.metrics.masks import checked_length_mm, checked_spacing, mask_pair
from medseg.metrics.nearest import margins, nearest_mm


@dataclass(frozen=True, eq=False)
class SurfaceElements:
    """The elements of one surface, nearest to the other surface first.

    Attributes:
        distances_mm: (N,) to the nearest element of the other surface, ascending; infinite where there is none.
        areas: (N,) in mm² (in 2D: lengths in mm).
    """

    distances_mm: np.ndarray
    areas: np.ndarray

    @property
    def area(self) -> float:
        """Of the whole surface, in mm² (2D: mm)."""
        return float(self.areas.sum())


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Everything the boundary metrics need: both surfaces, each with its distances to the other."""

    prediction: SurfaceElements
    reference: SurfaceElements


def surface_distances(prediction: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Distances between the surfaces of two masks; the metrics below read the result.

    Args:
        prediction: (Z, Y, X) or (Y, X); nonzero is inside. What lies outside the array counts as outside the mask.
        reference: the same shape.
        spacing_mm: one an axis.

    Raises:
        UsageError: shapes that differ, values that are not integers, or a spacing that does not fit.
    """
    masks = mask_pair(prediction, reference)
    return measure_surfaces(*masks, checked_spacing(spacing_mm, masks[0].ndim))


def hausdorff_mm(distances: SurfaceDistances, percentile: float = 100.0) -> float:
    """Hausdorff distance: the larger of the two directed percentiles of distance, weighted by area.

    Args:
        distances: of one pair of masks.
        percentile: 100 for the greatest distance, 95 for HD95: the least distance within which that share of the
            surface lies.

    Returns:
        NaN when both masks are empty, infinite when one is.

    Raises:
        UsageError: a percentile outside (0, 100].
    """
    if not 0 < percentile <= 100:
        raise UsageError(f"metrics: percentile must lie in (0, 100], found {percentile}; give 100 or 95")
    directed = [_percentile(side, percentile) for side in (distances.prediction, distances.reference)]
    return float(np.fmax(directed[0], directed[1]))


def assd_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: the mean distance over the area of both surfaces.

    Returns:
        NaN when both masks are empty, infinite when one is.
    """
    sides = distances.prediction, distances.reference
    area = sum(side.area for side in sides)
    return float(sum(side.distances_mm @ side.areas for side in sides) / area) if area else float("nan")


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Surface Dice (normalised surface distance): the share of both surfaces within a tolerance of the other.

    Returns:
        NaN when both masks are empty, 0 when one is.

    Raises:
        UsageError: a tolerance that is not a positive length.
    """
    tolerance = checked_length_mm(tolerance_mm, "tolerance_mm")
    sides = distances.prediction, distances.reference
    area = sum(side.area for side in sides)
    within = sum(side.areas[: np.searchsorted(side.distances_mm, tolerance, "right")].sum() for side in sides)
    return float(within / area) if area else float("nan")


def measure_surfaces(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]) -> SurfaceDistances:
    """``surface_distances`` of boolean masks that are checked and cropped already."""
    areas = element_areas(spacing_mm)
    codes = [_neighbour_codes(mask, spacing_mm) for mask in (prediction, reference)]
    grids = [_is_element(code) for code in codes]
    # Elements are sorted by distance and, where that is equal, by area, so that sums are the same bits in any pose.
    rank = np.argsort(np.argsort(areas, kind="stable"), kind="stable").astype(np.uint8)
    sides = []
    for code, own, other in zip(codes, grids, reversed(grids), strict=True):
        places = np.flatnonzero(own)
        kinds = code.ravel()[places]
        order = np.argsort(rank[kinds], kind="stable")
        places, kinds = places[order], kinds[order]
        distances = nearest_mm(places, other, spacing_mm)
        order = np.argsort(distances, kind="stable")
        sides.append(SurfaceElements(distances[order], areas[kinds[order]]))
    return SurfaceDistances(*sides)


@lru_cache(maxsize=64)
def element_areas(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Area in mm² of the element for each of the 256 neighbour codes (2D: length in mm, 16 codes)."""
    if len(spacing_mm) == 2:
        return _contour_lengths(*spacing_mm)
    depth, height, width = spacing_mm
    faces = np.array([height * width, depth * width, depth * height])
    return np.linalg.norm(_triangle_normals() * faces, axis=-1).sum(axis=-1)


def _contour_lengths(height: float, width: float) -> np.ndarray:
    corner = np.hypot(height, width) / 2
    lengths = np.full(16, corner)
    lengths[[0b0000, 0b1111]] = 0
    lengths[[0b0011, 0b1100]] = width
    lengths[[0b0101, 0b1010]] = height
    lengths[[0b0110, 0b1001]] = 2 * corner
    return lengths


@lru_cache(maxsize=1)
def _triangle_normals() -> np.ndarray:
    """Area vectors (256, triangles, 3) in voxels of each code's marching-cubes triangles, zero where there are fewer.

    A code and its complement have one surface; it is triangulated with at most four corners inside, where the
    classic table keeps diagonal corners apart.
    """
    from skimage.measure import marching_cubes

    normals = np.zeros((256, 5, 3))
    for code in range(1, 255):
        few = code if code.bit_count() <= 4 else 255 - code
        cube = np.array([few >> bit & 1 for bit in range(7, -1, -1)], float).reshape(2, 2, 2)
        vertices, triangles, *_ = marching_cubes(cube, 0.5, method="lorensen")
        a, b, c = vertices.astype(float)[triangles].transpose(1, 0, 2)
        normals[code, : len(triangles)] = np.cross(b - a, c - a) / 2
    return normals


def _neighbour_codes(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """The 2x2x2 neighbourhood that starts at each voxel as bits, the voxel itself the highest.

    Margins as ``nearest_mm`` needs them surround the mask.
    """
    codes = np.pad(mask.view(np.uint8), margins(mask.shape, spacing_mm))
    for axis in range(mask.ndim):
        shifted = codes << np.uint8(1 << (mask.ndim - 1 - axis))
        here = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        shifted[here] |= codes[after]
        codes = shifted
    return codes


def _is_element(codes: np.ndarray) -> np.ndarray:
    """Where a neighbourhood holds both sides: neither no bit nor all of them."""
    everything = np.uint8((1 << (1 << codes.ndim)) - 1)
    return (codes - np.uint8(1)) < everything - np.uint8(1)


def _percentile(side: SurfaceElements, percentile: float) -> float:
    if not side.areas.size:
        return float("nan")
    share = np.cumsum(side.areas) / side.areas.sum()
    place = np.searchsorted(share, percentile / 100)
    return float(side.distances_mm[min(int(place), side.areas.size - 1)])
