"""Plans of fingerprints: whole, as documents, in words, and with single slices."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medseg
from medseg import documents
from medseg.errors import DocumentError, UsageError
from medseg.fingerprinting import CaseFingerprint, Fingerprint, IntensityStatistics
from medseg.interop.nnunet import plan_from_fingerprint
from medseg.labels import LabelSet
from medseg.planning import Plan, compare, explain, plan_dataset
from medseg.planning.facts import DatasetFacts
from medseg.planning.planner import outline_of
from medseg.planning.presets import PRESETS, budget_for

STATISTICS = IntensityStatistics(90.0, 95.0, 40.0, -600.0, 1000.0, -40.0, 180.0)
LABELS = LabelSet({"liver": (1,), "tumour": (2,)})


def fingerprint_with(spacings, shapes, channels=("CT",), labels=LABELS, relative_size=1.0) -> Fingerprint:
    cases = tuple(
        CaseFingerprint(f"case_{i}", tuple(shape), tuple(shape), tuple(map(float, spacing)), (10,) * len(labels.values))
        for i, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
    )
    return Fingerprint(1, "example", channels, labels, cases, (STATISTICS,) * len(channels), relative_size)


SPLEEN_LIKE = fingerprint_with([(1.6, 0.8, 0.8)] * 2 + [(5, 0.8, 0.8)] * 5, [(90, 512, 512)] * 7)
PICTURES = fingerprint_with([(1, 1, 1)] * 9, [(1, 256, 320)] * 9, ("R", "G", "B"))


def test_a_large_scan_gets_four_configurations():
    plan = plan_dataset(SPLEEN_LIKE)
    assert [one.name for one in plan.configurations] == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert plan.configuration().name == "3d_fullres"
    fullres, cascade = plan.configuration("3d_fullres"), plan.configuration("3d_cascade_fullres")
    assert cascade == replace(fullres, name=cascade.name, previous_stage="3d_lowres", decisions=cascade.decisions)
    assert (fullres.batch_dice, plan.configuration("3d_lowres").batch_dice) == (True, False)
    assert (plan.orientation, plan.memory_gb, plan.preset) == ("RAS", 8, "default")


def test_every_value_has_its_reason():
    for plan in (plan_dataset(SPLEEN_LIKE), plan_dataset(PICTURES, "resenc-m")):
        assert {decision.field for decision in plan.decisions} == {
            "orientation", "axis_order", "median_spacing_mm", "median_shape", "configurations"
        }  # fmt: skip
        for configuration in plan.configurations:
            fields = {decision.field for decision in configuration.decisions}
            assert fields >= {"spacing_mm", "median_shape", "patch_size", "batch_size", "batch_dice", "network"}
            assert all(decision.because for decision in configuration.decisions)


def test_pictures_get_2d_only_whatever_the_spacing_of_their_missing_axis():
    plan = plan_dataset(PICTURES)
    assert [one.name for one in plan.configurations] == ["2d"]
    assert plan.axis_order == (0, 1, 2)
    upright = fingerprint_with([(1, 1, 1)] * 9, [(256, 320, 1)] * 9, ("R", "G", "B"))
    turned = plan_dataset(upright)
    assert turned.axis_order == (2, 0, 1)
    assert replace(turned.configurations[0], decisions=()) == replace(plan.configurations[0], decisions=())


def test_pictures_are_planned_as_nnunet_does_with_its_spacing_of_999():
    own = plan_dataset(PICTURES).configuration("2d")
    theirs = plan_from_fingerprint(
        {
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": {"background": 0, "liver": 1, "tumour": 2},
            "numTraining": 9,
            "file_ending": ".png",
        },
        {
            "spacings": [[999, 1, 1]] * 9,
            "shapes_after_crop": [[1, 256, 320]] * 9,
            "median_relative_size_after_cropping": 1,
            "foreground_intensity_properties_per_channel": {},
        },
        "default",
    )
    assert list(theirs["configurations"]) == ["2d"]
    wanted = theirs["configurations"]["2d"]
    assert list(own.patch_size) == wanted["patch_size"]
    assert own.batch_size == wanted["batch_size"]
    assert list(own.spacing_mm) == wanted["spacing"]
    assert list(own.median_shape) == wanted["median_image_size_in_voxels"]


def test_memory_defaults_to_what_the_preset_is_made_for():
    for preset, memory_gb in (("default", 8), ("resenc-m", 8), ("resenc-l", 24), ("resenc-xl", 40)):
        assert plan_dataset(SPLEEN_LIKE, preset) == plan_dataset(SPLEEN_LIKE, preset, memory_gb)
        assert plan_dataset(SPLEEN_LIKE, preset).memory_gb == memory_gb


def test_batches_of_small_scans_are_capped_at_a_twentieth_of_the_data_by_default():
    # 200 x 63,000 voxels x 5% are 7.03 patches of 40 x 56 x 40; residual presets fill the memory.
    fingerprint = fingerprint_with([(1, 1, 1)] * 200, [(36, 50, 35)] * 200)
    batches = [plan_dataset(fingerprint, preset).configuration().batch_size for preset in ("default", "resenc-m")]
    assert batches == [7, 58]


def test_the_coarse_configuration_counts_coarse_voxels():
    # At full resolution 5% of 11 scans would be 6 patches; nnU-Net plans batch 2.
    fingerprint = fingerprint_with([(0.5, 0.5, 5)] * 11, [(120, 38, 380)] * 11)
    lowres = plan_dataset(fingerprint).configuration("3d_lowres")
    assert (lowres.patch_size, lowres.batch_size) == ((80, 80, 24), 2)


def test_sizes_are_those_after_cropping():
    cropped = replace(SPLEEN_LIKE, cases=tuple(replace(case, cropped_shape=(40, 96, 96)) for case in SPLEEN_LIKE.cases))
    assert plan_dataset(cropped).median_shape == (40, 96, 96)
    assert "3d_lowres" not in {one.name for one in plan_dataset(cropped).configurations}


def test_labels_count_with_background_and_ignore():
    plain = LabelSet({"a": (1,)})
    ignoring = LabelSet({"a": (1,)}, ignore=2)
    two = LabelSet({"a": (1,), "b": (2,)})
    sizes = {}
    for name, labels in (("plain", plain), ("ignoring", ignoring), ("two", two)):
        fingerprint = fingerprint_with([(1, 1, 1)] * 4, [(100, 100, 100)] * 4, labels=labels)
        decisions = {d.field: d.because for d in plan_dataset(fingerprint).configuration("2d").decisions}
        sizes[name] = decisions["batch_size"]
    assert sizes["ignoring"] == sizes["two"] != sizes["plain"]


def test_a_fingerprint_without_cases_and_an_unknown_preset_are_refused():
    with pytest.raises(DocumentError, match="no cases"):
        plan_dataset(replace(PICTURES, cases=()))
    with pytest.raises(UsageError, match="'huge' is not known; choose one of default, resenc-m"):
        plan_dataset(PICTURES, "huge")


def test_the_public_function_is_this_one():
    assert medseg.plan is plan_dataset


def test_planning_needs_no_torch():
    code = "import sys, medseg; medseg.plan, medseg.interop.nnunet.from_nnunet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plan_survives_its_file(tmp_path):
    plan = plan_dataset(SPLEEN_LIKE, "resenc-l", 11)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_planning_the_longest_search_takes_well_under_a_second():
    facts = DatasetFacts(("CT",), 120, 500, ((0.05, 0.05, 0.05),) * 500, ((2000, 2000, 2000),) * 500, 1.0)
    started = time.process_time()
    outline = outline_of(facts, budget_for("default", 4))
    assert time.process_time() - started < 1
    assert len(outline.configurations) == 4


def test_explain_tells_every_value_and_reason():
    plan = plan_dataset(SPLEEN_LIKE)
    text = explain(plan)
    assert text == plan.explain()
    words = " ".join(text.split())
    for configuration in plan.configurations:
        assert f"Configuration {configuration.name}" in words
    for decision in (*plan.decisions, *plan.configuration("3d_fullres").decisions):
        assert decision.value in words
        assert decision.because[1:] in words
    assert "All else as in 3d_fullres." in words
    assert all(len(line) <= 100 for line in text.splitlines())


def test_explain_says_what_was_changed_by_hand():
    plan = plan_dataset(PICTURES)
    edited = replace(plan, configurations=(replace(plan.configurations[0], batch_size=3),))
    assert "Batch: 3" in explain(edited)
    assert f"Changed by hand from {plan.configurations[0].batch_size}, where" in explain(edited)


def test_compare_names_what_differs_with_both_reasons():
    first, second = plan_dataset(SPLEEN_LIKE), plan_dataset(SPLEEN_LIKE, "resenc-l")
    assert compare(first, first) == "The plans agree.\n"
    words = " ".join(compare(first, second).split())
    assert "Patch (first plan):" in words
    assert "24 GB hold 2100 million" in words
    assert "Spacing" not in words.partition("Configuration 2d")[2].partition("Configuration 3d_lowres")[0]
    pictures = compare(first, plan_dataset(PICTURES))
    assert "Configuration 3d_lowres\n-----------------------\n  only in the first plan" in pictures


def test_compare_shows_differences_that_rounding_hides():
    plan = plan_dataset(PICTURES)
    configuration = plan.configurations[0]
    shifted = replace(configuration, spacing_mm=(1.0, 1.00000001))
    assert "1.00000001" in compare(plan, replace(plan, configurations=(shifted,)))


@st.composite
def fingerprints(draw):
    count = draw(st.integers(1, 6))
    spacing, size = st.floats(0.3, 6), st.integers(4, 400)
    spacings = draw(st.lists(st.tuples(spacing, spacing, spacing), min_size=count, max_size=count))
    shapes = draw(st.lists(st.tuples(size, size, size), min_size=count, max_size=count))
    channels = draw(st.lists(st.sampled_from(["CT", "T1", "noNorm"]), min_size=1, max_size=3))
    return fingerprint_with(spacings, shapes, tuple(channels), relative_size=draw(st.floats(0.1, 1)))


@settings(max_examples=25, deadline=None)
@given(fingerprints(), st.sampled_from(sorted(PRESETS)))
def test_any_fingerprint_gives_a_plan_that_holds_together(fingerprint, preset):
    plan = plan_dataset(fingerprint, preset)
    assert sorted(plan.axis_order) == [0, 1, 2]
    assert documents.from_json(Plan, json.loads(documents.to_text(plan))) == plan
    for configuration in plan.configurations:
        divisor = configuration.network.divisor
        assert all(size % step == 0 for size, step in zip(configuration.patch_size, divisor, strict=True))
        assert configuration.batch_size >= 2
        assert len(configuration.normalization) == len(plan.channels)
    spacing = plan.configuration().spacing_mm
    if plan.configuration().dimensions == 3:
        assert spacing[0] == max(spacing)
    assert explain(plan)
