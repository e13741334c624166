"""Resampling: answers for a pencil, then skimage and scipy as peers, then properties of the label shortcuts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize as skimage_resize

from medseg.errors import UsageError
from medseg.resampling import (
    axes,
    images,
    labels,
    onepass,
    resize,
    resize_argmax,
    resize_labels,
    resize_regions,
    thick_axis,
)

GRIDS = [
    ((17, 40, 31), (5, 77, 31)),
    ((1, 9, 9), (1, 20, 4)),
    ((30, 2, 5), (11, 9, 13)),
    ((1, 1, 1), (3, 2, 1)),
    ((4, 5, 6), (1, 1, 1)),
    ((6, 7, 8), (6, 7, 8)),
]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
sizes = st.tuples(*[st.integers(1, 7)] * 3)
new_sizes = st.tuples(*[st.integers(1, 13)] * 3)
axis_or_none = st.sampled_from([None, 0, 1, 2])
seeds = st.integers(0, 2**32 - 1)
# ``each_way`` stays the same from one example to the next.
few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def line(*values: float) -> np.ndarray:
    """A (1, 1, 1, n) image of one row."""
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def skimage_each(array: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    return np.stack([skimage_resize(c, shape, order, mode="edge", anti_aliasing=False) for c in array])


def slice_by_slice(array: np.ndarray, shape: tuple[int, ...], axis: int, in_plane) -> np.ndarray:
    """nnU-Net's separate axis: ``in_plane`` on every slice across ``axis``, then map_coordinates of order 0."""
    plane = tuple(size for a, size in enumerate(shape) if a != axis)
    resized = np.stack([in_plane(each, plane) for each in np.moveaxis(array, axis, 0)], axis)
    scale = np.array(resized.shape) / np.array(shape)
    grid = np.indices(shape).reshape(3, -1)
    where = scale[:, None] * (grid + 0.5) - 0.5
    return ndimage.map_coordinates(resized, where, order=0, mode="nearest").reshape(shape)


