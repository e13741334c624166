"""Folds, times and sizes as a person writes them."""

from __future__ import annotations

import pytest

from medseg.cli import parse
from medseg.errors import UsageError


@pytest.mark.parametrize(
    ("text", "folds"), [("3", (3,)), ("0-4", (0, 1, 2, 3, 4)), ("0,2", (0, 2)), ("all", (0, 1, 2, 3, 4)), ("1,1", (1,))]
)
def test_folds(text, folds):
    assert parse.folds(text, existing=5) == folds


@pytest.mark.parametrize("text", ["", "5", "x", "0-9", "-1", "3-"])
def test_folds_that_are_none(text):
    with pytest.raises(UsageError, match="--fold"):
        parse.folds(text, existing=5)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("20min", 1200)]
)
def test_times(text, seconds):
    assert parse.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0m", "12", "m", "1d", "-3m"])
def test_times_that_are_none(text):
    with pytest.raises(UsageError, match="--budget"):
        parse.seconds(text)


@pytest.mark.parametrize(("text", "size"), [("8GB", 8e9), ("500MB", 5e8), ("1.5g", 1.5e9), ("8GiB", 8e9), ("100", 100)])
def test_sizes(text, size):
    assert parse.size_bytes(text, "--max-ram") == size


@pytest.mark.parametrize("text", ["", "GB", "0GB", "eight"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="--max-ram"):
        parse.size_bytes(text, "--max-ram")


def test_a_budget_is_a_time_or_auto():
    assert parse.budget("45m") == 2700
    assert parse.budget(" Auto ") == "auto"
    with pytest.raises(UsageError, match="or auto"):
        parse.budget("soon")


def test_workers_are_a_number_or_an_address():
    assert parse.workers("4") == 4
    assert parse.workers("tcp://host:8786") == "tcp://host:8786"
    for text in ("-1", "four", ""):
        with pytest.raises(UsageError, match="--workers"):
            parse.workers(text)
