"""The same figures as DeepMind's surface-distance, on real labels and on random masks, in 2D and 3D."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medseg.metrics import assd_mm, compare, hausdorff_mm, surface_dice, surface_distances
from medseg.metrics.surface import element_areas

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (0.8, 1.5, 2.2)]


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    return pytest.importorskip("surface_distance", reason="the package surface-distance is not installed")


def expected(
    peer: ModuleType, prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it names scipy's functions by their old modules
        distances = peer.compute_surface_distances(reference, prediction, spacing)
    areas = [distances[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
    return [
        *(peer.compute_robust_hausdorff(distances, percentile) for percentile in (37, 95, 100)),
        np.average(peer.compute_average_surface_distance(distances), weights=areas),
        *(peer.compute_surface_dice_at_tolerance(distances, tolerance) for tolerance in (0.7, 1.0, 3.0)),
    ]


def found(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> list[float]:
    distances = surface_distances(prediction, reference, spacing)
    return [
        *(hausdorff_mm(distances, percentile) for percentile in (37, 95, 100)),
        assd_mm(distances),
        *(surface_dice(distances, tolerance) for tolerance in (0.7, 1.0, 3.0)),
    ]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_of_all_neighbourhoods(peer: ModuleType, spacing: tuple[float, float, float]) -> None:
    tables = peer.lookup_tables
    assert element_areas(spacing) == pytest.approx(
        tables.create_table_neighbour_code_to_surface_area(spacing), rel=1e-12
    )
    lengths = element_areas(spacing[:2])
    theirs = tables.create_table_neighbour_code_to_contour_length(spacing[:2])
    given = theirs > 0
    assert lengths[given] == pytest.approx(theirs[given], rel=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(6))
def test_random_masks(peer: ModuleType, spacing: tuple[float, float, float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(3, 14, 3))
    masks = [generator.random(shape) < density for density in generator.uniform(0.02, 0.9, 2)]
    for mask in masks:
        mask[tuple(generator.integers(0, shape))] = True
    assert found(*masks, spacing) == pytest.approx(expected(peer, *masks, spacing), rel=1e-9)
    contours = [np.pad(mask[0], 1) for mask in masks]
    if all(mask.any() for mask in contours):
        assert found(*contours, spacing[1:]) == pytest.approx(expected(peer, *contours, spacing[1:]), rel=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_hippocampus(peer: ModuleType, shared: Path, spacing: tuple[float, float, float]) -> None:
    for path in sorted((shared / "data" / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:5]:
        reference = np.asarray(nib.load(path).dataobj).T.astype(np.uint8)
        for shift in ((0, 1, -1), (2, 0, 3), (9, 9, 9)):
            prediction = np.roll(reference, shift, (0, 1, 2))
            table = compare(prediction, reference, spacing, tolerance_mm=1.0)
            for row in table.itertuples():
                figures = expected(peer, prediction == row.label, reference == row.label, spacing)
                assert [row.hausdorff95_mm, row.hausdorff_mm, row.assd_mm] == pytest.approx(figures[1:4], rel=1e-9)
                assert row.surface_dice == pytest.approx(figures[5], rel=1e-9)
                assert row.dice == peer.compute_dice_coefficient(reference == row.label, prediction == row.label)
