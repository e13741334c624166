"""Augmentation: what a step does to a patch, that it does so alike for labels, and how often it is drawn."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from medseg.augmentation import (
    AugmentationParameters,
    AugmentationPolicy,
    Chance,
    apply,
    apply_to_images,
    apply_to_labels,
    draw,
    source_sizes,
)
from medseg.augmentation.parameters import sampling_matrices
from medseg.errors import UsageError


def untouched(batch: int = 1, channels: int = 1, dimensions: int = 3, in_plane: bool = False) -> AugmentationParameters:
    """Parameters that leave every sample as it is."""
    ones = torch.ones(batch, channels, dtype=torch.float64)
    per_axis = torch.ones(batch, channels, dimensions, dtype=torch.float64)
    return AugmentationParameters(
        rotation_radians=torch.zeros(batch, 1 if in_plane or dimensions == 2 else 3, dtype=torch.float64),
        scale=torch.ones(batch, dtype=torch.float64),
        noise_sigma=torch.zeros(batch, dtype=torch.float64),
        noise_seed=torch.arange(batch),
        blur_sigma_voxels=0 * per_axis,
        brightness=ones,
        contrast=ones,
        low_resolution=per_axis,
        inverted_gamma=ones,
        gamma=ones,
        mirror=torch.zeros(batch, dimensions, dtype=torch.bool),
    )


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def noise_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks(*shape: int, labels: int = 4, seed: int = 0) -> torch.Tensor:
    """(B, ...) integer labels in blocks of 4 voxels."""
    batch, *size = shape
    coarse = [math.ceil(n / 4) for n in size]
    few = torch.randint(0, labels, (batch, *coarse), generator=torch.Generator().manual_seed(seed))
    for axis in range(1, len(shape)):
        few = few.repeat_interleave(4, axis)
    return few[(slice(None), *(slice(n) for n in size))].contiguous()


def turned(image: torch.Tensor, degrees: tuple[float, ...], scale: float = 1.0) -> torch.Tensor:
    """One (Z, Y, X) or (Y, X) image after a turn and a scale."""
    parameters = replace(
        untouched(dimensions=image.ndim),
        rotation_radians=torch.deg2rad(values(*degrees))[None],
        scale=values(scale),
    )
    return apply_to_images(image[None, None], parameters, image.shape)[0, 0]


# --- answers a person can check


def test_without_any_step_the_centre_of_the_patch_comes_back() -> None:
    image = noise_image(2, 1, 9, 8, 7)
    labels = blocks(2, 9, 8, 7)
    images, cropped = apply(image, labels, untouched(2), (5, 4, 4))
    torch.testing.assert_close(images, image[:, :, 2:7, 2:6, 1:5], rtol=0, atol=0)
    torch.testing.assert_close(cropped, labels[:, 2:7, 2:6, 1:5], rtol=0, atol=0)


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (2, 0)), (2, (0, 1))])
def test_a_quarter_turn_is_rot90(axis: int, plane: tuple[int, int]) -> None:
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 90.0
    image = noise_image(6, 6, 6)
    expected = np.rot90(image.numpy(), axes=plane)
    np.testing.assert_allclose(turned(image, tuple(degrees)).numpy(), expected, atol=1e-4)
    parameters = replace(untouched(), rotation_radians=torch.deg2rad(values(*degrees))[None])
    labels = blocks(1, 6, 6, 6)
    np.testing.assert_array_equal(
        apply_to_labels(labels, parameters, (6, 6, 6))[0].numpy(), np.rot90(labels[0].numpy(), axes=plane)
    )


def test_a_quarter_turn_moves_a_landmark_in_2d() -> None:
    image = torch.zeros(5, 5)
    image[4, 2] = 1.0  # below the centre (+Y) ...
    result = turned(image, (90.0,))
    assert result.argmax() == 2 * 5 + 4  # ... goes to the right of it (+X)


def test_scale_two_shows_twice_the_extent() -> None:
    row = torch.arange(8.0).expand(8, 8).contiguous()
    # Offsets -1.5 -0.5 0.5 1.5 of a 4-voxel patch, doubled, about the centre 3.5.
    parameters = replace(untouched(dimensions=2), scale=values(2.0))
    result = apply_to_images(row[None, None], parameters, (4, 4))
    torch.testing.assert_close(result[0, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))


def test_outside_is_zero_in_images_and_the_border_label_in_labels() -> None:
    parameters = replace(untouched(dimensions=2), scale=values(2.0))
    labels = torch.full((1, 4, 4), 7, dtype=torch.int16)
    images, moved = apply(torch.ones(1, 1, 4, 4), labels, parameters, (4, 4), border_label=-1)
    # Offsets -3 -1 1 3 about the centre 1.5: the outer ones lie outside.
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[1:3, 1:3] = True
    torch.testing.assert_close(moved[0], torch.where(inside, 7, -1).to(torch.int16))
    torch.testing.assert_close(images[0, 0], inside.float())


def test_mirror_reverses_the_axes_of_each_sample() -> None:
    image, labels = noise_image(3, 2, 4, 5, 6), blocks(3, 4, 5, 6)
    flips = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    images, mirrored = apply(image, labels, replace(untouched(3, 2), mirror=flips), (4, 5, 6))
    torch.testing.assert_close(images[0], image[0].flip(1, 3))
    torch.testing.assert_close(images[1], image[1])
    torch.testing.assert_close(images[2], image[2].flip(2))
    torch.testing.assert_close(mirrored[0], labels[0].flip(0, 2))
    torch.testing.assert_close(mirrored[2], labels[2].flip(1))


def test_mirroring_swaps_left_and_right_labels_on_their_axis_only() -> None:
    labels = torch.tensor([[[1, 2, 3, 0], [4, 1, 1, 2]]] * 2, dtype=torch.uint8)
    flips = torch.tensor([[False, True], [True, False]])
    parameters = replace(untouched(2, dimensions=2), mirror=flips, mirror_swaps=((1, ((1, 2), (3, 4))),))
    result = apply_to_labels(labels, parameters, (2, 4))
    assert result[0].tolist() == [[0, 4, 1, 2], [1, 2, 2, 3]]
    assert result[1].tolist() == [[4, 1, 1, 2], [1, 2, 3, 0]]


def test_brightness_multiplies_its_own_channel() -> None:
    image = noise_image(2, 2, 4, 4)
    factor = torch.tensor([[1.0, 0.75], [1.25, 1.0]], dtype=torch.float64)
    result = apply_to_images(image, replace(untouched(2, 2, 2), brightness=factor), (4, 4))
    torch.testing.assert_close(result, image * factor.float()[..., None, None])


def test_contrast_stretches_about_the_mean_and_keeps_the_range() -> None:
    image = torch.tensor([[0.0, 1.0], [2.0, 5.0]])  # mean 2
    result = apply_to_images(image[None, None], replace(untouched(dimensions=2), contrast=values(1.5)[None]), (2, 2))
    assert result.flatten().tolist() == [0.0, 0.5, 2.0, 5.0]  # -1 and 6.5 are held at 0 and 5
    weaker = apply_to_images(image[None, None], replace(untouched(dimensions=2), contrast=values(0.5)[None]), (2, 2))
    assert weaker.flatten().tolist() == [1.0, 1.5, 2.0, 3.5]


@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_keeps_mean_deviation_and_order(exponent: float) -> None:
    image = 3 + 2 * noise_image(1, 2, 8, 8, 8)
    for name in ("gamma", "inverted_gamma"):
        both = torch.tensor([[exponent, 1.0]], dtype=torch.float64)
        result = apply_to_images(image, replace(untouched(1, 2), **{name: both}), (8, 8, 8))
        torch.testing.assert_close(result[0, 1], image[0, 1], rtol=0, atol=0)
        before, after = image[0, 0], result[0, 0]
        torch.testing.assert_close(after.mean(), before.mean(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(after.std(), before.std(), rtol=1e-5, atol=1e-5)
        assert torch.equal(after.flatten().argsort(), before.flatten().argsort())
        # Above 1 the exponent pushes most voxels down, and in the negative image up.
        skewed = stats.skew(after.flatten()) > stats.skew(before.flatten())
        assert skewed == ((exponent > 1) == (name == "gamma"))


def test_gamma_is_the_formula() -> None:
    image = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    raised = (image / 4) ** 1.5
    expected = (raised - raised.mean()) / raised.std() * image.std() + image.mean()
    result = apply_to_images(image[None, None], replace(untouched(dimensions=2), gamma=values(1.5)[None]), (2, 2))
    torch.testing.assert_close(result[0, 0], expected)
    negative = apply_to_images(
        -image[None, None], replace(untouched(dimensions=2), inverted_gamma=values(1.5)[None]), (2, 2)
    )
    torch.testing.assert_close(negative[0, 0], -expected)


@pytest.mark.parametrize("name", ["gamma", "inverted_gamma", "contrast"])
def test_a_constant_image_stays_constant(name: str) -> None:
    image = torch.full((1, 1, 4, 4), 3.0)
    result = apply_to_images(image, replace(untouched(dimensions=2), **{name: values(1.4)[None]}), (4, 4))
    torch.testing.assert_close(result, image)


def test_noise_has_its_deviation_is_shared_by_channels_and_belongs_to_the_sample() -> None:
    parameters = replace(untouched(2, 2), noise_sigma=values(0.1, 0.0), noise_seed=torch.tensor([5, 6]))
    image = noise_image(2, 2, 16, 16, 16)
    added = apply_to_images(image, parameters, (16, 16, 16)) - image
    assert torch.equal(added[1], torch.zeros_like(added[1]))
    torch.testing.assert_close(added[0, 0], added[0, 1], rtol=0, atol=1e-6)
    assert abs(float(added[0].mean())) < 0.005
    assert float(added[0].std()) == pytest.approx(0.1, rel=0.05)
    alone = apply_to_images(
        image[:1], replace(untouched(1, 2), noise_sigma=values(0.1), noise_seed=torch.tensor([5])), (16, 16, 16)
    )
    torch.testing.assert_close(alone[0] - image[0], added[0], rtol=0, atol=0)


# --- the same as other implementations


def test_blur_is_scipy_gaussian() -> None:
    image = noise_image(2, 1, 12, 13, 14)
    sigma = torch.tensor([[[0.5, 1.0, 0.7]], [[0.9, 0.0, 0.6]]], dtype=torch.float64)
    result = apply_to_images(image, replace(untouched(2), blur_sigma_voxels=sigma), (12, 13, 14))
    for sample, radius in enumerate([(2, 3, 3), (3, 0, 2)]):  # three standard deviations, rounded up
        expected = ndimage.gaussian_filter(
            image[sample, 0].numpy(), sigma[sample, 0].tolist(), mode="mirror", radius=radius
        )
        np.testing.assert_allclose(result[sample, 0].numpy(), expected, atol=1e-5)


def test_blur_works_on_axes_shorter_than_its_reach() -> None:
    sigma = torch.ones(1, 1, 3, dtype=torch.float64)
    image = torch.ones(1, 1, 1, 2, 8)
    result = apply_to_images(image, replace(untouched(), blur_sigma_voxels=sigma), (1, 2, 8))
    torch.testing.assert_close(result, image)


def test_low_resolution_keeps_nearest_voxels_and_blends_between_them() -> None:
    row = torch.arange(8.0).expand(1, 1, 8, 8).contiguous()
    halved = replace(untouched(dimensions=2), low_resolution=torch.tensor([[[1.0, 0.5]]]))
    # Voxels 1 3 5 7 stand for pairs; linear between the middles of the pairs, level outside.
    expected = torch.tensor([1.0, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.0])
    torch.testing.assert_close(apply_to_images(row, halved, (8, 8))[0, 0], expected.expand(8, 8))


@pytest.mark.parametrize("shape", [(11, 12, 13), (11, 14)])
def test_turn_and_scale_are_scipy_affine_transform(shape: tuple[int, ...]) -> None:
    image = noise_image(1, 2, *shape)
    patch = tuple(n - k for n, k in zip(shape, (3, 2, 5), strict=False))
    policy = AugmentationPolicy.default((4, 4, 4)[: len(shape)])
    policy = replace(policy, rotation_degrees=Chance(1.0, -80, 80), scale=Chance(1.0, 0.7, 1.4))
    drawn = draw(policy, 1, 2, torch.Generator().manual_seed(3))
    parameters = replace(untouched(1, 2, len(shape)), rotation_radians=drawn.rotation_radians, scale=drawn.scale)
    matrix = sampling_matrices(parameters)[0].numpy()
    start = [(n - m) // 2 for n, m in zip(shape, patch, strict=True)]
    middle = (np.array(patch) - 1) / 2
    offset = np.array(start) + middle - matrix @ middle
    result = apply_to_images(image, parameters, patch)
    for channel in range(2):
        expected = ndimage.affine_transform(
            image[0, channel].numpy(), matrix, offset, patch, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(result[0, channel].numpy(), expected, atol=1e-4)


# --- laws


def every_step(dimensions: int, in_plane: bool) -> AugmentationPolicy:
    policy = AugmentationPolicy.default((16,) * dimensions)
    always = {
        f.name: replace(getattr(policy, f.name), probability=1.0)
        for f in fields(policy)
        if isinstance(getattr(policy, f.name), Chance)
    }
    return replace(policy, in_plane=in_plane or dimensions == 2, **always)


CASES = [
    pytest.param((12, 14, 16), (10, 12, 12), False, id="3d"),
    pytest.param((4, 14, 16), (4, 12, 12), True, id="thick slices"),
    pytest.param((14, 16), (12, 12), True, id="2d"),
]


@pytest.mark.parametrize(("size", "patch", "in_plane"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int64])
def test_apply_is_pure(size, patch, in_plane, dtype, label_dtype) -> None:
    images, labels = noise_image(3, 2, *size).to(dtype), blocks(3, *size).to(label_dtype)
    before = images.clone(), labels.clone()
    parameters = draw(every_step(len(size), in_plane), 3, 2, torch.Generator().manual_seed(1))
    global_state = torch.get_rng_state()
    first = apply(images, labels, parameters, patch, border_label=9)
    second = apply(images, labels, parameters, patch, border_label=9)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert first[0].shape == (3, 2, *patch) and first[0].dtype == dtype and first[0].is_contiguous()
    assert first[1].shape == (3, *patch) and first[1].dtype == label_dtype
    assert torch.isfinite(first[0]).all()
    # Nothing of the result lies in the memory of the input.
    first[0].zero_(), first[1].zero_()
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


@pytest.mark.parametrize(("size", "patch", "in_plane"), CASES)
def test_a_sample_does_not_depend_on_its_neighbours(size, patch, in_plane) -> None:
    images, labels = noise_image(4, 2, *size), blocks(4, *size)
    policy = AugmentationPolicy(len(size), in_plane, Chance(0.5, -30, 30), tuple(range(len(size))))
    parameters = draw(policy, 4, 2, torch.Generator().manual_seed(11))
    together = apply(images, labels, parameters, patch)
    for sample in range(4):
        of_one = {
            f.name: getattr(parameters, f.name)[sample, None] for f in fields(parameters) if f.name != "mirror_swaps"
        }
        alone = apply(images[sample, None], labels[sample, None], AugmentationParameters(**of_one), patch)
        torch.testing.assert_close(alone[0][0], together[0][sample])
        assert torch.equal(alone[1][0], together[1][sample])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), case=st.sampled_from([(False, 3), (True, 3), (True, 2)]))
def test_labels_stay_on_their_voxels(seed: int, case: tuple[bool, int]) -> None:
    in_plane, dimensions = case
    size, patch = ((18, 20, 22), (12, 12, 12)) if dimensions == 3 else ((20, 22), (12, 12))
    policy = AugmentationPolicy(
        dimensions, in_plane, Chance(1.0, -30, 30), tuple(range(dimensions)), scale=Chance(1.0, 0.7, 1.1)
    )
    drawn = draw(policy, 2, 1, torch.Generator().manual_seed(seed))
    parameters = replace(
        untouched(2, 1, dimensions, in_plane),
        rotation_radians=drawn.rotation_radians,
        scale=drawn.scale,
        mirror=drawn.mirror,
    )
    labels = blocks(2, *size, labels=2, seed=seed % 1000)
    images, moved = apply(labels[:, None].double(), labels, parameters, patch)
    # Where the blended image is nearly pure, its label is the nearest voxel's.
    image = images[:, 0]
    pure = (image - image.round()).abs() < 0.05
    assert pure.float().mean() > 0.2
    assert torch.equal(image.round().long()[pure], moved[pure])


def test_labels_come_from_the_nearest_voxel_of_where_images_come_from() -> None:
    """On a ramp a voxel's label is its own position, so images and labels can be compared everywhere."""
    size = (24, 26, 28)
    ramp = torch.arange(size[2]).expand(1, *size).contiguous()
    parameters = replace(untouched(), rotation_radians=values(0.3, -0.2, 0.1)[None], scale=values(0.9))
    images, labels = apply(ramp[:, None].double(), ramp, parameters, (12, 12, 12))
    assert (images[0, 0] - labels[0]).abs().max() <= 0.5 + 1e-4


