"""Surface distances: two voxels by pencil, shapes with known answers, properties, all pairs by force."""

from __future__ import annotations

from math import dist, hypot, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt

from medseg.errors import UsageError
from medseg.metrics import assd_mm, hausdorff_mm, surface_dice, surface_distances
from medseg.metrics.nearest import margins, nearest_mm
from medseg.metrics.surface import element_areas

ANISOTROPIC = (3.0, 1.0, 1.0)
DIAGONAL = hypot(*ANISOTROPIC)


def figures(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> list[float]:
    distances = surface_distances(prediction, reference, spacing)
    percentiles = [hausdorff_mm(distances, percentile) for percentile in (37, 93, 100)]
    return [*percentiles, assd_mm(distances), *(surface_dice(distances, tolerance) for tolerance in (0.5, 1.0, 3.0))]


def ellipsoid(semi_axes_mm: tuple[float, ...], shift_mm: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """A mask on a grid of ANISOTROPIC spacing that reaches 36 mm to each side of the origin."""
    axes = (np.arange(-36, 36.1, step) for step in ANISOTROPIC)
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    parts = zip(grid, semi_axes_mm, shift_mm, strict=True)
    return sum(((x - shift) / semi_axis) ** 2 for x, semi_axis, shift in parts) <= 1


def two_voxels(shape: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...]) -> list[np.ndarray]:
    masks = [np.zeros(shape, bool), np.zeros(shape, bool)]
    masks[0][first], masks[1][second] = True, True
    return masks


def test_pencil_two_voxels_one_apart() -> None:
    # Their eight corners lie at z = -1/2, 1/2 and at 3/2, 5/2 voxels of 3 mm: half the surface is 6 mm away, half 3 mm.
    distances = surface_distances(*two_voxels((3, 1, 1), (0, 0, 0), (2, 0, 0)), (3.0, 1.0, 2.0))
    assert distances.prediction.distances_mm.tolist() == [3.0] * 4 + [6.0] * 4
    assert hausdorff_mm(distances) == hausdorff_mm(distances, 95) == 6.0
    assert hausdorff_mm(distances, 50) == 3.0
    assert assd_mm(distances) == pytest.approx(4.5)
    assert [surface_dice(distances, tolerance) for tolerance in (2.9, 3.0, 5.9, 6.0)] == [0, 0.5, 0.5, 1]


def test_pencil_two_pixels_beside_each_other() -> None:
    distances = surface_distances(*two_voxels((1, 2), (0, 0), (0, 1)), (2.0, 1.0))
    assert distances.reference.distances_mm.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert distances.reference.area == pytest.approx(4 * hypot(2, 1) / 2)
    assert assd_mm(distances) == pytest.approx(0.5)


def test_pencil_area_of_one_voxel_and_of_a_plane() -> None:
    a, b, c = 3.0, 1.0, 2.0
    corner = hypot(a * b, b * c, a * c) / 8  # the triangle through three edge midpoints of the cell
    one = np.ones((1, 1, 1), bool)
    assert surface_distances(one, one, (a, b, c)).reference.area == pytest.approx(8 * corner)
    areas = element_areas((a, b, c))
    assert areas[[0, 0b11111111]].tolist() == [0, 0]
    assert areas[[0b00001111, 0b00110011, 0b01010101]].tolist() == [b * c, a * c, a * b]
    assert np.allclose(areas, areas[::-1])  # inside and outside share one surface


def test_pencil_lengths_of_contours() -> None:
    lengths = element_areas((3.0, 4.0))
    assert lengths[[0b0000, 0b0001, 0b0011, 0b0101, 0b0110, 0b1110, 0b1111]].tolist() == [0, 2.5, 4, 3, 5, 2.5, 0]


def test_boxes_are_exact_at_any_anisotropy() -> None:
    inner, outer = np.zeros((14, 30, 30), bool), np.zeros((14, 30, 30), bool)
    inner[4:9, 8:20, 9:18] = True
    outer[3:11, 8:24, 9:18] = True  # grown by 2 slices of 3 mm at most, and by 4 rows of 1 mm
    assert hausdorff_mm(surface_distances(outer, inner, ANISOTROPIC)) == hypot(6, 4)
    shifted = np.roll(inner, (2, 3, 0), (0, 1, 2))
    assert hausdorff_mm(surface_distances(shifted, inner, ANISOTROPIC)) == hypot(6, 3)


@pytest.mark.parametrize(
    ("semi_axes", "grown", "shift", "greatest"),
    [
        ((20, 20, 20), (23.3, 23.3, 23.3), (0, 0, 0), 3.3),
        ((20, 20, 20), (26.7, 26.7, 26.7), (0, 0, 0), 6.7),
        ((20, 20, 20), (20, 20, 20), (2.0, 3.0, 6.0), 7.0),
        ((24, 12, 16), (30, 15, 20), (0, 0, 0), 6.0),  # at the tips of the longest axis
    ],
)
def test_spheres_and_ellipsoids_within_a_voxel_diagonal(
    semi_axes: tuple[float, ...], grown: tuple[float, ...], shift: tuple[float, ...], greatest: float
) -> None:
    reference, prediction = ellipsoid(semi_axes), ellipsoid(grown, shift)
    distances = surface_distances(prediction, reference, ANISOTROPIC)
    assert abs(hausdorff_mm(distances) - greatest) < DIAGONAL / 2  # half of what is promised
    assert reference.sum() * 3 == pytest.approx(4 / 3 * pi * np.prod(semi_axes), rel=0.02)


def test_concentric_spheres() -> None:
    distances = surface_distances(ellipsoid((26.7,) * 3), ellipsoid((20,) * 3), ANISOTROPIC)
    mean_spacing = np.prod(ANISOTROPIC) ** (1 / 3)
    assert 6.7 - mean_spacing < assd_mm(distances) < 6.7
    assert hausdorff_mm(distances, 95) == pytest.approx(6.7, abs=0.1)
    assert 1 < distances.reference.area / (4 * pi * 20**2) < 1.17


MASKS = arrays(bool, st.tuples(*[st.integers(1, 5)] * 3)).filter(np.any)
SPACINGS = st.tuples(*[st.sampled_from([0.3, 0.7, 1.0, 2.5])] * 3)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    first = draw(MASKS)
    return first, draw(arrays(bool, first.shape).filter(np.any))


@given(pairs(), SPACINGS)
@settings(max_examples=40, deadline=None)
def test_symmetric(masks: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...]) -> None:
    assert figures(*masks, spacing) == pytest.approx(figures(*masks[::-1], spacing), rel=1e-12)


