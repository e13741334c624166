"""Strides, kernels, patches and the memory estimate, by pencil and as properties."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.architecture import NetworkSpec, feature_map_elements, stage_shapes
from medseg.errors import UsageError
from medseg.planning.presets import PRESETS, budget_for
from medseg.planning.topology import View, fit_patch, fits, initial_patch, network, topology


def small_network(family, encoder_blocks, decoder_blocks) -> NetworkSpec:
    return NetworkSpec(family, (2, 4), ((3, 3), (3, 3)), ((1, 1), (2, 2)), encoder_blocks, decoder_blocks)


def test_memory_of_a_plain_network():
    # Encoder 2 x 2 x 16 and 2 x 4 x 4; decoder 2 x 16 upsampled and 2 x 2 x 16; output 3 x 16.
    assert feature_map_elements(small_network("plain_unet", (2, 2), (2,)), (4, 4), 3) == 64 + 32 + 32 + 64 + 48


def test_memory_of_a_residual_network():
    # Stem 2 x 16; one block of 2 convolutions; three blocks with one projection at 4 channels; decoder as above.
    wanted = 32 + 2 * 32 + 7 * 16 + 32 + 32 + 48
    assert feature_map_elements(small_network("residual_unet", (1, 3), (1,)), (4, 4), 3) == wanted


def test_a_network_of_one_resolution_counts_its_convolutions_only():
    spec = NetworkSpec("plain_unet", (32,), ((3, 3),), ((1, 1),), (2,), ())
    assert feature_map_elements(spec, (7, 7), 2) == 2 * 32 * 49
    assert stage_shapes(spec, (7, 7)) == ((7, 7),)


@pytest.mark.parametrize(("patch", "stages", "published"), [((128,) * 3, 6, 558_319_104), ((512,) * 2, 7, 129_793_792)])
def test_memory_of_the_residual_networks_that_nnunet_states(patch, stages, published):
    dimensions = len(patch)
    strides = ((1,) * dimensions,) + ((2,) * dimensions,) * (stages - 1)
    spec = network("residual_unet", strides, ((3,) * dimensions,) * stages)
    # Theirs counts the outputs of deep supervision too: one at each resolution above the lowest.
    further_outputs = sum(3 * prod(shape) for shape in stage_shapes(spec, patch)[1:-1])
    assert feature_map_elements(spec, patch, 3) + further_outputs == published


def test_an_isotropic_patch_is_halved_down_to_four_voxels():
    strides, kernels = topology((1, 1, 1), (64, 64, 64))
    assert strides == ((1, 1, 1),) + ((2, 2, 2),) * 4
    assert kernels == ((3, 3, 3),) * 5


def test_a_coarse_axis_waits_with_flat_kernels():
    # 3 mm waits once (3 / 1), joins at 2 mm (3 / 2), and stops at 4 voxels while the others go on.
    strides, kernels = topology((3, 1, 1), (16, 64, 64))
    assert strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert kernels == ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_an_axis_exactly_twice_as_coarse_waits_too():
    strides, kernels = topology((2, 1), (64, 64))
    assert strides == ((1, 1), (1, 2), (2, 2), (2, 2), (2, 2))
    assert kernels == ((1, 3), (3, 3), (3, 3), (3, 3), (3, 3))


def test_the_lowest_resolution_always_has_full_kernels():
    assert topology((10, 1, 1), (6, 16, 16))[1] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        ((8, 8), ((1, 1), (2, 2))),
        ((7, 7), ((1, 1),)),
        ((11, 4), ((1, 1),)),
        ((12, 4), ((1, 1), (2, 1))),
        ((15, 15), ((1, 1), (2, 2), (2, 2))),
    ],
)
def test_an_axis_alone_needs_twelve_voxels_and_two_need_eight(patch, strides):
    assert topology((1, 1), patch)[0] == strides


def test_kernels_that_are_full_stay_full():
    # The first axis is the finest but too short to halve; its kernel stays 3 while the others grow coarser.
    assert topology((1, 1.5, 1.5), (6, 64, 64))[1][1:] == ((3, 3, 3),) * 4


def test_channels_double_up_to_their_limit():
    deep = (((1,) * 3,) + ((2,) * 3,) * 5, ((3,) * 3,) * 6)
    assert network("plain_unet", *deep).features == (32, 64, 128, 256, 320, 320)
    flat = (((1,) * 2,) + ((2,) * 2,) * 5, ((3,) * 2,) * 6)
    residual = network("residual_unet", *flat)
    assert residual.features == (32, 64, 128, 256, 512, 512)
    assert (residual.encoder_blocks, residual.decoder_blocks) == ((1, 3, 4, 6, 6, 6), (1,) * 5)


def test_the_first_patch_has_the_shape_of_a_cube_in_mm_inside_the_median_scan():
    assert initial_patch(View((1, 1, 1), (300, 300, 300))) == (256, 256, 256)
    # Half as many voxels along 2 mm: (256^3 / 0.5)^(1/3) = 322.5.
    assert initial_patch(View((2, 1, 1), (500, 500, 500))) == (161, 323, 323)
    assert initial_patch(View((2, 1, 1), (90.5, 500, 200))) == (90.5, 323, 200)
    assert initial_patch(View((1, 1), (3000, 1000))) == (2048, 1000)


def test_a_patch_is_rounded_up_to_the_divisor():
    fit = fit_patch(View((1, 1, 1), (36, 49.5, 35)), 3, budget_for("default")).value
    assert fit.network.divisor == (8, 8, 8)
    assert fit.patch_size == (40, 56, 40)


def test_the_axis_that_shows_most_is_shortened():
    view = View((1, 1, 1), (138, 170, 138))
    shortened, whole = (fit_patch(view, 4, budget_for(preset)) for preset in ("default", "resenc-l"))
    assert (shortened.value.patch_size, whole.value.patch_size) == ((128, 128, 128), (160, 192, 160))
    assert "always along the axis that shows the largest share" in shortened.because
    assert "is taken whole" in whole.because


@pytest.mark.parametrize(("side", "whole", "shorter"), [(100, (112, 112), (112, 96)), (128, (128, 128), (128, 112))])
def test_one_step_takes_the_last_of_equal_axes_and_passes_no_size_over(side, whole, shorter):
    # 112 is 7 x 16, so one step less is 96. 128 is 4 x 32, but 112 is a size of its own between 128 and 96.
    view = View((1, 1), (side, side))
    fit = fit_patch(view, 2, budget_for("default")).value
    assert fit.patch_size == whole
    hardly_enough = 8 * fit.elements / 510e6
    assert fit_patch(view, 2, budget_for("default", hardly_enough * 1.001)).value.patch_size == whole
    assert fit_patch(view, 2, budget_for("default", hardly_enough * 0.999)).value.patch_size == shorter


def test_plain_2d_patches_may_fill_the_memory_with_two_and_residual_with_twelve():
    assert fits(510_000_000, budget_for("default"), 2)
    assert not fits(510_000_012, budget_for("default"), 2)
    assert fits(135_000_000, budget_for("resenc-m"), 2)
    assert not fits(135_000_001, budget_for("resenc-m"), 2)
    assert fits(560_000_000, budget_for("default"), 3)
    assert not fits(560_000_001, budget_for("default"), 3)


def test_too_little_memory_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match=r"GB hold no network of preset .default.*more memory"):
        fit_patch(View((1, 1, 1), (64, 64, 64)), 100, budget_for("default", 1e-7))


@st.composite
def views(draw):
    dimensions = draw(st.sampled_from([2, 3]))
    spacing = draw(st.tuples(*[st.floats(0.2, 8)] * dimensions))
    shape = draw(st.tuples(*[st.integers(6, 1200 if dimensions == 2 else 1000)] * dimensions))
    return View(spacing, tuple(size / 2 for size in shape))


@settings(max_examples=50, deadline=None)
@given(views(), st.sampled_from(sorted(PRESETS)), st.integers(2, 30), st.floats(4, 48))
def test_patches_fit_and_are_multiples_of_the_divisor(view, preset, labels, memory_gb):
    budget = budget_for(preset, memory_gb)
    fit = fit_patch(view, labels, budget).value
    assert all(size % step == 0 for size, step in zip(fit.patch_size, fit.network.divisor, strict=True))
    assert fits(fit.elements, budget, len(fit.patch_size))
    assert fit.elements == feature_map_elements(fit.network, fit.patch_size, labels)
    lowest = stage_shapes(fit.network, fit.patch_size)[-1]
    halved = [size for size, step in zip(lowest, fit.network.divisor, strict=True) if step > 1]
    assert all(size >= 4 for size in halved)


@settings(max_examples=30, deadline=None)
@given(views(), st.sampled_from(sorted(PRESETS)), st.integers(2, 30), st.floats(4, 24), st.floats(1, 3))
def test_more_memory_never_gives_a_smaller_network(view, preset, labels, memory_gb, factor):
    less = fit_patch(view, labels, budget_for(preset, memory_gb)).value
    more = fit_patch(view, labels, budget_for(preset, memory_gb * factor)).value
    assert more.elements >= less.elements
