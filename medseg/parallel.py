"""Apply a function to every case: here and now, in local processes, or on a Dask cluster that is already running.

Knows nothing of images. One failing case never stops the others, and every failure carries the name of its case.
Nothing is started unless asked for: with ``workers=0`` there is no process, no socket and no shared memory.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from medseg.errors import CasesFailedError, MedsegError, UsageError
from medseg.progress import Progress, silent

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

_CONNECT_WITHIN = "10s"
_START_SECONDS = 3.0
"""What local processes cost, their imports included, until the first of them works."""
_WORKER_DIED = (
    "the worker process died while it held this case, alone and at the second try; out of memory is likely:"
    " use a machine with more memory"
)


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What became of one case: its ``value``, or the ``error`` that stopped it."""

    case: str
    value: R | None
    error: Exception | None

    @property
    def reason(self) -> str:
        """The error in one line, without the name of the case; empty where there is none."""
        return "" if self.error is None else describe(self.error).removeprefix(f"{self.case}: ")


def map_cases(
    function: Callable[[T], R],
    cases: Sequence[T],
    *,
    name: Callable[[T], str],
    what: str,
    workers: int | str = 0,
    progress: Progress = silent,
    here_first_s: float = 0.0,
) -> list[Outcome[R]]:
    """Apply a function to every case; outcomes come back in the order of the cases.

    No more cases are in flight than there are workers, so memory is bounded by the largest few. A case whose worker
    process dies is tried once more at the end with nothing beside it, since another case may have taken the memory.

    Args:
        function: called with one case. For processes it must be importable there (a function at the top of a module,
            or a ``functools.partial`` of one), as must its argument and what it returns.
        name: the name of a case, for outcomes and errors.
        what: what is being done, for ``progress`` and errors.
        workers: 0 or 1 works in this process; N starts N local processes (about 1.5 s) and ends them afterwards; an
            address such as ``"tcp://host:8786"`` uses a Dask scheduler that runs there.
        here_first_s: work here for so long before local processes are started, and go on here if what is left would
            not repay their start. For light work only: a process of its own protects the others from what kills it.

    Raises:
        UsageError: a negative number of workers, no scheduler at the address, or processes that cannot be started.
    """
    progress(0, len(cases), what)
    if isinstance(workers, int):
        if workers < 0:
            raise UsageError(f"workers: expected 0 or more, or a scheduler's address, found {workers}")
        if min(workers, len(cases)) <= 1:
            return _map_here(function, cases, name, what, progress)
        if here_first_s > 0:
            return _map_here_first(function, cases, name, what, workers, progress, here_first_s)
    with _cluster(workers if isinstance(workers, str) else min(workers, len(cases))) as client:
        return _map_on_cluster(client, function, cases, name, what, progress)


def _map_here_first(
    function: Callable[[T], R],
    cases: Sequence[T],
    name: Callable[[T], str],
    what: str,
    workers: int,
    progress: Progress,
    seconds: float,
) -> list[Outcome[R]]:
    outcomes: list[Outcome[R]] = []

    def onwards(done: float, total: float, what: str) -> None:
        progress(len(cases) - total + done, len(cases), what)

    start = time.perf_counter()
    while len(outcomes) < len(cases) and time.perf_counter() - start < seconds:
        outcomes += _map_here(function, cases[len(outcomes) : len(outcomes) + 1], name, what, silent)
        progress(len(outcomes), len(cases), what)
    rest = cases[len(outcomes) :]
    left = (time.perf_counter() - start) / len(outcomes) * len(rest)
    if left * (1 - 1 / workers) <= _START_SECONDS:
        return outcomes + _map_here(function, rest, name, what, onwards)
    return outcomes + map_cases(function, rest, name=name, what=what, workers=workers, progress=onwards)


def values(outcomes: Sequence[Outcome[R]], what: str) -> list[R]:
    """The values of all outcomes.

    Raises:
        CasesFailedError: some cases failed; lists each with its reason. Its cause is the first case's error.
    """
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        reasons = {outcome.case: outcome.reason for outcome in failed}
        raise CasesFailedError(what, reasons, len(outcomes)) from failed[0].error
    return [cast(R, outcome.value) for outcome in outcomes]