def masks_one_by_one(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The plain way to resize a label map: the mask of one label after the other."""
    result = np.zeros(shape, array.dtype)
    for label in np.unique(array):
        mask = skimage_resize((array == label).astype(float), shape, 1, mode="edge", anti_aliasing=False)
        result[mask >= 0.5] = label
    return result


# Answers for a pencil


@pytest.mark.parametrize(
    ("order", "old", "new"),
    [
        (0, [3, 7], [3, 3, 7, 7]),
        (0, [1, 2, 3, 4], [2, 4]),  # half-way between two voxels, the upper one is taken
        (1, [0, 1], [0, 0.25, 0.75, 1]),
        (1, [1, 2, 3, 5], [1.5, 4]),
        (1, [5], [5, 5, 5]),
        (3, [2, 2, 2], [2, 2, 2, 2, 2]),
        (3, [4], [4, 4]),
    ],
)
def test_one_row(order, old, new):
    assert resize(line(*old), (1, 1, len(new)), order).ravel() == pytest.approx(new, abs=1e-6)


def test_cubic_stays_within_the_range_of_its_input():
    step = resize(line(0, 0, 0, 1, 1, 1), (1, 1, 23), 3)
    assert step.min() == 0
    assert step.max() == 1


def test_cubic_stays_within_the_range_of_each_slice_across_a_thick_axis():
    image = np.zeros((1, 2, 1, 6), np.float32)
    image[0, :, 0, 3:] = [[1], [10]]
    resized = resize(image, (2, 1, 23), 3, thick_axis=0)
    assert resized.max(axis=(0, 2, 3)).tolist() == [1, 10]


@pytest.mark.usefixtures("each_way")
def test_a_third_class_wins_between_two():
    logits = torch.tensor([[10.0, 0], [0, 10], [9, 9]]).view(3, 1, 1, 2)
    assert resize_argmax(logits, (1, 1, 4)).flatten().tolist() == [0, 2, 2, 1]
    assert resize_argmax(logits, (1, 1, 8)).flatten().tolist() == [0, 0, 2, 2, 2, 2, 1, 1]


@pytest.mark.usefixtures("each_way")
def test_the_lowest_of_equal_classes_wins():
    logits = torch.tensor([[0.0, 1], [1, 0], [1, 0]]).view(3, 1, 1, 2)
    assert resize_argmax(logits, (1, 1, 3)).flatten().tolist() == [1, 0, 0]


@pytest.mark.usefixtures("each_way")
def test_later_regions_overwrite_earlier_ones():
    logits = torch.tensor([[1.0, 1, 1, -1], [-1, 1, -1, -1]]).view(2, 1, 1, 4)
    assert resize_regions(logits, (1, 1, 4), (7, 300)).flatten().tolist() == [7, 300, 7, 0]
    assert resize_regions(logits, (1, 1, 4), (7, 3)).dtype == torch.uint8
    assert resize_regions(logits, (1, 1, 4), (7, 300)).dtype == torch.int16
    assert resize_regions(logits, (1, 1, 4), (-1, 3)).dtype == torch.int16


def test_labels_never_blend():
    row = np.array([[[0, 0, 2, 2]]], np.int16)
    assert resize_labels(row, (1, 1, 8)).ravel().tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    assert resize_labels(row, (1, 1, 2)).ravel().tolist() == [0, 2]


def test_the_higher_of_two_labels_wins_a_draw_and_three_that_draw_give_background():
    assert resize_labels(np.array([[[1, 4]]]), (1, 1, 1)).item() == 4
    assert resize_labels(np.array([[[1, 2], [3, 4]]]), (1, 1, 1)).item() == 0


@pytest.mark.parametrize(
    ("current", "new", "axis"),
    [
        ((5, 1, 1), (1, 1, 1), 0),
        ((1, 1, 3.1), (1, 1, 1), 2),
        ((3, 1, 1), (1, 1, 1), None),
        ((1, 1, 1), (1, 4, 1), 1),
        ((5, 1, 1), (1, 1, 9), 0),  # the current grid decides
        ((5, 5, 1), (9, 1, 1), None),  # two coarse axes, although the new grid has one
        ((1, 1, 1), (1, 1, 1), None),
    ],
)
def test_thick_axis(current, new, axis):
    assert thick_axis(current, new) == axis


def test_thick_axis_has_a_threshold():
    assert thick_axis((3, 1, 1), (1, 1, 1), threshold=2) == 0


# Peers


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_resize_is_that_of_skimage(old, new, order):
    image = np.random.default_rng(0).normal(size=(2, *old)) * 100
    expected = skimage_each(image, new, order)
    np.testing.assert_allclose(resize(image, new, order), expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(resize(image.astype(np.float32), new, order), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_thick_axis_is_resized_slice_by_slice(old, new, axis, order):
    image = np.random.default_rng(0).normal(size=old)

    def in_plane(each: np.ndarray, plane: tuple[int, ...]) -> np.ndarray:
        return skimage_resize(each, plane, order, mode="edge", anti_aliasing=False)

    expected = slice_by_slice(image, new, axis, in_plane)
    np.testing.assert_allclose(resize(image[None], new, order, axis)[0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("old", [1, 2, 3, 6, 12, 48, 49, 100])
@pytest.mark.parametrize("new", [1, 5, 48, 97, 160])
def test_cubic_is_that_of_scipy_on_long_and_short_rows(old, new):
    row = np.random.default_rng(old).normal(size=old)
    expected = ndimage.zoom(row, new / old, order=3, mode="nearest", grid_mode=True).clip(row.min(), row.max())
    np.testing.assert_allclose(resize(row.reshape(1, 1, 1, -1), (1, 1, new), 3).ravel(), expected, rtol=0, atol=1e-12)


@given(sizes, new_sizes, axis_or_none, st.integers(1, 4), seeds)
@few
def test_labels_are_those_of_masks_resized_one_by_one(old, new, axis, kinds, seed):
    values = np.random.default_rng(seed).choice([-1, 0, 1, 3, 200], kinds)
    array = np.random.default_rng(seed).choice(values, old).astype(np.int16)
    expected = masks_one_by_one(array, new) if axis is None else slice_by_slice(array, new, axis, masks_one_by_one)
    np.testing.assert_array_equal(resize_labels(array, new, axis), expected)


@pytest.mark.parametrize("old", [(4, 4, 4), (1, 4, 1), (2, 3, 4)])
@pytest.mark.parametrize("new", [(13, 6, 12), (7, 11, 5), (12, 10, 10)])
def test_labels_that_draw_but_for_rounding_are_decided_alike(old, new):
    for seed in range(8):
        array = np.random.default_rng(seed).integers(0, 3, old)
        np.testing.assert_array_equal(resize_labels(array, new), masks_one_by_one(array, new))


def test_real_labels(shared: Path):
    file = shared / "data" / "hippocampus" / "labelsTr" / "hippocampus_004.nii.gz"
    array = np.asarray(nibabel.load(file).dataobj).astype(np.uint8)
    new = (50, 31, 40)
    np.testing.assert_array_equal(resize_labels(array, new), masks_one_by_one(array, new))


# The labels of logits, against resizing the logits


def plain_argmax(logits: torch.Tensor, shape: tuple[int, ...], axis: int | None) -> np.ndarray:
    full = logits if logits.dtype == torch.float64 else logits.float()
    return resize(full, shape, 1, axis).numpy().argmax(0)


def plain_regions(logits: torch.Tensor, shape: tuple[int, ...], values: list[int], axis: int | None) -> np.ndarray:
    full = logits if logits.dtype == torch.float64 else logits.float()
    result = np.zeros(shape, int)
    for region, value in zip(resize(full, shape, 1, axis).numpy(), values, strict=True):
        result[region > 0] = value
    return result


def smooth(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Logits with large regions of one class, and, being few round numbers, with many that are equal."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(np.round(ndimage.gaussian_filter(noise, (0, 2, 2, 2)) * 12))


@pytest.mark.usefixtures("each_way")
@given(
    sizes,
    new_sizes,
    axis_or_none,
    st.integers(1, 5),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.booleans(),
    seeds,
)
@few
def test_shortcuts_equal_the_plain_way(old, new, axis, channels, dtype, coarse, seed):
    logits = (
        smooth(seed, (channels, *old))
        if coarse
        else torch.from_numpy(np.random.default_rng(seed).normal(size=(channels, *old)))
    )
    logits = logits.to(dtype)
    np.testing.assert_array_equal(resize_argmax(logits, new, axis), plain_argmax(logits, new, axis))
    values = np.random.default_rng(seed).permutation(channels).tolist()
    expected = plain_regions(logits, new, values, axis)
    np.testing.assert_array_equal(resize_regions(logits, new, values, axis), expected)


@pytest.mark.usefixtures("each_way")
@given(sizes, new_sizes, axis_or_none, seeds)
@few
def test_classes_that_differ_by_a_rounding_error_are_still_exact(old, new, axis, seed):
    rng = np.random.default_rng(seed)
    first = (rng.normal(size=old) * 10.0 ** rng.integers(-3, 3, old)).astype(np.float32)
    second = np.nextafter(first, np.float32(np.inf))
    logits = torch.from_numpy(np.stack((first, second, first)))
    np.testing.assert_array_equal(resize_argmax(logits, new, axis), plain_argmax(logits, new, axis))


@pytest.mark.usefixtures("each_way")
def test_a_class_that_draws_level_by_rounding_alone_wins_if_it_is_the_lower():
    nearly = np.nextafter(np.float32(1.3), np.float32(0))
    logits = torch.tensor([nearly, 1.3]).view(2, 1, 1, 1).repeat(1, 2, 3, 5)
    expected = plain_argmax(logits, (5, 7, 11), None)
    assert set(expected.flat) == {0, 1}
    np.testing.assert_array_equal(resize_argmax(logits, (5, 7, 11)), expected)


@pytest.mark.usefixtures("each_way")
@given(sizes, new_sizes, seeds)
@few
def test_regions_that_vanish_are_still_exact(old, new, seed):
    tiny = np.random.default_rng(seed).choice(np.array([-1, 1e-45, 3e-45, 1e-38, 1], np.float32), (2, *old))
    logits = torch.from_numpy(tiny)
    np.testing.assert_array_equal(resize_regions(logits, new, [1, 2]), plain_regions(logits, new, [1, 2], None))


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("device", DEVICES)
def test_larger_volumes_have_no_seams(device, monkeypatch):
    logits = smooth(3, (5, 11, 14, 15)).float()
    new = (19, 17, 24)
    plain = plain_argmax(logits, new, None)
    whole = resize_argmax(logits, new), resize(logits, new, 1), resize_labels(plain, (13, 14, 15))
    monkeypatch.setattr(axes, "SLAB_VOXELS", 1200)
    monkeypatch.setattr(labels, "AT_ONCE", 30)
    monkeypatch.setattr(onepass, "BLOCK", (2, 3, 5))
    there = logits.to(device)
    assert torch.equal(resize_argmax(there, new).cpu(), whole[0])
    assert torch.equal(resize(there, new, 1).cpu(), whole[1])
    np.testing.assert_array_equal(resize_labels(plain, (13, 14, 15)), whole[2])
    np.testing.assert_array_equal(whole[0], plain)


@pytest.mark.usefixtures("each_way")
def test_logits_may_lie_in_memory_in_any_way():
    logits = smooth(1, (4, 9, 8, 7)).float()
    expected = resize_argmax(logits, (12, 5, 11))
    channels_last = logits.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    padded = torch.nn.functional.pad(logits, (3, 1, 2, 2, 1, 4))[:, 1:-4, 2:-2, 3:-1]
    assert torch.equal(resize_argmax(channels_last, (12, 5, 11)), expected)
    assert torch.equal(resize_argmax(padded, (12, 5, 11)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_rounded_again(dtype):
    logits = torch.randn(4, 10, 10, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    np.testing.assert_array_equal(resize_argmax(logits, (17, 18, 19)), plain_argmax(logits, (17, 18, 19), None))


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_threads_and_modes_change_nothing(mode, monkeypatch):
    monkeypatch.setattr(labels, "AT_ONCE", 30)
    monkeypatch.setattr(onepass, "BLOCK", (2, 3, 5))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    logits = smooth(1, (4, 9, 8, 7)).float()
    expected = plain_argmax(logits, (12, 5, 11), None)
    with mode():
        result = resize_argmax((logits * 1).requires_grad_(mode is torch.enable_grad), (12, 5, 11))
    np.testing.assert_array_equal(result, expected)
    assert not result.requires_grad


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize(("channels", "dtype"), [(256, torch.uint8), (257, torch.int16)])
def test_argmax_has_the_smallest_type(channels, dtype):
    logits = torch.zeros(channels, 1, 1, 2)
    logits[-1] = 1
    result = resize_argmax(logits, (1, 1, 3))
    assert result.dtype == dtype
    assert result.flatten().tolist() == [channels - 1] * 3


# The compiled pass

compiled = pytest.mark.skipif(onepass.decide is None, reason="the package was built without a C compiler")


@compiled
@given(
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(1, 30)] * 3),
    axis_or_none,
    st.permutations([0, 1, 2]),
    st.integers(1, 9),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.sampled_from([0, 1, 1000]),
    st.sampled_from([0, 3]),
    seeds,
)
@settings(max_examples=100, deadline=None)
def test_the_compiled_pass_gives_the_labels_of_blended_logits(
    old, new, axis, order, channels, block, steps, apart, seed
):
    """In any order of axes, cut into any blocks, with ``steps`` of rounding, so that many logits are equal, and with
    channels ``apart``, so that some cannot win.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(channels, *old, generator=generator)
    noise += apart * torch.randn(channels, 1, 1, 1, generator=generator)
    logits = (noise * steps).round() if steps else noise
    operators = axes.linear_operators(old, new, axis, logits.device, logits.dtype)
    full = torch.stack([images.blended(channel, operators, order) for channel in logits]).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onepass, "BLOCK", block)
        largest = onepass.labels_between(logits, operators, order, torch.uint8, regions=False)
        positive = onepass.labels_between(logits, operators, order, torch.int32, regions=True)
    np.testing.assert_array_equal(largest, full.argmax(0))
    codes = np.arange(1, channels + 1).reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(positive, np.where(full > 0, codes, 0).max(0))


