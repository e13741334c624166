"""The network that a budget buys: made-up machines, then any machine and dataset.

The numbers of the rule of expected Dice are fitted, and nothing here depends on them.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from examples import small_configuration, small_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.coarse_grids import FACTORS
from medseg.planning import sizing
from medseg.planning.plan import Configuration
from medseg.planning.presets import budget_for
from medseg.planning.sizing import (
    DatasetSize,
    Rate,
    Speed,
    choose_sizes,
    duration,
    expected_dice,
    suggest_budget,
    training_memory,
)
from medseg.planning.topology import View, fit_patch, network, topology
from medseg.planning.wording import configuration_values

DATASET = DatasetSize(training=8, held_out=2)
HALF_AN_HOUR = 1800.0


def machine(slowness: float = 1.0, case_s: float = 0.5) -> Speed:
    """At 1 a slow processor: a step of the whole network on two patches of 128 x 128 x 128 voxels takes two minutes."""
    rates = tuple(
        Rate(width, 0.05 * slowness, training * slowness, training / 6 * slowness)
        for width, training in ((0.25, 4.0), (0.5, 10.0), (1.0, 30.0))
    )
    return Speed("made up", "fp32", "3d_fullres", (32,), case_s, rates)


FAST, SLOW = machine(1e-4), machine()


def planned(
    patch=(128, 128, 128), median=(200.0, 250.0, 250.0), spacing=(1.0, 1.0, 1.0), batch_size: int = 2
) -> Configuration:
    own = network("plain_unet", *topology(spacing, patch))
    return replace(small_configuration(spacing, patch, batch_size=batch_size), median_shape=median, network=own)


def chosen(configuration: Configuration, speed: Speed, budget_s: float = HALF_AN_HOUR, dataset=DATASET, **others):
    return choose_sizes(small_plan(configuration), configuration, speed, dataset, budget_s, **others)


def network_of(configuration: Configuration) -> tuple[object, ...]:
    return configuration.spacing_mm, configuration.median_shape, configuration.patch_size, configuration.network


@pytest.mark.parametrize("speed", [FAST, SLOW])
def test_what_may_not_be_changed_stays(speed):
    own = planned()
    found = chosen(own, speed, dataset=replace(DATASET, coarse_dice=(1.0,) * 4), freedom="none")
    assert network_of(found.configuration) == network_of(own)
    assert (found.width, found.factor) == (1.0, 1.0)


def test_width_alone_may_be_changed():
    own = planned()
    found = chosen(own, SLOW, dataset=replace(DATASET, coarse_dice=(1.0,) * 4), freedom="width")
    assert found.width < 1
    assert network_of(replace(found.configuration, network=own.network)) == network_of(own)
    assert found.configuration.network.strides == own.network.strides
    assert all(a < b for a, b in zip(found.configuration.network.features, own.network.features, strict=True))


@pytest.mark.parametrize(("speed", "budget_s"), [(FAST, HALF_AN_HOUR), (SLOW, 1e9)])
def test_with_much_time_the_network_is_the_plan_s_own(speed, budget_s):
    own = planned()
    found = chosen(own, speed, budget_s, replace(DATASET, coarse_dice=(0.99, 0.98, 0.9, 0.8)))
    assert network_of(found.configuration) == network_of(own)
    assert "the plan's own network" in found.because


def test_a_slow_machine_takes_fewer_features_and_voxels():
    own = planned()
    found = chosen(own, SLOW)
    assert found.width < 1
    assert found.configuration.network.features[0] < own.network.features[0]
    assert prod(found.configuration.patch_size) <= prod(own.patch_size)
    assert found.expected.middle > chosen(own, SLOW, freedom="none").expected.middle


def test_where_nothing_can_be_learned_steps_are_the_shortest():
    """A network of which nothing is expected is not kept for being the plan's, nor a grid taken that shows nothing."""
    blank = replace(DATASET, coarse_dice=(0.0,) * 4)
    found, own = (chosen(planned(), machine(1000), dataset=blank, freedom=freedom) for freedom in ("all", "none"))
    assert own.steps == 1
    assert (found.width, found.factor) == (0.25, 1.0)
    assert found.step_s < own.step_s / 20


def test_a_grid_stays_where_nothing_is_known_of_coarser_ones():
    assert chosen(planned(), SLOW).factor == 1
    assert chosen(planned(), SLOW).configuration.spacing_mm == (1.0, 1.0, 1.0)


