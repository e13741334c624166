"""Orientation: axes exchanged and reversed by hand, then properties of every grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from examples import ORIENTATIONS, geometries
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import UsageError
from medseg.orientation import AS_STORED, OBLIQUE_DEGREES, AxisChange
from medseg.volume import Geometry, Volume


def test_reversing_an_axis_by_hand() -> None:
    grid = Geometry.from_spacing((1, 1, 4), (1.0, 1.0, 2.0))
    change = grid.change_to("LAS")
    assert change == AxisChange((0, 1, 2), (False, False, True))
    turned = grid.changed(change)
    assert turned.orientation == "LAS"
    # The last of four columns comes first: it lies at x = 6.
    assert turned.to_mm([0, 0, 0]).tolist() == [6.0, 0.0, 0.0]
    assert change.apply(np.arange(4).reshape(1, 1, 4)).ravel().tolist() == [3, 2, 1, 0]


def degrees_from_nearest(grid: Geometry) -> float:
    """Angle between a grid's axes and the nearest of the 24 orientations that do not mirror."""
    cosines = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    best = -3.0
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[order, range(3)] = signs
            if np.linalg.det(matrix) * np.linalg.det(cosines) > 0:
                best = max(best, float((matrix * cosines).sum()))
    return float(np.degrees(np.arccos(np.clip((best - 1) / 2, -1, 1))))


@settings(max_examples=40, deadline=None)
@given(geometries(), st.sampled_from(ORIENTATIONS))
def test_reorienting_keeps_every_voxel_in_its_place(grid: Geometry, wanted: str) -> None:
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=0)
    places = np.moveaxis(grid.to_mm(np.moveaxis(indices, 0, -1)), -1, 0)
    volume = Volume(places, grid)
    change = grid.change_to(wanted)
    turned = volume.changed(change)
    # Far from every orientation the stored axes count as x, y, z, so only such an order is read back by its name.
    if degrees_from_nearest(grid) < OBLIQUE_DEGREES - 1e-6 or (wanted[0] in "RL" and wanted[1] in "AP"):
        assert turned.geometry.orientation == wanted
    new_indices = np.stack(np.meshgrid(*map(np.arange, turned.geometry.shape), indexing="ij"), axis=-1)
    np.testing.assert_allclose(turned.geometry.to_mm(new_indices), np.moveaxis(turned.array, 0, -1), atol=1e-6)
    back = turned.changed(change.inverse())
    assert np.array_equal(back.array, places)
    assert back.geometry.distance_voxels(grid) < 1e-6


@pytest.mark.parametrize("orientation", ["RA", "RRS", "RASL", "XYZ", "RLS"])
def test_impossible_orientations(orientation: str) -> None:
    with pytest.raises(UsageError, match="once each"):
        Geometry.from_spacing((1, 1, 1), (1.0, 1.0, 1.0)).change_to(orientation)


@settings(max_examples=60, deadline=None)
@given(angles=st.tuples(*(st.floats(-180, 180),) * 3), flip=st.booleans())
def test_no_orientation_ever_mirrors_the_patient(angles, flip):
    """Whatever the rotation, right stays right: the change to RAS keeps the handedness that the header states."""
    a, b, c = np.deg2rad(angles)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    affine = np.eye(4)
    affine[:3, :3] = (about_z @ about_x @ about_y)[:, ::-1] * (1.5, 1.0, -1.0 if flip else 1.0)
    grid = Geometry((4, 5, 6), affine)
    canonical = grid.changed(grid.change_to("RAS"))
    # Axes (z, y, x) of a right-handed patient have a negative determinant.
    assert np.linalg.det(canonical.affine[:3, :3]) < 0
    assert canonical.change_to("RAS") == AS_STORED


def test_a_scan_far_from_every_orientation_keeps_the_order_of_its_axes():
    """Turned by 52 and 57 degrees, as short-axis scans of the heart are: the nearest order would depend on a hair."""
    a, b = np.deg2rad([51.6, -57.3])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = (about_z @ about_x)[:, ::-1]
    assert Geometry((4, 5, 6), affine).change_to("RAS").order == (0, 1, 2)