@pytest.mark.parametrize("way", ["argmax", "regions"])
def test_float32_logits_take_the_compiled_pass_where_there_is_one(way, monkeypatch):
    if onepass.decide is None:
        pytest.skip("the package was built without a C compiler: PyTorch decides all labels")
    decide, blocks = onepass.decide, []

    def counted(*arguments):
        blocks.append(arguments)
        decide(*arguments)

    monkeypatch.setattr(onepass, "decide", counted)
    call = resize_argmax if way == "argmax" else partial(resize_regions, values=[1, 2])
    logits = smooth(1, (2, 9, 8, 7)).float()
    call(logits.double(), shape=(12, 5, 11))
    assert not blocks
    call(logits, shape=(12, 5, 11))
    assert len(blocks) == 2


@compiled
@pytest.mark.parametrize("code", [torch.uint8, torch.int16, torch.int32])
def test_the_compiled_pass_writes_every_type_of_code(code):
    logits = torch.tensor([[1.0, 0], [0, 1]]).view(2, 1, 1, 2)
    operators = axes.linear_operators((1, 1, 2), (1, 2, 4), None, logits.device, logits.dtype)
    result = onepass.labels_between(logits, operators, (0, 1, 2), code, regions=False)
    assert result.dtype == code
    assert result.tolist() == [[[0, 0, 1, 1]] * 2]


