"""Cases in order, failures with names, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from medseg import parallel
from medseg.errors import CasesFailedError, DataError, UsageError
from medseg.parallel import map_cases, values


def halve(number: int) -> int:
    """Refuses odd numbers and zero, each in its way."""
    if number == 0:
        raise ZeroDivisionError
    if number % 2:
        raise DataError(f"case {number}: odd,\nso there is no half")
    return number // 2


def case_name(number: int) -> str:
    return f"case {number}"


def process_of(folder: Path, number: int) -> tuple[int, str | None]:
    """Leaves a mark, kills its process for number 2, fails for 3, else says where it ran."""
    with open(folder / str(number), "a") as marks:
        marks.write("x")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3:
        raise DataError("case 3: unreadable")
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def ticket(number: int) -> str:
    return uuid4().hex


def test_outcomes_keep_the_order_and_failures_stop_nobody():
    outcomes = map_cases(halve, [4, 3, 0, 8], name=case_name, what="halve")
    assert [outcome.case for outcome in outcomes] == ["case 4", "case 3", "case 0", "case 8"]
    assert [outcome.value for outcome in outcomes] == [2, None, None, 4]
    assert [outcome.reason for outcome in outcomes] == ["", "odd, so there is no half", "ZeroDivisionError", ""]
    assert isinstance(outcomes[1].error, DataError)


def test_values_name_every_failed_case():
    outcomes = map_cases(halve, [4, 3, 0], name=case_name, what="halve")
    with pytest.raises(CasesFailedError) as caught:
        values(outcomes, "halve")
    assert caught.value.failures == {"case 3": "odd, so there is no half", "case 0": "ZeroDivisionError"}
    assert str(caught.value).splitlines()[0] == "halve: 2 of 3 cases failed"
    assert caught.value.__cause__ is outcomes[1].error
    assert values(outcomes[:1], "halve") == [2]


def test_progress_counts_failures_too():
    seen = []
    map_cases(halve, [2, 3], name=case_name, what="halve", progress=lambda *call: seen.append(call))
    assert seen == [(0, 2, "halve"), (1, 2, "halve"), (2, 2, "halve")]


def test_no_cases_need_no_workers():
    assert map_cases(halve, [], name=case_name, what="halve", workers=8) == []


def slow_first(number: int) -> int:
    """Takes a tenth of a second for number 0."""
    time.sleep(0.1 if number == 0 else 0)
    return halve(number + 2)


@pytest.mark.parametrize(("start_seconds", "there"), [(60.0, []), (0.01, [1, 2, 3])])
def test_processes_start_only_where_the_rest_repays_them(
    monkeypatch: pytest.MonkeyPatch, start_seconds: float, there: list[int]
):
    started: list[int] = []

    def on_cluster(client, function, cases, name, what, progress):
        started.extend(cases)
        return parallel._map_here(function, cases, name, what, progress)

    monkeypatch.setattr(parallel, "_START_SECONDS", start_seconds)
    monkeypatch.setattr(parallel, "_cluster", lambda workers: nullcontext())
    monkeypatch.setattr(parallel, "_map_on_cluster", on_cluster)
    seen: list[tuple[float, float]] = []
    outcomes = map_cases(
        slow_first,
        range(4),
        name=case_name,
        what="halve",
        workers=2,
        progress=lambda done, total, what: seen.append((done, total)),
        here_first_s=0.05,
    )
    assert started == there
    assert [outcome.case for outcome in outcomes] == ["case 0", "case 1", "case 2", "case 3"]
    assert [outcome.value for outcome in outcomes] == [1, None, 2, None]
    assert sorted(set(seen)) == [(done, 4) for done in range(5)]
    assert seen == sorted(seen)


def test_interrupting_stops_at_once():
    def interrupted(number: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_cases(interrupted, [1, 2], name=case_name, what="halve")


def test_negative_workers_are_refused():
    with pytest.raises(UsageError, match="found -1"):
        map_cases(halve, [2], name=case_name, what="halve", workers=-1)


def test_missing_scheduler_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_CONNECT_WITHIN", "200ms")
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        map_cases(halve, [2], name=case_name, what="halve", workers="tcp://127.0.0.1:9")


def test_dask_loads_only_when_asked_for():
    code = (
        "import sys; from medseg.parallel import map_cases\n"
        "map_cases(abs, [1], name=str, what='')\n"
        "assert not {'dask', 'distributed', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_local_processes_report_the_killed_one_and_leave_nothing(tmp_path: Path):
    environment = dict(os.environ)
    before = set(Path(tempfile.gettempdir()).glob("medseg-*"))
    seen = []
    outcomes = map_cases(
        partial(process_of, tmp_path),
        range(6),
        name=case_name,
        what="work",
        workers=2,
        progress=lambda *call: seen.append(call),
    )
    assert [outcome.case for outcome in outcomes if outcome.error is None] == ["case 0", "case 1", "case 4", "case 5"]
    assert "out of memory is likely" in outcomes[2].reason
    assert outcomes[3].reason == "unreadable"
    assert (tmp_path / "2").read_text() == "xx", "a case whose process died is tried once more"
    assert all(value[0] != os.getpid() and value[1] == "1" for value in (o.value for o in outcomes) if value)
    assert [done for done, _, _ in seen] == list(range(7))
    assert dict(os.environ) == environment
    assert set(Path(tempfile.gettempdir()).glob("medseg-*")) == before
    left = [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
    assert not psutil.wait_procs(left, timeout=5)[1]


def test_cluster_that_runs_already_is_used_and_left_running(tmp_path: Path):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        dashboard_address=None,
        local_directory=str(tmp_path / "scratch"),
    ) as cluster:
        outcomes = map_cases(ticket, [1, 1, 2, 3, 4], name=case_name, what="", workers=cluster.scheduler_address)
        assert cluster.workers
    assert len(set(values(outcomes, ""))) == 5, "equal cases are done one by one"
