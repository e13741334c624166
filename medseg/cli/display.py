"""What a person sees while a command works: a bar with the time left, or lines in a log. All of it goes to stderr."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Without a terminal a line is printed for every tenth of a job, but not more often, and not less, than this.
_LINE_SHARE = 0.1
_AT_LEAST_SECONDS = 5.0
_AT_MOST_SECONDS = 60.0


class Display:
    """Draws progress and log lines; use it as a context and call it as a :class:`medseg.progress.Progress`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._job = ""
        self._began = 0.0
        self._begun_at = 0.0
        self._printed = (0.0, 0.0)

    def __enter__(self) -> Display:
        self._handler = self._log_handler()
        self._handler.setLevel(logging.WARNING if self._quiet else logging.INFO)
        logger = logging.getLogger("medseg")
        logger.addHandler(self._handler)
        logger.setLevel(logging.INFO)
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        logging.getLogger("medseg").removeHandler(self._handler)

    def __call__(self, done: float, total: float, what: str) -> None:
        job = what.split(":")[0]
        if job != self._job or self._task is None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(what, total=total)
            self._job, self._began, self._begun_at = job, time.monotonic(), done
            self._printed = (self._began, done)
        self._bars.update(self._task, completed=done, total=total, description=what)
        if not self._quiet and not self.console.is_terminal:
            self._print_line(done, total, what)

    def _log_handler(self) -> logging.Handler:
        """Beside bars lines give way to them; in a file or a pipe a message is one line, however long."""
        if self.console.is_terminal:
            return RichHandler(console=self.console, show_path=False, show_level=False, markup=False)
        handler = logging.StreamHandler(self.console.file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        return handler

    def _print_line(self, done: float, total: float, what: str) -> None:
        now = time.monotonic()
        since, at = self._printed
        due = now - since > _AT_MOST_SECONDS or done - at >= _LINE_SHARE * total
        if not due or now - since < _AT_LEAST_SECONDS:
            return
        self._printed = (now, done)
        elapsed = now - self._began
        left = elapsed * (total - done) / max(done - self._begun_at, 1e-9)
        self.console.print(f"{what}: {done / max(total, 1e-9):.0%}, {_clock(elapsed)} gone, {_clock(left)} left")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