@compiled
def test_logits_of_another_type_or_layout_are_left_to_torch():
    logits = torch.zeros(2, 3, 4, 5)
    assert onepass.possible(logits)
    assert onepass.possible(logits[:, 1:, ::2, 2:4])
    assert not any(map(onepass.possible, (logits.double(), logits.half(), logits.transpose(2, 3), logits[..., ::2])))


@compiled
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((1, 1, 1, 2))}, "expected float32 logits"),
        ({"logits": np.zeros((1, 1, 1, 4), np.float32)[..., ::2]}, "expected float32 logits"),
        ({"logits": np.zeros((1, 1, 2), np.float32)}, "expected float32 logits"),
        ({"out": np.zeros((1, 1, 3), np.int64)}, "expected float32 logits"),
        ({"out": np.zeros((2, 1, 3), np.uint8)}, "without tables keeps its size"),
        ({"out": np.zeros((1, 1, 4), np.uint8)}, "wrong length"),
        ({"lower": np.array([0, 0, 2])}, "an index outside"),
        ({"lower": np.array([-1, 0, 1])}, "an index outside"),
        ({"order": (0, 1, 1)}, "each once"),
    ],
)
def test_the_compiled_pass_refuses_what_it_would_read_beyond(change, message):
    half = np.full(3, 0.5, np.float32)
    good = {"logits": np.zeros((1, 1, 1, 2), np.float32), "out": np.zeros((1, 1, 3), np.uint8), "order": (0, 1, 2)}
    given_values = {**good, "lower": np.array([0, 0, 1]), **change}
    tables = None, None, (given_values["lower"], np.array([0, 1, 1]), half, half)
    assert onepass.decide is not None
    with pytest.raises(ValueError, match=message):
        onepass.decide(given_values["logits"], given_values["out"], tables, given_values["order"], False)