def describe(error: BaseException) -> str:
    """An error in one line: the message of medseg's own, type and message of any other."""
    text = " ".join(str(error).split())
    if isinstance(error, MedsegError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _map_here(
    function: Callable[[T], R], cases: Sequence[T], name: Callable[[T], str], what: str, progress: Progress
) -> list[Outcome[R]]:
    outcomes: list[Outcome[R]] = []
    for case in cases:
        try:
            outcomes.append(Outcome(name(case), function(case), None))
        except Exception as error:
            outcomes.append(Outcome(name(case), None, error))
        progress(len(outcomes), len(cases), what)
    return outcomes


def _map_on_cluster(
    client: Client,
    function: Callable[[T], R],
    cases: Sequence[T],
    name: Callable[[T], str],
    what: str,
    progress: Progress,
) -> list[Outcome[R]]:
    from distributed import KilledWorker

    outcomes: dict[int, Outcome[R]] = {}
    killed: list[int] = []

    for index, outcome in _run(client, function, cases, name, range(len(cases)), at_once=None):
        if isinstance(outcome.error, KilledWorker):
            killed.append(index)
            continue
        outcomes[index] = outcome
        progress(len(outcomes), len(cases), what)
    for index, outcome in _run(client, function, cases, name, killed, at_once=1):
        if isinstance(outcome.error, KilledWorker):
            outcome = Outcome(outcome.case, None, MedsegError(_WORKER_DIED))
        outcomes[index] = outcome
        progress(len(outcomes), len(cases), what)
    return [outcomes[index] for index in range(len(cases))]


def _run(
    client: Client,
    function: Callable[[T], R],
    cases: Sequence[T],
    name: Callable[[T], str],
    indices: Sequence[int],
    at_once: int | None,
) -> Iterator[tuple[int, Outcome[R]]]:
    """Yield outcomes of the given cases as they come, with at most ``at_once`` (default: one a worker) in flight."""
    from distributed import as_completed

    waiting = list(reversed(indices))
    flying = as_completed(loop=client.loop)
    index_of = {}
    while waiting or index_of:
        limit = at_once or max(1, _threads(client))
        while waiting and len(index_of) < limit:
            index = waiting.pop()
            # `pure` would give equal cases one key, and so one answer for the two of them.
            future = client.submit(function, cases[index], pure=False)
            index_of[future] = index
            flying.add(future)
        future = next(flying)
        index = index_of.pop(future)
        error = future.exception()
        value = None if error is not None else future.result()
        yield index, Outcome(name(cases[index]), value, error)


def _threads(client: Client) -> int:
    # The annotation of `nthreads` covers asynchronous clients too.
    return sum(cast(dict[str, int], client.nthreads()).values())


@contextmanager
def _cluster(workers: int | str) -> Iterator[Client]:
    """A Dask client: of the scheduler at an address, or of new local processes that end with the context."""
    from distributed import Client

    if isinstance(workers, str):
        try:
            client = Client(workers, timeout=_CONNECT_WITHIN, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {workers!r}; start one there with `dask scheduler`,"
                " or give a number of workers"
            ) from error
        with client:
            yield client
    else:
        with _local_cluster(workers) as cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _local_cluster(processes: int) -> Iterator[object]:
    import dask.config
    from distributed import LocalCluster

    # Dask's nannies set variables such as OMP_NUM_THREADS=1 in this process for the workers to inherit.
    environment = dict(os.environ)
    with (
        tempfile.TemporaryDirectory(prefix="medseg-") as scratch,
        dask.config.set({"distributed.scheduler.allowed-failures": 0, "temporary-directory": scratch}),
    ):
        try:
            cluster = LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                local_directory=scratch,
                dashboard_address=None,  # pyright: ignore[reportArgumentType]
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"{processes} worker processes could not be started ({describe(error)}); use workers=0, or, in a"
                " script of your own, call from under `if __name__ == '__main__':`"
            ) from error
        finally:
            _restore_environment(environment)
        try:
            with cluster:
                yield cluster
        finally:
            _restore_environment(environment)


def _restore_environment(environment: dict[str, str]) -> None:
    for key in os.environ.keys() - environment.keys():
        del os.environ[key]
    os.environ.update(environment)
