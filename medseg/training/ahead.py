"""The next batch, read while the step before it computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from medseg.training.sampling import Batch


class ReadAhead:
    """Batches by iteration, read by one thread that is always one batch ahead.

    Since a batch is a function of its iteration, this changes when it is read, never what it holds; a run that goes on
    somewhere begins to read there. What goes wrong while reading is raised where the batch is asked for.

    Args:
        read: the batch of an iteration; called by the thread alone.
    """

    def __init__(self, read: Callable[[int], Batch]) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._waiting: tuple[int, Future[Batch]] | None = None

    def __call__(self, iteration: int) -> Batch:
        """The batch of an iteration; that of the next one is begun."""
        expected, future = self._waiting or (None, None)
        if future is None or expected != iteration:
            future = self._thread.submit(self._read, iteration)
        self._waiting = None
        batch = future.result()
        self._waiting = iteration + 1, self._thread.submit(self._read, iteration + 1)
        return batch