# Kinds, types, and what is refused


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("device", DEVICES)
def test_numpy_and_torch_agree(order, device):
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    there = resize(torch.from_numpy(image).to(device), (7, 6, 4), order)
    assert there.device.type == device
    np.testing.assert_allclose(there.cpu().numpy(), resize(image, (7, 6, 4), order), atol=1e-5)


@pytest.mark.parametrize(
    ("given_type", "kept"),
    [("float16", "float16"), ("float32", "float32"), ("float64", "float64"), ("int16", "float32"), ("bool", "float32")],
)
def test_types(given_type, kept):
    ones = np.ones((1, 2, 3, 4))
    for order in (1, 3):
        assert resize(ones.astype(given_type), (3, 3, 3), order).dtype == kept
        assert resize(torch.from_numpy(ones.astype(given_type)), (3, 3, 3), order).dtype == getattr(torch, kept)
    assert resize(ones.astype(given_type), (3, 3, 3), 0).dtype == given_type
    assert resize(torch.from_numpy(ones.astype(given_type)), (3, 3, 3), 0).dtype == getattr(torch, given_type)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("order", [1, 3])
def test_half_precision_is_computed_as_float32(dtype, order):
    logits = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(resize(logits, (9, 4, 7), order), resize(logits.float(), (9, 4, 7), order).to(dtype))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", ">i2"])