def test_a_huge_picture_is_seen_on_a_coarser_grid_or_in_smaller_parts():
    own = planned(median=(600.0, 600.0, 600.0))
    found = chosen(own, SLOW, dataset=replace(DATASET, coarse_dice=(1.0,) * 4))
    smaller = prod(found.configuration.patch_size) < prod(own.patch_size)
    assert found.factor > 1 or smaller
    assert found.configuration.spacing_mm == (found.factor,) * 3


def test_a_grid_on_which_nothing_is_left_is_not_taken():
    own = planned(median=(600.0, 600.0, 600.0))
    assert chosen(own, SLOW, dataset=replace(DATASET, coarse_dice=(0.0,) * 4)).factor == 1


def test_a_second_stage_keeps_its_grid():
    """Its first stage's mask lies on it."""
    own = replace(planned(median=(600.0, 600.0, 600.0)), previous_stage="3d_lowres")
    found = chosen(own, SLOW, dataset=replace(DATASET, coarse_dice=(1.0,) * 4))
    assert (found.factor, found.configuration.spacing_mm) == (1.0, own.spacing_mm)


def test_networks_that_the_memory_does_not_hold_are_left_out():
    own = planned()
    whole = chosen(own, FAST)
    limit = whole.memory_bytes // 2
    less = chosen(own, FAST, memory_bytes=limit)
    assert less.memory_bytes <= limit < whole.memory_bytes
    assert less.memory_bytes == training_memory(less.configuration, 3, "fp32")
    least = chosen(own, FAST, memory_bytes=1)
    assert least.memory_bytes <= less.memory_bytes


def test_a_batch_grows_with_the_time_and_not_beyond_the_memory():
    own = planned(batch_size=16)
    assert chosen(own, SLOW).configuration.batch_size == 2
    assert chosen(own, FAST, 3e5).configuration.batch_size == 16
    limit = training_memory(replace(own, batch_size=5), 3, "fp32") + 1000
    bounded = chosen(own, FAST, 3e5, memory_bytes=limit)
    assert network_of(bounded.configuration) == network_of(own)
    assert bounded.configuration.batch_size == 5


def test_the_parts_of_a_budget_with_a_pencil():
    """Ten cases of half a second are prepared, and starting takes four."""
    found = chosen(planned(), SLOW, freedom="none")
    assert found.preparation_s == 5
    assert sizing.STARTING_S + 5 + found.training_s + found.held_out_s == pytest.approx(HALF_AN_HOUR)
    step_s = 0.05 + 30 * 2 * 128**3 / 1e6
    assert found.step_s == pytest.approx(step_s)
    assert found.steps == int(found.training_s / step_s)
    # a scan of 200 x 250 x 250 is seen in 3 windows along each axis, 27 in all
    case_s = 27 * 5 * 128**3 / 1e6 + sizing.MEASURED_CASE * 0.5
    assert not found.measures_all
    assert found.held_out_s == sizing.HELD_OUT_SHARE * HALF_AN_HOUR < 2 * case_s
    ample = chosen(planned(), SLOW, 1e5, freedom="none")
    assert ample.measures_all
    assert ample.held_out_s == pytest.approx(2 * case_s)


def test_slices_are_counted_in_prediction():
    """In two dimensions every slice is predicted: 8 slices of one window."""
    flat = planned((128, 128), (128.0, 128.0), (1.0, 1.0))
    found = chosen(flat, SLOW, 1e5, freedom="none")
    assert found.held_out_s == pytest.approx(2 * (8 * 5 * 128**2 / 1e6 + sizing.MEASURED_CASE * 0.5))


def test_preparing_leaves_training_its_least():
    found = chosen(planned(), SLOW, 60, DatasetSize(training=1000, held_out=200))
    assert found.training_s == sizing.LEAST_TRAINING * 60
    assert found.steps >= 1


def test_the_reason_says_what_was_bought_and_what_else_there_was():
    found, own = chosen(planned(), SLOW), chosen(planned(), SLOW, freedom="none")
    assert f"30 min on made up in fp32 hold {found.steps} steps of 2 samples" in found.because
    assert f"{found.expected.middle:.2f} against {own.expected.middle:.2f}" in found.because
    decisions = {decision.field: decision for decision in found.configuration.decisions}
    values = configuration_values(found.configuration)
    assert decisions["network"].value == values["network"]
    assert decisions["network"].because == decisions["batch_size"].because == found.because