def test_thick_slices_are_turned_in_their_plane_only() -> None:
    policy = every_step(3, in_plane=True)
    policy = replace(policy, mirror_axes=(1, 2), noise_sigma=Chance(0, 0, 0.1))
    parameters = draw(policy, 2, 1, torch.Generator().manual_seed(4))
    slices = noise_image(2, 1, 5, 20, 20)
    whole = apply_to_images(slices, replace(parameters, **same_grey_values(2, 1)), (5, 16, 16))
    changed = slices.clone()
    changed[:, :, 2] += 1.0
    other = apply_to_images(changed, replace(parameters, **same_grey_values(2, 1)), (5, 16, 16))
    differs = (whole != other).flatten(3).any(3)[:, 0]
    assert differs.tolist() == [[False, False, True, False, False]] * 2


def same_grey_values(batch: int, channels: int) -> dict[str, torch.Tensor]:
    """Steps that mix all voxels of a channel, off; blur and low resolution stay as drawn."""
    ones = torch.ones(batch, channels)
    return {"brightness": ones, "contrast": ones, "gamma": ones, "inverted_gamma": ones}


def test_a_batch_of_the_needed_size_has_no_border_in_it() -> None:
    policy = replace(
        AugmentationPolicy.default((8, 10, 12)),
        rotation_degrees=Chance(1.0, -90, 90),
        scale=Chance(1.0, 0.5, 1.6),
    )
    parameters = draw(policy, 5, 1, torch.Generator().manual_seed(8))
    parameters = replace(untouched(5), rotation_radians=parameters.rotation_radians, scale=parameters.scale)
    sizes = source_sizes(parameters, (8, 10, 12))
    for sample, size in enumerate(sizes):
        one = replace(
            untouched(),
            rotation_radians=parameters.rotation_radians[sample, None],
            scale=parameters.scale[sample, None],
        )
        full = apply_to_images(torch.ones(1, 1, *size), one, (8, 10, 12))
        torch.testing.assert_close(full, torch.ones_like(full), rtol=0, atol=1e-4)
        if size != (8, 10, 12):
            largest = max(range(3), key=lambda axis: size[axis] / (8, 10, 12)[axis])
            smaller = [n - 2 * (axis == largest) for axis, n in enumerate(size)]
            cut = apply_to_images(torch.ones(1, 1, *smaller), one, (8, 10, 12))
            assert cut.min() < 0.999