def test_label_types(dtype):
    array = np.arange(8).reshape(2, 2, 2).astype(dtype)
    array.setflags(write=False)
    result = resize_labels(array, (4, 4, 4))
    assert result.dtype == array.dtype
    assert result[0, 0, 0] == 0
    assert result[3, 3, 3] == 7
    if dtype != ">i2":
        as_torch = resize_labels(torch.from_numpy(array.copy()), (4, 4, 4))
        assert as_torch.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(as_torch.numpy(), result)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_files_give_read_only_arrays_of_either_byte_order(order, dtype):
    image = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(dtype)
    expected = resize(image.astype("=f4"), (4, 4, 4), order)
    image.setflags(write=False)
    assert np.array_equal(resize(image, (4, 4, 4), order), expected)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_result_is_a_new_array(order):
    image = torch.ones(1, 2, 2, 2)
    resize(image, (2, 2, 2), order).zero_()
    assert image.min() == 1


def test_autocast_does_not_lower_the_precision():
    image = torch.randn(1, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    expected = resize(image, (9, 9, 9), 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize(image, (9, 9, 9), 3), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resize(np.ones((2, 2, 2)), (2, 2, 2)), "array: expected numpy or torch .C, Z, Y, X."),
        (lambda: resize([[1.0]], (2, 2, 2)), "found list"),
        (lambda: resize(np.ones((1, 0, 2, 2)), (2, 2, 2)), "at least one voxel"),
        (lambda: resize(np.ones((1, 2, 2, 2)), (2, 2)), "shape: expected three positive integers"),
        (lambda: resize(np.ones((1, 2, 2, 2)), (2, 2, 0)), "shape"),
        (lambda: resize(np.ones((1, 2, 2, 2)), (2, 2, 2.5)), "shape"),
        (lambda: resize(np.ones((1, 2, 2, 2)), (2, 2, 2), order=2), "order: expected 0, 1 or 3, found 2"),
        (lambda: resize(np.ones((1, 2, 2, 2)), (2, 2, 2), thick_axis=3), "thick_axis: expected 0, 1, 2 or None"),
        (lambda: resize(np.ones((1, 2, 2, 2), complex), (2, 2, 2)), "expected numbers, found complex128"),
        (lambda: resize_labels(np.ones((2, 2, 2)), (2, 2, 2)), "labels: expected integers, found float64"),
        (lambda: resize_labels(torch.ones(2, 2, 2), (2, 2, 2)), "labels: expected integers"),
        (lambda: resize_labels(np.ones((1, 2, 2, 2), int), (2, 2, 2)), "array: expected numpy or torch .Z, Y, X."),
        (lambda: resize_argmax(torch.ones(2, 2, 2), (2, 2, 2)), "array: expected"),
        (lambda: resize_argmax(torch.ones(2, 2, 2, 2, dtype=torch.int32), (2, 2, 2)), "logits: expected a floating"),
        (lambda: resize_argmax(torch.ones(0, 2, 2, 2), (2, 2, 2)), "array: expected"),
        (lambda: resize_argmax(np.ones((2, 2, 2, 2)), (2, 2, 2)), "found ndarray"),
        (lambda: resize_regions(torch.ones(2, 2, 2, 2), (2, 2, 2), [1]), "values: expected 2, one for each region"),
        (lambda: resize_regions(torch.ones(1, 2, 2, 2), (2, 2, 2), [2**40]), "values: expected integers of at most 32"),
        (lambda: thick_axis((1, 1), (1, 1, 1)), "spacing: expected three positive"),
        (lambda: thick_axis((1, 1, 1), (1, 0, 1)), "spacing: expected three positive"),
    ],
)
def test_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()
