"""What the end of a training says, from tables that a pencil can check."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import documents
from medseg.cli import parse
from medseg.cli.output import print_summary
from medseg.errors import DocumentError
from medseg.evaluation import COLUMNS, Evaluation, LabelFound, foreground_mean, labels_found, summarize
from medseg.evaluation.detection import never_found_text
from medseg.labels import LabelSet
from medseg.training.curve import write_curve
from medseg.training.history import HistoryRow, read_history
from medseg.training.outcome import (
    GAIN_RULE,
    GainRule,
    TrainingOutcome,
    budget_text,
    expected_gain,
    is_flat,
    judge_training,
    outcome_lines,
    time_text,
    train_command,
)
from medseg.training.recipe import recipe_for_iterations
from medseg.training.run import Run

LABELS = ("liver", "cyst")
COMMAND = "medseg train -w W --fold 0"


def run(iterations: int = 400, budget: float | None = None, **changes: object) -> Run:
    made = Run(1, "3d_fullres", 0, 0, "fp32", recipe_for_iterations(iterations, 2), budget, budget and budget - 10)
    return replace(made, **changes)


def curve(dice: Sequence[float], step: int, seconds: float) -> list[HistoryRow]:
    """Points ``step`` iterations and ``seconds`` apart, both labels with the same Dice."""
    return [
        HistoryRow(n, n * step, n * seconds, 1e-3, 0.5, 0.5, value, (value, value)) for n, value in enumerate(dice, 1)
    ]


def evaluation(
    cases: Mapping[str, Mapping[str, tuple[int, int, int]]], failed: Sequence[str] = (), tn: int = 1000
) -> Evaluation:
    """Cases of (tp, fp, fn) by label, and cases that failed."""
    rows = []
    for case, labels in cases.items():
        for label, (tp, fp, fn) in labels.items():
            dice = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan
            rows.append({"case": case, "label": label, "value": LABELS.index(label) + 1, "dice": dice, "error": ""})
            rows[-1] |= {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    rows += [{"case": case, "label": label, "error": "unreadable"} for case in failed for label in LABELS]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(("tp", "fp", "fn", "tn"), "Int64"))
    pairs = dict.fromkeys(cases)
    return Evaluation(
        table,
        pairs,  # type: ignore[arg-type]
        dict.fromkeys(failed, "unreadable"),
        (),
        {"liver": (1,), "cyst": (2,)},
        None,
        1.0,
    )


GOOD = evaluation({"a": {"liver": (8, 2, 2), "cyst": (8, 2, 2)}, "b": {"liver": (8, 2, 2), "cyst": (0, 0, 0)}})
PART = evaluation({"a": {"liver": (9, 1, 1), "cyst": (0, 3, 5)}, "b": {"liver": (9, 1, 1), "cyst": (0, 0, 4)}})


def judge(
    steps: int, seconds: float, found: Evaluation | None, budget: float | None = None, **options
) -> TrainingOutcome:
    history = curve([0.5], steps, seconds)
    return judge_training(run(steps, budget), LABELS, history, found, **options)


def test_labels_are_counted_where_the_reference_has_them():
    liver, cyst = labels_found(GOOD)
    assert (liver.label, liver.present, liver.found, liver.dice) == ("liver", 2, 2, pytest.approx(0.8))
    assert (cyst.present, cyst.found, cyst.dice) == (1, 1, pytest.approx(0.8))
    assert liver.full_dice == pytest.approx(20 / (20 + 2 + 1000))  # 10 of 1012 voxels, all marked
    liver, cyst = labels_found(PART)
    assert (cyst.present, cyst.found, cyst.dice, cyst.never_found) == (2, 0, 0.0, True)
    assert not liver.never_found
    assert never_found_text([liver, cyst]) == "cyst (in 2 cases)"


def test_a_label_that_no_case_has_is_not_called_never_found():
    invented, absent = labels_found(evaluation({"a": {"liver": (0, 4, 0), "cyst": (0, 0, 0)}}, failed=["b"]))
    assert (invented.present, invented.dice, invented.never_found) == (0, 0.0, False)
    assert (absent.present, absent.never_found) == (0, False)
    assert math.isnan(absent.dice)
    assert never_found_text([invented, absent]) == ""


def test_a_case_not_annotated_for_a_label_has_no_row_and_does_not_count():
    _, cyst = labels_found(evaluation({"a": {"liver": (1, 0, 0)}, "b": {"cyst": (0, 0, 3)}}))
    assert (cyst.present, cyst.found) == (1, 0)


def test_many_labels_never_found_are_counted():
    missing = [LabelFound(f"l{n}", 1, 0, 0.0, 0.0) for n in range(10)]
    assert never_found_text(missing).endswith("l7 (in 1 case), and 2 more")


@given(
    st.lists(
        st.tuples(*[st.tuples(*[st.integers(0, 3)] * 3)] * 2),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=15, deadline=None)
def test_dice_of_labels_is_that_of_the_summary(cases):
    found = evaluation({f"c{n}": dict(zip(LABELS, counts, strict=True)) for n, counts in enumerate(cases)})
    outcome = judge(400, 100, found)
    expected = foreground_mean(summarize(found.table)).set_index("metric")["mean"]["dice"]
    if not math.isnan(expected):
        assert outcome.mean_dice == pytest.approx(expected)
    for label in outcome.labels:
        assert 0 <= label.found <= label.present <= len(cases)
        assert not (label.never_found and label.dice > 0)


def test_the_gain_of_a_doubling():
    """An error of 0.2 falls by a tenth to 0.18, by another to 0.162."""
    rule = GainRule(0.05, 0.1, 100, 1000, "a pencil")
    assert expected_gain(0.8, 2, rule=rule) == (pytest.approx(0.01), pytest.approx(0.02))
    assert expected_gain(0.8, 4, rule=rule) == (pytest.approx(0.2 * (1 - 0.95**2)), pytest.approx(0.038))
    assert expected_gain(0.8, 1, rule=rule) == (0, 0)
    assert expected_gain(0.8, 2, steps=99, rule=rule) is None
    assert expected_gain(0.8, 2, steps=1001, rule=rule) is None
    assert expected_gain(math.nan, 2, rule=rule) is None
    with pytest.raises(ValueError, match="factor of 1 or more"):
        expected_gain(0.8, 0.5)
    with pytest.raises(ValueError, match="low"):
        GainRule(0.2, 0.1, 1, 2, "")


@pytest.mark.parametrize(("before", "after"), [(0.866, 0.874), (0.874, 0.8835)])
def test_the_measured_doublings_lie_within_the_rule(before, after):
    """The rows of 3, 6 and 12 minutes in docs/lab-notes.md."""
    low, high = expected_gain(before, 2)  # type: ignore[misc]
    assert low < after - before < high


@given(st.floats(0, 1), st.floats(1, 64), st.floats(1, 64))
def test_more_time_brings_more_and_never_more_than_there_is(dice, factor, further):
    first, later = expected_gain(dice, factor), expected_gain(dice, factor * further)
    assert first is not None and later is not None
    assert 0 <= first[0] <= first[1] <= 1 - dice
    assert later[0] >= first[0] and later[1] >= first[1]


def test_one_step_has_taught_nothing():
    """500 steps of 57 s and the 10 s before: 28,510 s, 7.9 h."""
    outcome = judge(1, 57.0, evaluation({"a": {"liver": (1, 90, 9), "cyst": (0, 0, 5)}}), budget=90.0)
    assert outcome.kind == "too short"
    assert not outcome.has_learned
    assert outcome_lines(outcome, COMMAND) == [
        "Trained 1 step only: this model has learned nothing (mean Dice 0.010 on 1 held-out case).",
        f"500 steps would take about 7.9 h here: {COMMAND} --budget 8h --restart",
    ]


def test_a_run_by_iterations_is_told_iterations():
    outcome = judge(50, 20.0, PART)
    assert outcome_lines(outcome, COMMAND) == [
        "Trained 50 steps only: too few to learn from (mean Dice 0.450 on 2 held-out cases).",
        f"500 steps would take about 4 min here: {COMMAND} --iterations 500 --restart",
    ]


def test_few_steps_from_a_pretrained_model_or_with_a_good_dice_are_not_too_few():
    assert judge(50, 20.0, GOOD).kind == "improving"
    outcome = judge_training(run(50, pretrained="m"), LABELS, curve([0.4], 50, 20.0), PART)
    assert outcome.kind == "partly"


def test_a_label_never_found_is_named():
    outcome = judge(400, 150.0, PART, budget=180.0)
    assert outcome.kind == "partly"
    assert outcome.has_learned
    assert outcome.never_found == ("cyst",)
    assert outcome_lines(outcome, COMMAND) == [
        "Learned in part: mean Dice 0.450 on 2 held-out cases; 1 of 2 labels found.",
        "Never found: cyst (in 2 cases).",
        f"Train longer, about 6 min: {COMMAND} --budget 6m --restart",
    ]
    assert "--balance-classes" in outcome_lines(judge(2000, 900.0, PART), COMMAND)[-1]


def test_a_label_hardly_found_is_named_with_its_dice():
    """Dice 0.9 and 10 / 110; then 0.5 where all of the 50 of 100 voxels would have 0.667."""
    outcome = judge(400, 150.0, evaluation({"a": {"liver": (9, 1, 1), "cyst": (5, 95, 5)}}))
    assert (outcome.kind, outcome.never_found, outcome.hardly_found) == ("partly", (), ("cyst",))
    lines = outcome_lines(outcome, COMMAND)
    assert lines[0].endswith("1 of 2 labels found.")
    assert lines[1] == "Hardly found: cyst (mean Dice 0.091)."
    found = evaluation({"a": {"cyst": (25, 25, 25)}, "b": {"liver": (90, 0, 0)}}, tn=25)
    assert judge(400, 150.0, found).hardly_found == ("cyst",)


def test_a_label_found_in_part_of_the_cases():
    found = evaluation({"a": {"liver": (9, 1, 1), "cyst": (9, 1, 1)}, "b": {"liver": (9, 1, 1), "cyst": (0, 0, 4)}})
    lines = outcome_lines(judge(400, 150.0, found), COMMAND)
    assert lines[1] == "Found in part: cyst in 1 of 2 cases."


def test_a_run_worth_going_on_with():
    """Dice 0.8: an error of 0.2 falls by 3 to 20 %, 0.006 to 0.040, which is more than 0.005."""
    outcome = judge(400, 150.0, GOOD, budget=360.0)
    assert outcome.kind == "improving"
    assert outcome_lines(outcome, COMMAND) == [
        "Learned, and still improving: mean Dice 0.800 on 2 held-out cases.",
        f"Twice the time (about 12 min) would bring about 0.006 to 0.040 more Dice: {COMMAND} --budget 12m --restart",
    ]


def test_a_run_that_has_learned():
    """Dice 0.9: an error of 0.1 falls by 3 to 20 %, 0.003 to 0.020; the least is below 0.005."""
    found = evaluation({"a": dict.fromkeys(LABELS, (9, 1, 1))}, failed=["b"])
    outcome = judge(400, 150.0, found, budget=360.0)
    assert outcome.kind == "learned"
    assert outcome_lines(outcome, COMMAND) == [
        "Learned: mean Dice 0.900 on 1 of 2 held-out cases.",
        "Twice the time (about 12 min) would bring about 0.003 to 0.020 more Dice.",
    ]
    assert outcome_lines(judge(400, 150.0, found, held_out=40), COMMAND)[0].endswith("on 1 of 40 held-out cases.")


def test_nearly_nothing_to_gain_is_said_in_words():
    found = evaluation({"a": dict.fromkeys(LABELS, (99, 1, 1))})
    assert "would bring at most 0.002 more Dice" in outcome_lines(judge(400, 150.0, found), COMMAND)[-1]
    found = evaluation({"a": dict.fromkeys(LABELS, (999, 1, 1))})
    assert "less than 0.001" in outcome_lines(judge(400, 150.0, found), COMMAND)[-1]


def test_beyond_the_rule_nothing_is_promised():
    outcome = judge(GAIN_RULE.most_steps + 1, 1e5, GOOD)
    assert outcome.kind == "learned"
    assert outcome.longer is None
    assert len(outcome_lines(outcome, COMMAND)) == 1
    outcome = judge(GAIN_RULE.fewest_steps - 1, 60.0, GOOD)
    assert outcome.kind == "improving"
    assert "cannot be told" in outcome_lines(outcome, COMMAND)[-1]


def test_nothing_learned():
    empty = evaluation({"a": dict.fromkeys(LABELS, (0, 0, 5))})
    outcome = judge(400, 150.0, empty, budget=180.0)
    assert (outcome.kind, outcome.has_learned, outcome.never_found) == ("not learned", False, LABELS)
    assert outcome_lines(outcome, COMMAND) == [
        "Not learned: mean Dice 0.000 on 1 held-out case after 400 steps, no better than an empty mask.",
        f"500 steps would take about 4 min here: {COMMAND} --budget 4m --restart",
    ]
    assert outcome.longer is not None
    assert outcome.longer.seconds == pytest.approx(150 * 500 / 400 + 10)
    lines = outcome_lines(judge(600, 150.0, empty), COMMAND)
    assert "medseg doctor DATASET" in lines[-1]
    # 60 of 100 voxels, and a mask of all of them: 120 / 160
    full = evaluation({"a": dict.fromkeys(LABELS, (60, 40, 0))}, tn=0)
    outcome = judge(400, 150.0, full)
    assert outcome.kind == "not learned"
    assert "mean Dice 0.750" in outcome_lines(outcome, COMMAND)[0]
    assert outcome_lines(outcome, COMMAND)[0].endswith("no better than marking every voxel.")
    poor = evaluation({"a": dict.fromkeys(LABELS, (5, 95, 5))})  # 10 / 110
    assert outcome_lines(judge(400, 150.0, poor), COMMAND)[0].endswith("Dice 0.091 on 1 held-out case after 400 steps.")


def test_without_held_out_cases_the_curve_counts():
    history = [replace(curve([0.45], 400, 150.0)[0], class_dice=(0.9, 0.0))]
    for found in (None, evaluation({}, failed=["a"])):
        outcome = judge_training(run(), LABELS, history, found)
        assert (outcome.kind, outcome.measured_on, outcome.never_found) == ("partly", "patches", ("cyst",))
        assert outcome_lines(outcome, COMMAND)[:2] == [
            "Learned in part: mean Dice 0.450 on held-out patches; 1 of 2 labels found.",
            "Never found: cyst.",
        ]
    nothing = [replace(history[0], mean_dice=math.nan, class_dice=(math.nan, math.nan))]
    outcome = judge_training(run(), LABELS, nothing)
    assert (outcome.kind, outcome.has_learned, outcome.unmeasured) == ("not measured", True, LABELS)
    assert len(outcome_lines(outcome, COMMAND)) == 1
    assert judge_training(run(), LABELS, [], GOOD, steps=400, seconds=150.0) == replace(
        judge(400, 150.0, GOOD), flat=False
    )
    assert judge_training(run(), LABELS, []).kind == "too short"


def test_a_curve_is_flat_when_it_does_not_rise_at_all():
    up = [0.5 + 0.01 * n for n in range(20)]
    assert not is_flat(up)
    assert is_flat([*up[:10], *[0.7] * 10])
    assert is_flat([0.7] * 15)  # 8 points in the second half
    assert not is_flat([0.7] * 14)  # 7
    assert not is_flat([math.nan] * 20)
    # Mean of both quarters 0.7, standard error of their difference 0.0063: who can say.
    jumps = [0.69, 0.71] * 10
    assert not is_flat(jumps)
    assert is_flat([0.7 - 0.001 * n for n in range(20)])


def test_a_flat_curve_promises_nothing():
    outcome = judge_training(run(), LABELS, curve([0.7] * 20, 20, 8.0), GOOD)
    assert (outcome.kind, outcome.flat, outcome.longer) == ("learned", True, None)
    assert outcome_lines(outcome, COMMAND)[-1].startswith("The learning curve was flat")
    # A label that is not found yet may still come.
    assert not judge_training(run(), LABELS, curve([0.7] * 20, 20, 8.0), PART).flat


@given(
    st.integers(1, 30_000),
    st.floats(0.1, 1e6),
    st.sampled_from([None, 90.0, 3600.0]),
    st.lists(st.tuples(*[st.tuples(*[st.integers(0, 9)] * 3)] * 2), max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_every_outcome_is_one_to_four_lines_and_a_document(steps, seconds, budget, cases):
    found = evaluation({f"c{n}": dict(zip(LABELS, counts, strict=True)) for n, counts in enumerate(cases)})
    outcome = judge(steps, seconds, found, budget)
    lines = outcome_lines(outcome, COMMAND)
    assert 1 <= len(lines) <= 4
    assert all(line and "nan" not in line and "None" not in line for line in lines)
    text = documents.to_text(outcome)
    again = documents.from_json(TrainingOutcome, documents.to_json(outcome))
    assert documents.to_text(again) == text  # NaN is not equal to itself
    if outcome.longer is not None and budget is not None:
        assert parse.seconds(outcome.longer.option.removeprefix("--budget ")) >= outcome.longer.seconds


@given(st.floats(0.1, 1e7))
def test_a_budget_is_read_as_at_least_what_was_meant(seconds):
    assert seconds <= parse.seconds(budget_text(seconds)) <= max(1.13 * seconds, seconds + 60)


def test_times_for_people():
    assert [time_text(value) for value in (40, 720, 721, 12_600)] == ["40 s", "12 min", "13 min", "3.5 h"]
    assert [budget_text(value) for value in (3, 90, 180, 7200, 5400)] == ["10s", "90s", "3m", "2h", "90m"]


def test_the_command_has_the_options_of_the_run():
    assert train_command(run(), "W", "3d_fullres") == COMMAND
    long = run(pretrained="my model", deterministic=True, seed=7)
    long = replace(long, recipe=replace(long.recipe, balance_classes=True, frozen_iterations="all"))
    assert train_command(long, "a b") == (
        "medseg train -w 'a b' -c 3d_fullres --fold 0 --seed 7 --pretrained 'my model' --freeze all"
        " --balance-classes --deterministic"
    )


def test_a_curve_is_read_back(tmp_path: Path):
    history = curve([0.25, math.nan], 20, 8.5)
    write_curve(tmp_path / "progress.csv", history, LabelSet.parse({"background": 0, "liver": 1, "cyst": 2}))
    first, second = read_history(tmp_path / "progress.csv")
    assert first == history[0]
    assert (second.iteration, second.seconds) == (40, 17.0)
    assert math.isnan(second.mean_dice)
    assert read_history(tmp_path / "none.csv") == ()
    (tmp_path / "progress.csv").write_text("epoch\nfirst\n")
    with pytest.raises(DocumentError, match="not a learning curve"):
        read_history(tmp_path / "progress.csv")


def test_the_terminal_names_labels_never_found(capsys):
    print_summary(PART)
    assert capsys.readouterr().out.splitlines()[-1] == "never found: cyst (in 2 cases)"
    print_summary(GOOD)
    assert "never found" not in capsys.readouterr().out
    print_summary(PART, notes=["Learned."])
    assert capsys.readouterr().out.splitlines()[-1] == "Learned."


def test_no_torch_is_needed():
    code = "import sys; sys.modules['torch'] = None; import medseg.training.outcome, medseg.training.history"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