def test_cropped_and_quarter_turned_samples_read_no_more_than_the_patch() -> None:
    assert source_sizes(untouched(2), (8, 9, 10)) == ((8, 9, 10), (8, 9, 10))
    quarter = replace(untouched(dimensions=2), rotation_radians=torch.tensor([[math.pi / 2]], dtype=torch.float64))
    assert source_sizes(quarter, (8, 8)) == ((8, 8),)
    assert source_sizes(quarter, (8, 10)) == ((10, 10),)


# --- drawing


def test_the_default_policy_depends_on_the_shape_of_the_patch() -> None:
    def angle(patch: tuple[int, ...]) -> tuple[float, bool]:
        policy = AugmentationPolicy.default(patch)
        assert policy.rotation_degrees.low == -policy.rotation_degrees.high
        return policy.rotation_degrees.high, policy.in_plane

    assert angle((128, 128, 128)) == (30, False)
    assert angle((40, 120, 100)) == (30, False)  # exactly 3 is not more than 3
    assert angle((20, 320, 256)) == (180, True)
    assert angle((96, 144)) == (180, True)
    assert angle((96, 145)) == (15, True)
    assert AugmentationPolicy.default((32, 32, 32)).mirror_axes == (0, 1, 2)
    assert AugmentationPolicy.default((32, 32), mirror_axes=[1]).mirror_axes == (1,)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    policy = every_step(3, in_plane=False)
    one, two, other = (draw(policy, 4, 2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    names = [f.name for f in fields(one) if f.name != "mirror_swaps"]
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in names)
    assert not any(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize("name", [f.name for f in fields(AugmentationPolicy) if f.type == "Chance"])
def test_turning_one_step_off_leaves_the_others_as_they_were(name: str) -> None:
    policy = every_step(3, in_plane=False)
    off = replace(policy, **{name: replace(getattr(policy, name), probability=0.0)})
    with_it, without = (draw(p, 4, 2, torch.Generator().manual_seed(1)) for p in (policy, off))
    renamed = {"rotation_degrees": "rotation_radians"}.get(name, name)
    for f in fields(with_it):
        if f.name == "mirror_swaps":
            continue
        same = torch.equal(getattr(with_it, f.name), getattr(without, f.name))
        assert same == (f.name != renamed)
    neutral = getattr(untouched(4, 2), renamed)
    assert torch.equal(getattr(without, renamed).double(), neutral.double())


SAMPLES = 20_000


@pytest.fixture(scope="module")
def many() -> AugmentationParameters:
    """Many draws of two channels from nnU-Net's policy for a cube."""
    return draw(AugmentationPolicy.default((64, 64, 64)), SAMPLES, 2, torch.Generator().manual_seed(0))


def assert_frequency(applied: torch.Tensor, probability: float) -> None:
    """Binomial test of a (B,) bool tensor; the seed is fixed, so this cannot fail by chance twice."""
    assert stats.binomtest(int(applied.sum()), len(applied), probability).pvalue > 1e-3


def assert_uniform(drawn: torch.Tensor, low: float, high: float) -> None:
    assert drawn.min() >= low and drawn.max() <= high
    assert stats.kstest(drawn.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3


def assert_around_one(drawn: torch.Tensor, low: float, high: float) -> None:
    """Half uniform below 1, half uniform above."""
    assert_frequency(drawn < 1, 0.5)
    assert_uniform(drawn[drawn < 1], low, 1)
    assert_uniform(drawn[drawn > 1], 1, high)


def test_turns_and_scales_are_drawn_as_often_and_as_far_as_in_nnunet(many: AugmentationParameters) -> None:
    turns = many.rotation_radians.any(dim=1)
    assert_frequency(turns, 0.2)
    assert_frequency(many.scale != 1, 0.2)
    assert_frequency(many.warped, 1 - 0.8 * 0.8)
    for axis in range(3):
        assert_uniform(torch.rad2deg(many.rotation_radians[turns, axis]), -30, 30)
    assert abs(np.corrcoef(many.rotation_radians[turns].T.numpy())[0, 1:]).max() < 0.06
    assert_uniform(many.scale[many.scale != 1], 0.7, 1.4)


def test_grey_value_steps_are_drawn_as_often_and_as_strongly_as_in_nnunet(many: AugmentationParameters) -> None:
    assert_frequency(many.noise_sigma != 0, 0.1)
    assert_uniform(many.noise_sigma[many.noise_sigma != 0], 0, 0.1)
    assert len(many.noise_seed.unique()) == SAMPLES
    for name, probability, low, high in [
        ("brightness", 0.15, 0.75, 1.25),
        ("contrast", 0.15, 0.75, 1.25),
        ("gamma", 0.3, 0.7, 1.5),
        ("inverted_gamma", 0.1, 0.7, 1.5),
    ]:
        drawn = getattr(many, name)
        applied = drawn != 1
        assert torch.equal(applied[:, 0], applied[:, 1])
        assert_frequency(applied[:, 0], probability)
        assert_around_one(drawn[applied[:, 0], 0], low, high)
        assert (drawn[applied[:, 0], 0] != drawn[applied[:, 0], 1]).all()


def test_blur_and_low_resolution_take_half_of_the_channels(many: AugmentationParameters) -> None:
    for drawn, neutral, probability, low in [
        (many.blur_sigma_voxels, 0.0, 0.2, 0.5),
        (many.low_resolution, 1.0, 0.25, 0.5),
    ]:
        applied = (drawn != neutral).all(dim=2)
        assert torch.equal(applied, (drawn != neutral).any(dim=2))
        assert_frequency(applied[:, 0], probability / 2)
        assert_frequency(applied.all(dim=1), probability / 4)
        for axis in range(3):
            assert_uniform(drawn[applied[:, 1], 1, axis], low, 1.0)
    kept = many.low_resolution
    assert torch.equal(kept[..., 0], kept[..., 1]) and torch.equal(kept[..., 0], kept[..., 2])
    sigma = many.blur_sigma_voxels
    assert (sigma[..., 0] != sigma[..., 1])[sigma[..., 0] > 0].all()


def test_steps_are_drawn_independently(many: AugmentationParameters) -> None:
    """Chi-square over all 8 mirrorings, and over each pair of other steps."""
    codes = (many.mirror.long() * torch.tensor([4, 2, 1])).sum(dim=1)
    assert stats.chisquare(torch.bincount(codes, minlength=8).numpy()).pvalue > 1e-3
    on = {
        "turn": many.rotation_radians.any(dim=1),
        "scale": many.scale != 1,
        "noise": many.noise_sigma != 0,
        "blur": many.blur_sigma_voxels[:, 0, 0] != 0,
        "brightness": many.brightness[:, 0] != 1,
        "contrast": many.contrast[:, 0] != 1,
        "low": many.low_resolution[:, 0, 0] != 1,
        "inverted": many.inverted_gamma[:, 0] != 1,
        "gamma": many.gamma[:, 0] != 1,
    }
    correlations = np.corrcoef(torch.stack(list(on.values())).double().numpy())
    np.fill_diagonal(correlations, 0)
    assert abs(correlations).max() < 4 / math.sqrt(SAMPLES)


def test_only_the_given_axes_are_mirrored_and_slices_only_in_plane() -> None:
    policy = AugmentationPolicy.default((20, 320, 256), mirror_axes=(0, 2))
    drawn = draw(policy, 5000, 1, torch.Generator().manual_seed(0))
    assert not drawn.mirror[:, 1].any()
    assert_frequency(drawn.mirror[:, 0], 0.5)
    assert drawn.rotation_radians.shape == (5000, 1)
    assert_uniform(torch.rad2deg(drawn.rotation_radians[drawn.rotation_radians != 0]), -180, 180)
    assert not drawn.blur_sigma_voxels[..., 0].any() and drawn.blur_sigma_voxels[..., 1].any()
    assert (drawn.low_resolution[..., 0] == 1).all() and (drawn.low_resolution[..., 1] != 1).any()


# --- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 1, 4, 4, 4, dtype=torch.float16)}, "float32"),
        ({"images": torch.zeros(2, 3, 4, 4, 4)}, "1 channels"),
        ({"images": torch.zeros(3, 1, 4, 4, 4)}, "2 samples"),
        ({"labels": torch.zeros(2, 4, 4, 5, dtype=torch.int64)}, "grid of the images"),
        ({"labels": torch.zeros(2, 4, 4, 4)}, "integer labels"),
        ({"patch_size": (4, 5, 4)}, "pad the sample"),
        ({"patch_size": (4, 4)}, "spatial axes"),
        ({"border_label": -1, "labels": torch.zeros(2, 4, 4, 4, dtype=torch.uint8)}, "border label"),
    ],
)
def test_apply_refuses_what_does_not_fit(change, message) -> None:
    arguments = {
        "images": torch.zeros(2, 1, 4, 4, 4),
        "labels": torch.zeros(2, 4, 4, 4, dtype=torch.int64),
        "parameters": untouched(2),
        "patch_size": (4, 4, 4),
    }
    with pytest.raises(UsageError, match=message):
        apply(**{**arguments, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"scale": Chance(0.2, 0.0, 1.0)},
        {"brightness": Chance(0.2, 1.1, 1.2)},
        {"low_resolution": Chance(0.2, 0.5, 1.2)},
        {"mirror_axes": (3,)},
        {"mirror_swaps": ((-1, ((1, 2),)),)},
        {"dimensions": 4},
        {"dimensions": 2},
    ],
)
def test_a_policy_refuses_what_makes_no_sense(change) -> None:
    with pytest.raises(UsageError):
        replace(AugmentationPolicy.default((8, 8, 8)), **change)
    with pytest.raises(UsageError):
        Chance(1.2, 0, 1)
    with pytest.raises(UsageError):
        Chance(0.5, 2, 1)


