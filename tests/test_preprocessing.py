"""Prepare and restore are inverse of each other, on any grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from examples import oblique_geometry, small_configuration, small_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import documents
from medseg.errors import DataError, GeometryError, LabelError
from medseg.fingerprinting import IntensityStatistics
from medseg.labels import LabelSet
from medseg.normalization import normalized
from medseg.planning.plan import Normalization
from medseg.preprocessing import (
    Trace,
    label_planes,
    locate_foreground,
    prepare,
    prepare_planes,
    restore,
)
from medseg.volume import Geometry, LabelVolume, Volume

ORIENTATIONS = ["".join(p) for t in itertools.product("RL", "AP", "SI") for p in itertools.permutations(t)]


def restored(logits: torch.Tensor, trace: Trace, labels: LabelSet) -> np.ndarray:
    """The mask that logits (K, Z, Y, X) at the prepared spacing give, in two slabs."""
    half = logits.shape[1] // 2
    return restore(label_planes([logits[:, :half], logits[:, half:]], trace, labels), trace, labels).array


def landmark_scan(geometry: Geometry) -> tuple[Volume, LabelVolume, np.ndarray]:
    """A ball of 7 mm in a body, placed in millimetres off every plane of symmetry, and its centre."""
    centre = geometry.to_mm((np.array(geometry.shape) - 1) * np.array([0.35, 0.6, 0.3]))
    index = np.stack(np.meshgrid(*(np.arange(size) for size in geometry.shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(geometry.to_mm(index) - centre, axis=-1)
    mask = (distance < 7).astype(np.uint8)
    image = (100 + 50 * mask).astype(np.float32)
    return Volume(image[None], geometry), LabelVolume(mask * 2, geometry), centre


@settings(max_examples=40, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    degrees=st.floats(-25, 25),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (3.2, 0.9, 0.9), (1.1, 0.8, 2.5)]),
    axis_order=st.sampled_from([(0, 1, 2), (1, 0, 2), (2, 0, 1)]),
)
def test_a_mask_returns_to_the_same_anatomy_on_the_same_grid(orientation, degrees, spacing, axis_order):
    """A landmark found at the prepared spacing comes back where it was, whatever the stored orientation."""
    geometry = oblique_geometry((22, 26, 24), spacing, orientation, degrees)
    volume, mask, centre = landmark_scan(geometry)
    plan = small_plan(small_configuration((1.3, 1.0, 1.0)), axis_order=axis_order)
    prepared = prepare(volume, plan, plan.configurations[0], mask, case="landmark")
    assert prepared.labels is not None
    logits = torch.nn.functional.one_hot(torch.from_numpy(prepared.labels).long(), 3).permute(3, 0, 1, 2).float()
    back = restored(logits, prepared.trace, plan.labels)
    assert back.shape == geometry.shape
    found = geometry.to_mm(np.argwhere(back == 2)).mean(0)
    assert np.linalg.norm(found - centre) < 0.75 * max(geometry.spacing_mm)
    overlap = 2 * np.sum((back == 2) & (mask.array == 2)) / (np.sum(back == 2) + np.sum(mask.array == 2))
    assert overlap > 0.85
    # The prepared array itself shows the landmark where its own grid says.
    there = prepared.trace.geometry.to_mm(np.argwhere(prepared.labels == 2)).mean(0)
    assert np.linalg.norm(there - centre) < 0.75 * max(geometry.spacing_mm)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL"])
def test_without_resampling_restore_is_exact(orientation):
    geometry = oblique_geometry((6, 9, 7), (2.0, 1.0, 1.5), orientation, 12)
    random = np.random.default_rng(0)
    image = random.integers(0, 2, (1, *geometry.shape)).astype(np.float32)
    image[0, 0] = 0
    mask = LabelVolume(random.integers(0, 3, geometry.shape).astype(np.int16) * (image[0] > 0), geometry)
    canonical = geometry.changed(geometry.change_to("RAS"))
    plan = small_plan(small_configuration(canonical.spacing_mm))
    prepared = prepare(Volume(image, geometry), plan, plan.configurations[0], mask, case="exact")
    assert prepared.labels is not None
    back = restore([torch.from_numpy(prepared.labels)], prepared.trace, plan.labels)
    np.testing.assert_array_equal(back.array, mask.array)
    back.geometry.require_equal(geometry, "the mask", "the scan")


def test_canonical_axes_point_to_the_right_the_front_and_up():
    geometry = Geometry.from_spacing((2, 3, 4), (1, 1, 1))
    array = np.arange(1, 25, dtype=np.float32).reshape(1, 2, 3, 4)
    volume = Volume(array, geometry)
    flipped = volume.changed(geometry.change_to("LPI"))
    plan = small_plan()
    a = prepare(volume, plan, plan.configurations[0], case="a").image
    b = prepare(flipped, plan, plan.configurations[0], case="b").image
    np.testing.assert_array_equal(a, array)
    np.testing.assert_array_equal(b, array)


def test_zeros_around_the_body_are_cropped_and_come_back_as_background():
    image = np.zeros((1, 6, 6, 6), dtype=np.float32)
    image[0, 2:5, 1:4, 3:6] = 5
    plan = small_plan()
    prepared = prepare(
        Volume(image, Geometry.from_spacing((6, 6, 6), (1, 1, 1))), plan, plan.configurations[0], case="a"
    )
    assert prepared.image.shape == (1, 3, 3, 3)
    assert prepared.trace.crop.start == (2, 1, 3)
    logits = torch.zeros(3, 3, 3, 3)
    logits[1] = 1
    labels = restored(logits, prepared.trace, plan.labels)
    assert labels.sum() == 27
    assert (labels[2:5, 1:4, 3:6] == 1).all()


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("none", [0.0, 10, 200, 190]),
        ("ct", [-4.5, -4.5, 4.5, 4.5]),
        ("zscore", [-1.0513, -0.9461, 1.0513, 0.9461]),
        ("rescale_to_0_1", [0.0, 0.05, 1.0, 0.95]),
        ("rgb_to_0_1", [0.0, 10 / 255, 200 / 255, 190 / 255]),
    ],
)
def test_normalisation_by_hand(scheme, expected):
    array = np.array([0, 10, 200, 190], dtype=np.float32).reshape(1, 1, 2, 2)
    # A nonzero frame keeps the crop from removing the voxel of value zero.
    plan = small_plan(small_configuration(scheme=scheme))
    geometry = Geometry.from_spacing((1, 2, 2), (1, 1, 1))
    image = prepare(Volume(array, geometry), plan, plan.configurations[0], case="a").image
    np.testing.assert_allclose(image.ravel(), expected, atol=1e-3)


@pytest.mark.parametrize("scheme", ["none", "ct", "zscore", "rescale_to_0_1", "rgb_to_0_1"])
@pytest.mark.parametrize("nonzero_only", [False, True])
def test_normalisation_is_the_same_a_few_planes_at_a_time(scheme, nonzero_only, monkeypatch):
    monkeypatch.setattr("medseg.normalization._AT_ONCE", 50)
    random = np.random.default_rng(0)
    array = random.normal(90, 40, (9, 5, 6)).astype(np.float32)
    array[random.random(array.shape) < 0.3] = 0
    statistics = IntensityStatistics(100.0, 100.0, 20.0, 0.0, 200.0, 60.0, 150.0)
    mask = array != 0
    channel = normalized(array, Normalization(scheme, nonzero_only), statistics, mask, "a")
    found = torch.cat([channel.planes(start, min(start + 4, 9)) for start in range(0, 9, 4)]).numpy()
    where = mask if nonzero_only and scheme == "zscore" else np.ones_like(mask)
    values = array[where].astype(float)
    expected = array.astype(float)
    expected[where] = {
        "none": values,
        "ct": (values.clip(60, 150) - 100) / 20,
        "zscore": (values - values.mean()) / values.std(),
        "rescale_to_0_1": (values - values.min()) / (values.max() - values.min()),
        "rgb_to_0_1": values / 255,
    }[scheme]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (3.6, 0.9, 0.9), (1.1, 0.8, 4.5)]),
    step=st.integers(1, 9),
)
def test_planes_are_those_of_the_whole_scan(orientation, spacing, step):
    geometry = oblique_geometry((11, 12, 9), spacing, orientation, 10)
    random = np.random.default_rng(0)
    volume = Volume(random.normal(50, 9, (2, *geometry.shape)).astype(np.float32), geometry)
    mask = LabelVolume(random.integers(0, 3, geometry.shape).astype(np.uint8), geometry)
    plan = small_plan(small_configuration((1.3, 1.0, 1.0), channels=2, scheme="zscore"))
    whole = prepare(volume, plan, plan.configurations[0], previous=mask, case="a")
    scan = prepare_planes(volume, plan, plan.configurations[0], mask, case="a")
    count = scan.shape[1]
    planes = [scan.planes(start, min(start + step, count)) for start in range(0, count, step)]
    found = torch.cat(planes, dim=1).numpy()
    assert scan.shape == found.shape == (4, *whole.image.shape[1:])
    np.testing.assert_allclose(found[:2], whole.image, atol=1e-4)
    assert whole.previous is not None
    np.testing.assert_array_equal(found[2:], np.stack([whole.previous == 1, whole.previous == 2]))


def test_a_two_dimensional_plan_keeps_the_distance_of_slices():
    plan = small_plan(small_configuration((0.5, 0.5), patch_size=(8, 8)))
    volume = Volume(np.ones((1, 3, 4, 5), np.float32), Geometry.from_spacing((3, 4, 5), (7, 1, 1)))
    assert prepare(volume, plan, plan.configurations[0], case="a").image.shape == (1, 3, 8, 10)


def test_locations_are_inside_their_class_and_include_annotation_where_labels_are_partial():
    labels = LabelSet({"a": (1,), "b": (2,)}, ignore=3)
    indices = np.zeros((4, 5, 6), np.int16)
    indices[1, 2, 3], indices[0] = 1, 3
    a, b, annotated = locate_foreground(indices, labels)
    assert a.tolist() == [[1, 2, 3]]
    assert b.shape == (0, 3)
    assert (annotated[:, 0] > 0).all()
    assert len(annotated) == 90


def test_the_trace_is_a_document():
    plan = small_plan()
    geometry = oblique_geometry((3, 4, 5), (2, 1, 1), "LIP", 10)
    volume = Volume(np.ones((1, *geometry.shape), np.float32), geometry)
    trace = prepare(volume, plan, plan.configurations[0], case="a").trace
    assert documents.from_json(Trace, documents.to_json(trace)) == trace


def test_bad_scans_are_refused_by_name():
    plan = small_plan()
    configuration = plan.configurations[0]
    geometry = Geometry.from_spacing((2, 2, 2), (1, 1, 1))
    good = np.ones((1, 2, 2, 2), np.float32)
    with pytest.raises(DataError, match=r"case7: expected 1 channels \(channel 0\), found 2"):
        prepare(Volume(np.ones((2, 2, 2, 2), np.float32), geometry), plan, configuration, case="case7")
    bad = good.copy()
    bad[0, 0, 0, 0], bad[0, 1, 1, 1] = np.nan, np.inf
    with pytest.raises(DataError, match="case7: 2 voxels are NaN or infinite"):
        prepare(Volume(bad, geometry), plan, configuration, case="case7")
    mask = LabelVolume(np.full((2, 2, 2), 9), geometry)
    with pytest.raises(LabelError, match=r"case7: .*9 \(8 voxels\)"):
        prepare(Volume(good, geometry), plan, configuration, mask, case="case7")
    moved = LabelVolume(np.ones((2, 2, 2), int), Geometry.from_spacing((2, 2, 2), (1, 1, 1), (0, 0, 1)))
    with pytest.raises(GeometryError, match="case7: image and its mask lie on different grids"):
        prepare(Volume(good, geometry), plan, configuration, moved, case="case7")
    moved = Volume(good, Geometry.from_spacing((2, 2, 2), (1000, 1000, 1000)))
    with pytest.raises(
        GeometryError, match=r"case7: .* 2000x2000x2000 voxels \(now 2x2x2\); its spacing .* write it in mm"
    ):
        prepare(moved, plan, configuration, case="case7")