@st.composite
def problems(draw: st.DrawFn):
    """A configuration as planned, a machine, and a dataset."""
    dimensions = draw(st.sampled_from([2, 3]))
    spacing = draw(st.tuples(*[st.floats(0.4, 5.0)] * dimensions))
    median = draw(st.tuples(*[st.one_of(st.integers(2, 12), st.integers(13, 300))] * dimensions))
    fit = fit_patch(View(spacing, tuple(map(float, median))), 3, budget_for("default")).value
    configuration = replace(
        small_configuration(spacing, fit.patch_size), median_shape=tuple(map(float, median)), network=fit.network
    )
    dataset = DatasetSize(
        draw(st.integers(1, 200)),
        draw(st.integers(0, 50)),
        draw(st.one_of(st.just(()), st.lists(st.floats(0, 1), min_size=4, max_size=4).map(tuple))),
    )
    return configuration, machine(10 ** draw(st.floats(-5, 2)), draw(st.floats(0.01, 20))), dataset


@given(problem=problems(), budget_s=st.floats(1, 1e6), memory_bytes=st.floats(1e8, 1e11))
@settings(max_examples=40, deadline=None)
def test_any_machine_gets_a_network_that_works(problem, budget_s, memory_bytes):
    own, speed, dataset = problem
    found = chosen(own, speed, budget_s, dataset, memory_bytes=memory_bytes)
    got = found.configuration
    assert found.steps >= 1
    assert min(found.training_s, found.step_s) > 0
    assert found.factor in (1.0, *FACTORS)
    assert 2 <= got.batch_size <= own.batch_size
    assert all(size % step == 0 for size, step in zip(got.patch_size, got.network.divisor, strict=True))
    assert found.held_out_s <= budget_s
    assert "step" in found.because
    low, middle, high = found.expected.low, found.expected.middle, found.expected.high
    assert 0 <= low <= middle <= high <= 1


@given(problem=problems())
@settings(max_examples=25, deadline=None)
def test_every_patch_that_is_weighed_can_be_normalised(problem):
    """A patch as small as the divisor is a single voxel at the bottom of the network."""
    own, speed, dataset = problem
    require_valid_patches(own, speed, dataset)


def test_a_scan_of_few_voxels_is_not_shrunk_to_one():
    """Four voxels are 3 and 2 at factors 1.5 and 2, and one at 3 and 4."""
    own = planned((4, 4, 4), (4.0, 4.0, 4.0))
    factors = require_valid_patches(own, SLOW, replace(DATASET, coarse_dice=(1.0,) * 4))
    assert factors == {1.0, 1.5, 2.0}


def require_valid_patches(own: Configuration, speed: Speed, dataset: DatasetSize) -> set[float]:
    """Looks at all that is weighed but the plan's own network; returns the factors of the grids."""
    _, *others = sizing._candidates(own, speed, dataset, "all")
    for candidate in others:
        patch, divisor = candidate.configuration.patch_size, candidate.configuration.network.divisor
        assert all(size % step == 0 for size, step in zip(patch, divisor, strict=True))
        assert patch != divisor
        assert 0 < candidate.share <= 1
    return {candidate.factor for candidate in others}


@given(problem=problems(), budget_s=st.floats(5, 1e5), factor=st.floats(1, 30))
@settings(max_examples=40, deadline=None)
def test_more_time_never_hurts(problem, budget_s, factor):
    """But for the little by which the plan's own network may be worse and is still kept."""
    own, speed, dataset = problem
    less, more = (chosen(own, speed, seconds, dataset).expected.middle for seconds in (budget_s, factor * budget_s))
    assert more >= less - sizing.WORTHWHILE_DICE - 1e-9


@given(
    width=st.sampled_from(sizing.WIDTHS),
    grid=st.floats(0, 1),
    share=st.floats(1e-3, 1),
    steps=st.integers(1, 10**6),
    batch=st.integers(2, 64),
    more=st.floats(1, 100),
)
@settings(deadline=None)
def test_expected_dice_rises_with_steps_width_and_grid(width, grid, share, steps, batch, more):
    def middle(width=width, grid=grid, share=share, steps=steps, batch=batch) -> float:
        found = expected_dice(width, grid, share, steps, batch)
        assert 0 <= found.low <= found.middle <= found.high <= 1
        return found.middle

    assert middle(steps=int(steps * more)) >= middle() - 1e-12
    assert middle(width=1.0) >= middle() - 1e-12
    assert middle(grid=1.0) >= middle() - 1e-12


def test_a_slower_machine_is_given_more_time():
    own = planned()
    plan = small_plan(own)
    times = [suggest_budget(plan, own, machine(10.0**power), DATASET) for power in range(-4, 4)]
    assert times == sorted(times)
    assert times[0] < times[-1] <= 24 * 3600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (45, "45 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (720, "12 min"),
        (3599, "1 h"),
        (7200, "2 h"),
        (9000, "2 h 30 min"),
        (86_400, "24 h"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
