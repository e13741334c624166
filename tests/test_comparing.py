"""Systems compared: pencil answers, chance kept at its rate, cases that do not count, files and hostile tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import Page

import medseg
from benchmarks.comparison import METRICS, finds_gain, is_undecided, simulated_runs
from medseg.cli import run
from medseg.comparing import BETTER, UNDECIDED, WORSE, System, compare, compare_systems, write_comparison
from medseg.comparing import statistics as stats
from medseg.errors import DocumentError, FileUnreadableError, UsageError


def table(dice: list[float] | np.ndarray, label: str = "liver", **columns: list[float]) -> pd.DataFrame:
    """A row a case."""
    cases = [f"case_{number}" for number in range(len(dice))]
    return pd.DataFrame({"case": cases, "label": label, "dice": dice, **columns, "error": ""})


def row(*tables: pd.DataFrame, metric: str = "dice") -> pd.Series:
    """The only row of a comparison of the second table with the first."""
    found = compare(*tables, metrics=(metric,)).table
    assert len(found) == 1
    return found.iloc[0]


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]).tolist() == [0.03, 0.06, 0.06]
    assert stats.holm([0.4, 0.9]).tolist() == [0.8, 0.9]
    assert np.array_equal(stats.holm([np.nan, 0.02]), [np.nan, 0.02], equal_nan=True)
    assert stats.holm([]).tolist() == []


def test_the_same_gain_in_every_case_is_found_from_six_cases_on() -> None:
    five, six = np.linspace(0.5, 0.9, 5), np.linspace(0.4, 0.9, 6)
    assert row(table(five), table(five + 0.05)).verdict == UNDECIDED
    found = row(table(six), table(six + 0.05))
    assert found.verdict == BETTER
    assert found.difference == pytest.approx(0.05)
    assert found.p == pytest.approx(2 / 2**6, rel=0.2)
    assert row(table(six + 0.05), table(six)).verdict == WORSE


def test_equal_runs_are_not_distinguishable() -> None:
    dice = np.linspace(0.4, 0.9, 30)
    found = row(table(dice), table(dice))
    assert (found.difference, found.low, found.high, found.p, found.verdict) == (0, 0, 0, 1, UNDECIDED)


def test_less_distance_and_smaller_volume_errors_are_better() -> None:
    rng = np.random.default_rng(0)
    far, near = 5 + rng.random(20), 3 + rng.random(20)
    assert (
        row(table(far, hausdorff95_mm=far), table(far, hausdorff95_mm=near), metric="hausdorff95_mm").verdict == BETTER
    )
    high, low = [2.0, -2.0] * 10, [0.5, -0.5] * 10
    found = row(table(far, volume_error_ml=high), table(far, volume_error_ml=low), metric="volume_error_ml")
    assert (found["mean"], found.mean_against, found.verdict) == (0.5, 2.0, BETTER)


def test_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    draws = rng.gamma(1.0, 0.02, (25, 400)) - 0.02  # skewed, of mean 0
    held = [difference.low <= 0 <= difference.high for difference in stats.paired_differences(draws)]
    assert 0.92 <= np.mean(held) <= 0.985


def test_seeds_alone_are_not_told_apart_and_two_points_are() -> None:
    rng = np.random.default_rng(8)
    undecided = found = 0
    for _ in range(20):
        undecided += is_undecided(compare_systems(simulated_runs(rng, 60, 1, 0.15, (0.0, 0.0)), METRICS))
        found += finds_gain(compare_systems(simulated_runs(rng, 60, 1, 0.15, (0.02, 0.0)), METRICS))
    assert undecided >= 18
    assert found >= 18


def test_luck_of_a_seed_counts_when_there_are_several() -> None:
    rng = np.random.default_rng(1)
    dice = 0.8 + 0.05 * rng.standard_normal(40)

    def system(*means: float) -> list[pd.DataFrame]:
        return [table(dice + mean + 0.005 * rng.standard_normal(40)) for mean in means]

    one = compare(system(0.0), system(0.02), metrics=["dice"])
    several = compare(system(-0.02, 0.0, 0.02), system(0.0, 0.02, 0.04), metrics=["dice"])
    assert one.table.verdict.tolist() == [BETTER]
    assert several.table.verdict.tolist() == [UNDECIDED]
    assert several.means.seed_std.to_numpy() == pytest.approx([0.02, 0.02], abs=0.003)
    assert any("one run" in note for note in one.notes)
    assert not any("one run" in note for note in several.notes)


def test_seed_spread_leaves_out_what_cases_cause() -> None:
    rng = np.random.default_rng(2)
    pure = rng.standard_normal((50, 30))  # 50 runs without luck of their own
    assert stats.seed_spread(pure).variance < 0.02
    lucky = pure + 2 * rng.standard_normal((50, 1))
    assert stats.seed_spread(lucky).variance == pytest.approx(4, rel=0.5)
    assert stats.pooled([stats.SeedSpread(1.0, 1), stats.SeedSpread(4.0, 2)]).variance == 3


def test_places_by_hand() -> None:
    better, worse = np.full((1, 1, 8), 0.9), np.full((1, 1, 8), 0.8)
    assert stats.rank_shares([better, worse], True).tolist() == [[1, 0], [0, 1]]
    assert stats.rank_shares([better, worse], False).tolist() == [[0, 1], [1, 0]]
    assert stats.rank_shares([better, better], True).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    half = np.array([[[1.0, 0.0]]])  # mean 1 or 0 or 0.5, against 0.4: first in three of four draws
    assert stats.rank_shares([half, np.full((1, 1, 2), 0.4)], True)[0, 0] == pytest.approx(0.75, abs=0.02)


def test_a_label_rightly_left_out_beats_an_invented_one() -> None:
    nothing = {"tp": [0.0] * 8, "fn": [0.0] * 8}
    right = table([np.nan] * 8, fp=[0.0] * 8, **nothing)
    invented = table([0.0] * 8, fp=[50.0] * 8, **nothing)
    found = row(invented, right)
    assert (found["mean"], found.mean_against, found.cases, found.verdict) == (1, 0, 8, BETTER)
    assert row(right, right).cases == 0  # in neither mask of any run: left out
    assert row(right, right).verdict == UNDECIDED


def test_infinite_distances_count_as_the_largest_finite_one_and_are_said() -> None:
    ours = table([0.5] * 8, hausdorff95_mm=[1.0, 2, 3, 4, 5, 6, 7, 8])
    missed = table([0.5] * 8, hausdorff95_mm=[np.inf] * 8)
    found = compare(ours, missed, metrics=["hausdorff95_mm"])
    assert found.table.iloc[0]["mean"] == 8
    assert found.table.iloc[0].verdict == WORSE
    assert any("8 infinite" in note for note in found.notes)


def test_cases_that_failed_or_lack_are_left_out_and_said() -> None:
    ours, theirs = table(np.linspace(0.5, 0.9, 10)), table(np.linspace(0.5, 0.9, 10))
    theirs.loc[0, "error"] = "not read"
    theirs = theirs.iloc[:-1]
    found = compare({"ours": ours, "theirs": theirs}, metrics=["dice"])
    assert found.table.cases.tolist() == [8]
    assert any("theirs lacks 2 of 10 cases" in note for note in found.notes)


def test_three_systems_make_three_pairs() -> None:
    dice = np.linspace(0.5, 0.9, 12)
    found = compare(table(dice), table(dice), table(dice), metrics=["dice"])
    assert list(zip(found.table.system, found.table.against, strict=True)) == [("B", "A"), ("C", "A"), ("C", "B")]


def write(path: Path, dice: np.ndarray) -> Path:
    path.mkdir(parents=True)
    table(dice).to_csv(path / "metrics.csv", index=False)
    return path


def test_folders_seeds_folds_and_names(tmp_path: Path) -> None:
    dice = np.linspace(0.5, 0.9, 12)
    write(tmp_path / "a" / "seed_0", dice), write(tmp_path / "a" / "seed_1", dice)
    model = tmp_path / "b"
    for fold in (0, 1):
        frame = table(dice)
        folder = model / f"fold_{fold}" / "validation"
        folder.mkdir(parents=True)
        frame[frame.index % 2 == fold].to_csv(folder / "metrics.csv", index=False)
    found = medseg.compare(tmp_path / "a", model, metrics=["dice"])
    assert (found.systems, found.seeds) == (("a", "b"), (2, 1))
    assert found.table.cases.tolist() == [12]
    one, two = write(tmp_path / "x" / "report", dice), write(tmp_path / "y" / "report", dice)
    assert compare(one, two, metrics=["dice"]).systems == ("x/report", "y/report")


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_tables_of_an_evaluation_in_any_form(tmp_path: Path, ending: str) -> None:
    from test_evaluation import bar, save

    from medseg.evaluation import evaluate_folders, write_tables

    for case in range(7):
        save(bar((1, 0, 8)), tmp_path / "reference" / f"{case}.nii.gz")
        save(bar((1, 0, 8)), tmp_path / "good" / f"{case}.nii.gz")
        save(bar((1, 0, 5)) if case else bar(), tmp_path / "bad" / f"{case}.nii.gz")
    for name in ("good", "bad"):
        write_tables(evaluate_folders(tmp_path / name, tmp_path / "reference"), tmp_path / f"{name}_report")
    files = [tmp_path / f"{name}_report" / f"metrics.{ending}" for name in ("good", "bad")]
    found = compare(*files)
    assert found.table.verdict.tolist() == [WORSE] * 3
    direct = compare(tmp_path / "good", tmp_path / "bad", references=tmp_path / "reference")
    pd.testing.assert_frame_equal(
        found.table.drop(columns=["system", "against"]), direct.table.drop(columns=["system", "against"])
    )
    assert found.systems == ("good_report", "bad_report")


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    dice = np.linspace(0.5, 0.9, 6)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.csv").write_text('case,label\n"1')
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    other = table(dice)
    other["case"] = "x" + other["case"]
    for sources, error, words in (
        ([table(dice)], UsageError, "at least two systems"),
        ([tmp_path / "no", table(dice)], UsageError, "no such file"),
        ([tmp_path / "empty", table(dice)], UsageError, "medseg evaluate"),
        ([tmp_path / "broken.csv", table(dice)], FileUnreadableError, "broken.csv"),
        ([tmp_path / "other.csv", table(dice)], DocumentError, "case and label missing"),
        ([table(dice), other], UsageError, "no case that all systems have"),
        ([pd.concat([table(dice)] * 2), table(dice)], DocumentError, "twice"),
    ):
        with pytest.raises(error, match=words) as raised:
            compare(*sources, metrics=["dice"])
        assert "\n" not in str(raised.value)
    with pytest.raises(UsageError, match="no metric cldice"):
        compare(table(dice), table(dice), metrics=["cldice"])
    with pytest.raises(UsageError, match="names of their own"):
        compare_systems([System("a", (table(dice),)), System("a", (table(dice),))], ["dice"])


def test_the_command_writes_tables_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    dice = 0.7 + 0.2 * rng.random(12)
    for name, values in (("a", dice), ("b", dice + 0.05)):
        write(tmp_path / name, values)
    arguments = ["compare", f"one={tmp_path / 'a'}", f"two={tmp_path / 'b'}", "--metrics", "dice"]
    assert run([*arguments, "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "two is better in 1 of 1 figures than one" in shown
    page = Page(tmp_path / "out" / "comparison.html")
    assert "better" in page.text
    assert "script" not in page.tags
    assert not page.sources
    assert [link for link in page.links if link[0] != "#"] == ["comparison.csv", "comparison.json"]
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["comparisons"][0]["verdict"] == BETTER
    assert run(["compare", f"one={tmp_path / 'a'}", str(tmp_path / "b")]) == 2
    assert "a name of its own" in capsys.readouterr().err


def test_figures_stay_the_same(tmp_path: Path) -> None:
    dice = 0.5 + 0.4 * np.random.default_rng(0).random(20)
    for name in ("one", "two"):
        write_comparison(compare({"A": table(dice), "B": table(dice[::-1])}, metrics=["dice"]), tmp_path / name)
    assert (tmp_path / "one/comparison.json").read_bytes() == (tmp_path / "two/comparison.json").read_bytes()