# --- real data


def test_structures_of_a_real_scan_keep_their_grey_value(shared) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder = shared / "data" / "hippocampus"
    name = sorted(path.name for path in (folder / "labelsTr").glob("*.nii.gz"))[0]
    image = torch.from_numpy(nibabel.load(folder / "imagesTr" / name).get_fdata(dtype=np.float32).copy())
    labels = torch.from_numpy(np.asarray(nibabel.load(folder / "labelsTr" / name).dataobj).astype(np.uint8))
    image = (image - image.mean()) / image.std()
    policy = replace(AugmentationPolicy.default(image.shape), scale=Chance(1.0, 0.7, 1.1))
    policy = replace(policy, rotation_degrees=Chance(1.0, -30, 30))
    drawn = draw(policy, 4, 1, torch.Generator().manual_seed(0))
    parameters = replace(untouched(4), rotation_radians=drawn.rotation_radians, scale=drawn.scale, mirror=drawn.mirror)
    images, moved = apply(
        image.expand(4, 1, *image.shape), labels.expand(4, *labels.shape), parameters, tuple(image.shape)
    )
    for label in (1, 2):
        before = image[labels == label].mean()
        for sample in range(4):
            inside = images[sample, 0][moved[sample] == label]
            assert len(inside) > 100
            assert float(inside.mean()) == pytest.approx(float(before), abs=0.15)
