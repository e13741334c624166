"""Geometry: a grid small enough to follow with a pencil, then properties of every grid."""

from __future__ import annotations

import numpy as np
import pytest
from examples import geometries
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, UsageError
from medseg.volume import Box, Geometry, LabelVolume, Volume, bounding_box


def test_an_anisotropic_grid_by_hand() -> None:
    # Two slices 5 mm apart, three rows 2 mm apart, four columns 1 mm apart; first voxel at x=10, y=20, z=30.
    grid = Geometry.from_spacing((2, 3, 4), (5.0, 2.0, 1.0), (10.0, 20.0, 30.0))
    assert grid.spacing_mm == (5.0, 2.0, 1.0)
    assert grid.voxel_volume_ml == pytest.approx(0.01)
    assert grid.orientation == "RAS"
    assert grid.to_mm([1, 2, 3]).tolist() == [13.0, 24.0, 35.0]
    assert grid.to_index([13.0, 24.0, 35.0]).tolist() == [1.0, 2.0, 3.0]
    assert "2x3x4 voxels" in str(grid)
    assert "5x2x1 mm" in str(grid)


@settings(max_examples=30, deadline=None)
@given(geometries(), st.tuples(*[st.integers(1, 9)] * 3))
def test_resizing_keeps_the_outer_edges(grid: Geometry, shape: tuple[int, int, int]) -> None:
    resized = grid.resized(shape)
    np.testing.assert_allclose(grid.to_mm([-0.5] * 3), resized.to_mm([-0.5] * 3), atol=1e-6)
    np.testing.assert_allclose(grid.to_mm(np.array(grid.shape) - 0.5), resized.to_mm(np.array(shape) - 0.5), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(geometries(), st.tuples(*[st.integers(-2, 3)] * 3))
def test_cropping_moves_the_origin(grid: Geometry, start: tuple[int, int, int]) -> None:
    box = Box(start, (start[0] + 1, start[1] + 2, start[2] + 3))
    cropped = grid.cropped(box)
    assert cropped.shape == (1, 2, 3)
    np.testing.assert_allclose(cropped.to_mm([0, 1, 2]), grid.to_mm(np.add(start, (0, 1, 2))), atol=1e-9)


def test_distance_between_grids_in_voxels() -> None:
    grid = Geometry.from_spacing((3, 3, 3), (4.0, 1.0, 1.0))
    moved = Geometry.from_spacing((3, 3, 3), (4.0, 1.0, 1.0), (0.5, 0.0, 0.0))
    assert grid.distance_voxels(grid) == 0.0
    assert grid.distance_voxels(moved) == pytest.approx(0.5)
    assert grid.distance_voxels(Geometry.from_spacing((3, 3, 4), (4.0, 1.0, 1.0))) == float("inf")
    # One slice: the corners say nothing about the thickness, the grids differ all the same.
    thin, thick = (Geometry.from_spacing((1, 3, 3), (spacing, 1.0, 1.0)) for spacing in (1.0, 3.0))
    assert thin.distance_voxels(thick) == pytest.approx(2.0)
    grid.require_equal(Geometry.from_spacing((3, 3, 3), (4.0, 1.0, 1.0), (0.01, 0.0, 0.0)), "a", "b")
    with pytest.raises(GeometryError, match=r"one\.nii and two\.nii .* 0\.5 voxels apart"):
        grid.require_equal(moved, "one.nii", "two.nii")
    with pytest.raises(GeometryError, match="shapes differ"):
        grid.require_equal(Geometry.from_spacing((3, 3, 4), (4.0, 1.0, 1.0)), "a", "b")


def test_equal_grids_have_equal_hashes() -> None:
    plus, minus = np.eye(4), np.eye(4)
    minus[0, 3] = -0.0
    assert Geometry((1, 1, 1), plus) == Geometry((1, 1, 1), minus)
    assert hash(Geometry((1, 1, 1), plus)) == hash(Geometry((1, 1, 1), minus))
    assert Geometry((1, 1, 1), plus) != Geometry((1, 1, 2), plus)
    assert Geometry((1, 1, 1), plus) != "a grid"


def test_affine_is_frozen_and_copied() -> None:
    affine = np.eye(4)
    grid = Geometry((1, 1, 1), affine)
    affine[0, 0] = 9
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 2


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((0, 1, 1), {}, "three positive sizes"),
        ((1, 1), {}, "three positive sizes"),
        ((1, 1, 1), {(0, 0): np.nan}, "finite 4x4"),
        ((1, 1, 1), {(3, 0): 1.0}, "last row"),
        ((1, 1, 1), {(0, 0): 0.0}, "must be positive"),
        ((1, 1, 1), {(0, 1): 0.5}, "sheared"),
    ],
)
def test_impossible_grids(shape: tuple[int, ...], change: dict[tuple[int, int], float], message: str) -> None:
    affine = np.eye(4)
    for place, value in change.items():
        affine[place] = value
    with pytest.raises(GeometryError, match=message):
        Geometry(shape, affine)  # type: ignore[arg-type]


def test_volumes_refuse_arrays_of_another_shape() -> None:
    grid = Geometry.from_spacing((2, 3, 4), (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match=r"\(C, Z, Y, X\)"):
        Volume(np.zeros((2, 3, 4)), grid)
    with pytest.raises(GeometryError, match=r"\(Z, Y, X\)"):
        LabelVolume(np.zeros((1, 2, 3, 4), np.uint8), grid)
    with pytest.raises(UsageError, match="integers"):
        LabelVolume(np.zeros((2, 3, 4)), grid)


def test_volume_of_a_label_and_cropping() -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    array[0, 1, 2:4] = 2
    array[1, 2, 3] = 3
    mask = LabelVolume(array, Geometry.from_spacing((2, 3, 4), (5.0, 2.0, 1.0)), {"liver": 2, "all": (2, 3)})
    assert mask.volume_ml("liver") == pytest.approx(2 * 0.01)
    assert mask.volume_ml("all") == pytest.approx(3 * 0.01)
    with pytest.raises(UsageError, match="no label 'spleen' in this mask; its labels are liver, all"):
        mask.volume_ml("spleen")
    assert bounding_box(array > 0) == Box((0, 1, 2), (2, 3, 4))
    assert bounding_box(array > 5) is None
    cropped = mask.cropped(Box((0, 1, 2), (1, 2, 4)))
    assert cropped.array.tolist() == [[[2, 2]]]
    assert cropped.labels == mask.labels
    assert Volume(array[None], mask.geometry).cropped(Box((0, 1, 2), (1, 2, 4))).array.tolist() == [[[[2, 2]]]]
