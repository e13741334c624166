"""Several folds at once, each in a process on a device of its own: whichever device is free takes the next fold."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

_POLL_SECONDS = 0.2


def train_side_by_side(
    command: Sequence[str],
    folds: Sequence[int],
    devices: Sequence[str],
    say: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Mapping[int, int]:
    """Run ``medseg`` with a command for each fold, ``--fold`` and ``--device`` added; returns exit codes.

    Args:
        say: takes every line that a process writes, with its fold before it. Called from several threads.
        should_stop: once true, the processes are asked to save and end, and no other begins.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)

    def one(fold: int) -> tuple[int, int] | None:
        device = free.get()
        try:
            return None if should_stop() else (fold, _run(command, fold, device, say, should_stop))
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices), "fold") as threads:
        return dict(done for done in threads.map(one, folds) if done is not None)


def _run(
    command: Sequence[str], fold: int, device: str, say: Callable[[str], None], should_stop: Callable[[], bool]
) -> int:
    # In a session of its own, or Ctrl-C would reach it twice: from the terminal, and from here.
    with subprocess.Popen(
        [sys.executable, "-m", "medseg", *command, "--fold", str(fold), "--device", device],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        reader = threading.Thread(target=_pass_on, args=(process, fold, say))
        reader.start()
        asked = False
        while process.poll() is None:
            if should_stop() and not asked:
                process.terminate()
                asked = True
            time.sleep(_POLL_SECONDS)
        reader.join()
    return process.returncode


def _pass_on(process: subprocess.Popen[str], fold: int, say: Callable[[str], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        say(f"fold {fold}: {line.rstrip()}".removesuffix(": "))
