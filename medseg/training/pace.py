"""Whether a run with a budget will end in time, asked soon after its start and four times later.

A budget becomes a number of iterations by a measurement of seconds; a machine that later slows down, or turns out to
be faster, would miss the budget. At the stated points the length is set anew and written down with the iteration at
which that happened. The learning rate depends on the iteration and on these notes alone, so a resumed run is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARES = (0.04, 0.25, 0.5, 0.75, 0.92)
# Kernels are prepared and caches filled in the first steps: the first check waits for so many, but not for a quarter.
SETTLED_STEPS = 8
# A run that would take longer is shortened, and one that would leave more of its time unused than this is lengthened.
LATEST, EARLIEST = 1.0, 0.96
# Part of the time left that iterations may take after a correction: pace still varies, but less than at the start.
FILLED = 0.985


@dataclass(frozen=True)
class Check:
    """One look at the clock.

    Attributes:
        iteration: iterations that were done.
        seconds: training time that they took.
        iterations: length of the run from then on.
    """

    iteration: int
    seconds: float
    iterations: int


@dataclass(frozen=True)
class Schedule:
    """The course of a run: its planned length, and what became of it at each check so far."""

    planned: int
    checks: tuple[Check, ...] = ()

    @property
    def iterations(self) -> int:
        """Length of the run as it stands."""
        return self.checks[-1].iterations if self.checks else self.planned

    def progress_at(self, iteration: int) -> float:
        """How much of the course lies before an iteration, 0 to 1; it has no jump where the length was changed."""
        start, passed, length = self._segment(iteration)
        return passed + (1 - passed) * (iteration - start) / (length - start)

    @property
    def next_check(self) -> int | None:
        """After how many iterations the next check is due, if there is one before the end."""
        if len(self.checks) >= len(SHARES):
            return None
        start, passed, length = self._segment(self.iterations)
        due = start + math.ceil((length - start) * (SHARES[len(self.checks)] - passed) / (1 - passed) - 1e-9)
        if not self.checks:
            due = max(due, min(SETTLED_STEPS, math.ceil(length / 4)))
        due = max(due, start + 1, self.checks[-1].iteration + 1 if self.checks else 1)
        return due if due < length else None

    def checked(self, iteration: int, seconds: float, budget_seconds: float) -> Schedule:
        """The schedule after a check: the same length, or the one that fills the budget at the pace since the last.

        Args:
            iteration: iterations done, more than at the last check.
            seconds: training time so far.
            budget_seconds: training time that there is in all.
        """
        last = self.checks[-1] if self.checks else Check(0, 0.0, self.planned)
        pace = (seconds - last.seconds) / (iteration - last.iteration)
        end = seconds + pace * (self.iterations - iteration)
        length = self.iterations
        if pace > 0 and not EARLIEST * budget_seconds <= end <= LATEST * budget_seconds:
            affordable = int(FILLED * max(budget_seconds - seconds, 0.0) / pace)
            length = iteration + max(1, affordable)
        return Schedule(self.planned, (*self.checks, Check(iteration, seconds, length)))

    def _segment(self, iteration: int) -> tuple[int, float, int]:
        """Of the stretch with one length that holds an iteration: its start, progress there, and the length."""
        start, passed, length = 0, 0.0, self.planned
        for check in self.checks:
            if check.iteration <= iteration and check.iterations != length:
                passed += (1 - passed) * (check.iteration - start) / (length - start)
                start, length = check.iteration, check.iterations
        return start, passed, length
