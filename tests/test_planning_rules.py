"""Each planning rule on numbers that a pencil can follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medseg.errors import DocumentError, UsageError
from medseg.planning import rules
from medseg.planning.facts import DatasetFacts
from medseg.planning.lowres import coarser, lowres
from medseg.planning.plan import Normalization
from medseg.planning.presets import budget_for
from medseg.planning.topology import View


def facts_with(spacings, shapes, **changes) -> DatasetFacts:
    spacings, shapes = tuple(map(tuple, spacings)), tuple(map(tuple, shapes))
    known = DatasetFacts(("CT",), 2, len(spacings), spacings, shapes, 1.0)
    return replace(known, **changes)


def test_target_spacing_is_the_median_of_each_axis():
    facts = facts_with([(1, 2, 2), (2, 2, 2), (3, 2, 4)], [(10, 10, 10)] * 3)
    assert rules.target_spacing(facts).value == (2, 2, 2)


def test_a_coarse_and_thin_axis_takes_its_tenth_percentile():
    facts = facts_with([(1, 1, 1)] + [(5, 1, 1)] * 9, [(20, 512, 512)] * 10)
    # Ten values 1, 5, 5, ...: the 10th percentile lies at index 0.9, so 1 + 0.9 x 4.
    ruled = rules.target_spacing(facts)
    assert ruled.value == pytest.approx((4.6, 1, 1))
    assert "10th percentile" in ruled.because
    assert "4.6 mm" in ruled.because


@pytest.mark.parametrize(
    ("spacing", "shape", "because"),
    [
        ((3, 1, 1), (20, 512, 512), "no axis is more than 3 times coarser"),
        ((5, 1, 1), (171, 512, 512), "it is not thin"),
    ],
)
def test_an_axis_at_the_threshold_or_with_many_slices_keeps_the_median(spacing, shape, because):
    facts = facts_with([(1, 1, 1)] + [spacing] * 9, [shape] * 10)
    ruled = rules.target_spacing(facts)
    assert ruled.value == spacing
    assert because in ruled.because


def test_the_coarse_axis_never_becomes_finer_than_the_others():
    facts = facts_with([(0.1, 1, 0.9)] * 5 + [(5, 1, 0.9)] * 6, [(20, 512, 512)] * 11)
    assert rules.target_spacing(facts).value == pytest.approx((1.00001, 1, 0.9))


def test_the_spacing_between_single_slices_means_nothing():
    facts = facts_with([(0.1, 1, 1), (50, 1, 1), (60, 1, 1)], [(1, 512, 512)] * 3, slice_axis=0)
    assert rules.target_spacing(facts).value == (50, 1, 1)
    assert rules.median_shape(facts, (50, 1, 1)).value == (1, 512, 512)


@pytest.mark.parametrize(
    ("spacing", "order"),
    [((3, 1, 1), (0, 1, 2)), ((1, 3, 1), (1, 0, 2)), ((1, 1, 3), (2, 0, 1)), ((1, 1, 1), (0, 1, 2))],
)
def test_the_coarsest_axis_goes_first(spacing, order):
    assert rules.axis_order(spacing).value == order


def test_an_axis_of_single_slices_goes_first_whatever_its_spacing():
    assert rules.axis_order((1, 5, 1), slice_axis=2).value == (2, 0, 1)


def test_median_shape_rounds_every_case_first_and_halves_to_even():
    # 5 voxels of 1 mm at 2 mm are 2.5, rounded 2; 7 are 3.5, rounded 4; the median of 2 and 4 is 3.
    facts = facts_with([(1, 1, 1)] * 2, [(5, 10, 10), (7, 10, 11)])
    assert rules.median_shape(facts, (2, 1, 1)).value == (3, 10, 10.5)


def test_channel_names_choose_the_normalisation():
    names = ("CT", "ct", "T1", "noNorm", "rescale_to_0_1", "rgb_to_0_1", "zscore")
    facts = facts_with([(1, 1, 1)], [(9, 9, 9)], channels=names)
    schemes = [one.scheme for one in rules.normalization(facts).value]
    assert schemes == ["ct", "ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1", "zscore"]


@pytest.mark.parametrize(("relative_size", "masked"), [(0.7499, True), (0.75, False), (1.0, False)])
def test_only_z_scores_skip_zeros_and_only_where_much_is_cropped_away(relative_size, masked):
    facts = facts_with([(1, 1, 1)], [(9, 9, 9)], channels=("CT", "T1"), relative_size=relative_size)
    assert rules.normalization(facts).value == (Normalization("ct"), Normalization("zscore", masked))


@pytest.mark.parametrize(
    ("dataset_voxels", "share", "size", "because"),
    [
        # 400 / 100 x 2 = 8 patches fit; 5% of 40,000 voxels are 20 patches of 100, of 10,000 they are 5, of 1,000 none.
        (40_000, 0.05, 8, "8 patches"),
        (10_000, 0.05, 5, "no more than 5% of all training voxels are 5 patches"),
        (1_000, 0.05, 2, "at least 2 patches"),
        (1_000, 1, 8, "8 patches"),
    ],
)
def test_batch_is_what_fits_capped_by_the_data_and_at_least_two(dataset_voxels, share, size, because):
    ruled = rules.batch_size(100, 400, 2, (10, 10), dataset_voxels, share)
    assert ruled.value == size
    assert because in ruled.because


def test_batch_dice():
    assert rules.batch_dice(2, 1.0, has_overview=False).value
    assert rules.batch_dice(3, 0.1, has_overview=True).value
    assert not rules.batch_dice(3, 0.1, has_overview=False).value
    assert not rules.batch_dice(3, 0.5, has_overview=False).value


@pytest.mark.parametrize(
    ("spacing", "wanted"),
    [
        ((5, 1, 1), (5, 1.03, 1.03)),
        ((5, 2, 3), (5, 2.06, 3)),
        ((2, 1, 1), (2.06, 1.03, 1.03)),
        ((1, 1, 1), (1.03, 1.03, 1.03)),
    ],
)
def test_coarser_evens_out_before_it_grows_everywhere(spacing, wanted):
    assert coarser(spacing) == pytest.approx(wanted)


def test_lowres_is_made_below_a_quarter_and_dropped_if_hardly_smaller():
    budget = budget_for("default")
    large = View((1, 1, 1), (512, 512, 512))
    found = lowres(large, (128, 128, 128), 2, budget)
    assert found.value is not None
    patch = found.value.fit.value.patch_size
    assert patch[0] * patch[1] * patch[2] / found.value.voxels >= 0.25
    assert "2%" in found.because
    # Half the side in every direction would be an eighth: a patch of 128 x 128 x 256 shows exactly a quarter.
    assert lowres(View((1, 1, 1), (256, 256, 256)), (128, 128, 256), 2, budget).value is None
    # Just below a quarter, the search ends before the scans have half the voxels.
    dropped = lowres(View((1, 1, 1), (205, 205, 205)), (128, 128, 128), 2, budget)
    assert dropped.value is None
    assert "times smaller" in dropped.because


def test_memory_scales_the_budget_in_proportion():
    own, doubled = budget_for("resenc-l"), budget_for("resenc-l", 48)
    assert (own.memory_gb, own.elements(3), own.elements(2)) == (24, 2100e6, 380e6)
    assert (doubled.memory_gb, doubled.elements(3), doubled.elements(2)) == (48, 4200e6, 760e6)


@pytest.mark.parametrize(("preset", "memory"), [("resenc", None), ("default", 0), ("default", float("nan"))])
def test_unknown_presets_and_impossible_memories_are_refused(preset, memory):
    with pytest.raises(UsageError, match=r"choose one of|positive number"):
        budget_for(preset, memory)


@pytest.mark.parametrize(
    ("spacings", "shapes", "message"),
    [
        ([], [], "no cases"),
        ([(1, 1, 1)], [], "1 spacings but 0 shapes"),
        ([(0, 1, 1)], [(9, 9, 9)], "positive spacings"),
        ([(1, 1, 1)], [(9, 0, 9)], "at least 1 voxel"),
        ([(1, 1)], [(9, 9, 9)], "three positive spacings"),
    ],
)
def test_numbers_that_no_scan_can_have_are_refused(spacings, shapes, message):
    with pytest.raises(DocumentError, match=message):
        DatasetFacts(("CT",), 2, len(spacings), tuple(spacings), tuple(shapes), 1.0)