@given(pairs(), SPACINGS, st.tuples(*[st.integers(0, 9)] * 6))
@settings(max_examples=40, deadline=None)
def test_unmoved_by_translation(
    masks: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...], margins: tuple[int, ...]
) -> None:
    padding = list(zip(margins[::2], margins[1::2], strict=True))
    assert figures(*(np.pad(mask, padding) for mask in masks), spacing) == figures(*masks, spacing)


@given(pairs(), SPACINGS, st.permutations(range(3)), st.sets(st.integers(0, 2)))
@settings(max_examples=40, deadline=None)
def test_unmoved_by_flips_and_axis_order(
    masks: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...], axes: list[int], flipped: set[int]
) -> None:
    turned = [np.flip(mask, tuple(flipped)).transpose(axes) for mask in masks]
    found = figures(*turned, tuple(spacing[axis] for axis in axes))
    assert found == pytest.approx(figures(*masks, spacing), rel=1e-12)


@given(pairs(), SPACINGS)
@settings(max_examples=40, deadline=None)
def test_percentiles_and_tolerances_ascend(masks: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...]) -> None:
    distances = surface_distances(*masks, spacing)
    percentiles = [hausdorff_mm(distances, percentile) for percentile in (1, 25, 50, 95, 100)]
    shares = [surface_dice(distances, tolerance) for tolerance in (0.1, 0.5, 1, 5, 50)]
    assert percentiles == sorted(percentiles)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert assd_mm(distances) <= percentiles[-1] * (1 + 1e-12)


def elements(mask: np.ndarray) -> list[tuple[int, ...]]:
    padded = np.pad(mask, 1)
    corners = np.ndindex(*(length - 1 for length in padded.shape))
    return [at for at in corners if 0 < padded[tuple(slice(i, i + 2) for i in at)].mean() < 1]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.7, 0.7), (0.5, 3.0, 9.0)])
@pytest.mark.parametrize("gap", [0, 3, 90])
def test_every_pair_of_elements_by_force(spacing: tuple[float, float, float], gap: int) -> None:
    generator = np.random.default_rng(gap)
    masks = np.zeros((2, 6, 6, 8 + gap), bool)
    masks[0, ..., :5] = generator.random((6, 6, 5)) < 0.3
    masks[1, ..., gap : gap + 5] = generator.random((6, 6, 5)) < 0.3
    points = [np.array(elements(mask)) * spacing for mask in masks]
    expected = [sorted(min(dist(p, q) for q in other) for p in own) for own, other in (points, points[::-1])]
    found = surface_distances(*masks, spacing)
    assert found.prediction.distances_mm == pytest.approx(expected[0], rel=1e-12)
    assert found.reference.distances_mm == pytest.approx(expected[1], rel=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.7, 0.7), (0.5, 3.0, 0.2)])
@pytest.mark.parametrize("shape", [(3, 4, 150), (3, 700, 3), (150, 3, 3), (12, 15, 18), (1, 20, 300), (20, 300)])
def test_nearest_is_the_distance_transform(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    generator = np.random.default_rng(sum(shape))
    spacing = spacing[-len(shape) :]
    for count in (1, 3, 200):
        targets = np.zeros(shape, bool)
        targets.ravel()[generator.choice(targets.size, count, replace=False)] = True
        padding = margins(shape, spacing)
        inside = np.pad(np.ones(shape, bool), padding)
        found = nearest_mm(np.flatnonzero(inside), np.pad(targets, padding), spacing)
        assert found == pytest.approx(distance_transform_edt(~targets, sampling=spacing).ravel(), rel=1e-14)


def test_nearest_looks_on_where_a_column_is_too_long_to_count() -> None:
    spacing, targets = (1.0, 0.02, 0.2), np.zeros((1, 301, 40), bool)
    targets[0, 300, 0] = targets[0, 0, 39] = True  # 300 voxels or 6.0 mm along Y, and 7.8 mm along X
    padding = margins(targets.shape, spacing)
    padded = np.pad(targets, padding)
    origin = np.ravel_multi_index([before for before, _ in padding], padded.shape)
    assert nearest_mm(np.array([origin]), padded, spacing).tolist() == [300 * 0.02]


def test_wrong_percentile_and_tolerance() -> None:
    distances = surface_distances(np.ones((1, 1)), np.ones((1, 1)), (1, 1))
    for percentile in (0, -1, 101, float("nan")):
        with pytest.raises(UsageError, match="percentile"):
            hausdorff_mm(distances, percentile)
    with pytest.raises(UsageError, match="tolerance_mm"):
        surface_dice(distances, 0)


def test_diagonal_of_a_cube_of_voxels() -> None:
    distances = surface_distances(*two_voxels((2, 2, 2), (0, 0, 0), (1, 1, 1)), (1, 1, 1))
    assert hausdorff_mm(distances) == sqrt(3)
