"""From positions of slices to grids: answers with a pencil first, then any direction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dicom_examples import AXIAL
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.dicom.geometry import arrange, directions, evened, grid, to_lps
from medseg.errors import GeometryError

SPACING = (2.0, 0.5)  # between rows, between columns


def along_z(*heights: float) -> list[tuple[float, float, float]]:
    return [(-10.0, 20.0, height) for height in heights]


def test_an_axial_stack_with_a_pencil() -> None:
    found = arrange(along_z(36, 30, 33), AXIAL, SPACING, None)
    assert found.order == (1, 2, 0)
    assert not found.problem and not found.is_sheared
    geometry = grid(found, rows=4, columns=5)
    assert geometry.shape == (3, 4, 5)
    # Columns go to the patient's left (-x in RAS), rows to the back (-y), slices up.
    np.testing.assert_allclose(geometry.affine, [[0, 0, -0.5, 10], [0, -2, 0, -20], [3, 0, 0, 30], [0, 0, 0, 1]])


def test_a_sagittal_stack_with_a_pencil() -> None:
    # Rows go back (+y in LPS), columns down (-z): their cross product points to the right (-x).
    found = arrange([(7.0, 0.0, 0.0), (5.0, 0.0, 0.0)], (0, 1, 0, 0, 0, -1), (1.0, 1.0), None)
    assert found.order == (0, 1)
    geometry = grid(found, 2, 2)
    np.testing.assert_allclose(geometry.to_mm([1, 0, 0]), [-5, 0, 0])
    np.testing.assert_allclose(geometry.to_mm([0, 1, 0]), [-7, 0, -1])
    np.testing.assert_allclose(geometry.to_mm([0, 0, 1]), [-7, -1, 0])


def test_a_single_slice_is_as_thick_as_it_says() -> None:
    assert grid(arrange(along_z(3), AXIAL, SPACING, 4.0), 2, 2).spacing_mm == (4.0, 2.0, 0.5)
    assert grid(arrange(along_z(3), AXIAL, SPACING, None), 2, 2).spacing_mm == (1.0, 2.0, 0.5)


def test_positions_that_are_rounded_are_even() -> None:
    assert not arrange(along_z(0, 3.1, 6.0, 9.1, 12.0), AXIAL, SPACING, None).problem


@pytest.mark.parametrize(
    ("heights", "problem", "mendable"),
    [
        ((0, 1, 2, 4, 5), "1 slice is missing: none at 3 mm from the first, 1 mm apart", True),
        ((0, 1, 2, 6, 7), "3 slices are missing: none at 3, 4, 5 mm from the first", True),
        ((0, 1, 2, 3.4, 4.4), "unevenly spaced: 1 mm apart, but 1.4 mm after 2 mm", True),
        ((0, 1, 1, 2), "several slices lie at one position (1 mm from the first)", False),
    ],
)
def test_slices_that_make_no_even_stack(heights: tuple[float, ...], problem: str, mendable: bool) -> None:
    found = arrange(along_z(*heights), AXIAL, SPACING, None)
    assert problem in found.problem
    assert found.is_uneven == mendable


def test_slices_that_jump_sideways() -> None:
    positions = [(0, 0, 0), (0, 0, 1), (3, 0, 2), (0, 0, 3)]
    found = arrange(positions, AXIAL, (1.0, 1.0), None)
    assert "shifted against each other by up to 3 pixels" in found.problem and not found.is_uneven


@pytest.mark.parametrize("orientation", [(1, 0, 0, 1, 0, 0), (0, 0, 0, 0, 1, 0), (2, 0, 0, 0, 1, 0)])
def test_orientations_that_make_no_sense(orientation: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="no pair of directions at a right angle"):
        directions(orientation)


def test_a_tilted_gantry_with_a_pencil() -> None:
    # The table moves 5 mm along z between slices whose rows lean 30 degrees to it.
    angle = math.radians(30)
    orientation = (1, 0, 0, 0, math.cos(angle), math.sin(angle))
    found = arrange([(0, 0, 5 * index) for index in range(5)], orientation, (1.0, 1.0), None)
    assert not found.problem and found.is_sheared
    assert found.tilt_degrees == pytest.approx(30)
    # From slice to slice the corner moves sin(30) * 5 mm along the columns and cos(30) * 5 mm along the normal.
    assert found.drift == pytest.approx((2.5, 0.0))
    geometry = grid(found, rows=10, columns=10)
    assert geometry.shape == (5, 20, 10)
    assert geometry.spacing_mm == pytest.approx((5 * math.cos(angle), 1, 1))
    for index in range(5):  # every slice's corner is where it was, 2.5 rows further from slice to slice
        np.testing.assert_allclose(
            geometry.to_index(to_lps(np.array([0.0, 0, 5 * index]))), [index, 2.5 * index, 0], atol=1e-9
        )


def test_uneven_slices_get_an_even_grid_over_the_same_height() -> None:
    found = arrange(along_z(0, 1, 2, 4), AXIAL, SPACING, None)
    geometry, where = evened(found, 2, 2)
    assert geometry.shape == (5, 2, 2)
    assert geometry.spacing_mm == (1.0, 2.0, 0.5)
    np.testing.assert_allclose(where, [0, 1, 2, 2.5, 3])
    with pytest.raises(GeometryError, match="evenly spaced already"):
        evened(arrange(along_z(0, 1), AXIAL, SPACING, None), 2, 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1),
    st.booleans(),
    st.tuples(st.floats(0.3, 5), st.floats(0.3, 5), st.floats(0.3, 5)),
    st.permutations(range(4)),
)
def test_every_pixel_lies_where_the_standard_puts_it(
    quaternion: list[float], mirrored: bool, spacing: tuple[float, float, float], order: list[int]
) -> None:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    row = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)])
    column = np.array([2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)])
    across, (between, down, right) = np.cross(row, column) * (-1 if mirrored else 1), spacing
    positions = np.array([3.0, -4.0, 5.0]) + np.outer(np.array(order) * between, across)
    found = arrange(positions.tolist(), (*row, *column), (down, right), None)
    geometry = grid(found, 6, 7)
    for slot, index in enumerate(found.order):
        for i, j in ((0, 0), (5, 6), (2, 3)):  # DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1
            lps = positions[index] + row * right * j + column * down * i
            np.testing.assert_allclose(geometry.to_mm([slot, i, j]), lps * (-1, -1, 1), atol=1e-6)
