"""A wish to stop, heard without breaking what is under way."""

from __future__ import annotations

import signal
import time

import psutil


class StopOnSignal:
    """Becomes true once SIGINT or SIGTERM has come, so that a job can save and end in order; a second ends it now."""

    def __init__(self) -> None:
        self._stop = False

    def __call__(self) -> bool:
        return self._stop

    def __enter__(self) -> StopOnSignal:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True


def process_start() -> float:
    """The moment of ``time.monotonic`` at which this process began: loading libraries belongs to a budget too."""
    return time.monotonic() - (time.time() - psutil.Process().create_time())
