"""Corrections of a run's length, by hand and with a clock that tests turn."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training import assert_same_bits, final_weights, make_trainer

from medseg.training import loop, recipe
from medseg.training.checkpoint import load_checkpoint
from medseg.training.pace import Check, Schedule


def run_to_the_end(planned: int, budget: float, seconds_of_step) -> tuple[Schedule, float]:
    """The schedule and the time of a run whose steps take what a function of the iteration says."""
    schedule, seconds, done = Schedule(planned), 0.0, 0
    while done < schedule.iterations:
        seconds += seconds_of_step(done)
        done += 1
        if done == schedule.next_check:
            schedule = schedule.checked(done, seconds, budget)
    return schedule, seconds


def test_a_run_on_time_keeps_its_length():
    schedule, seconds = run_to_the_end(100, budget=102.0, seconds_of_step=lambda _: 1.0)
    assert [check.iteration for check in schedule.checks] == [8, 25, 50, 75, 92]
    assert schedule.iterations == seconds == 100


def test_a_machine_half_as_fast_is_noticed_early():
    """8 steps of 2 s leave 84 of 100 s: 0.985 x 84 / 2 = 41 more steps. Then 49 in all take 98 s, which is in time."""
    schedule, seconds = run_to_the_end(100, budget=100.0, seconds_of_step=lambda _: 2.0)
    assert schedule.checks[0] == Check(8, 16.0, 49)
    assert schedule.iterations == 49
    assert seconds == 98


def test_a_run_that_would_end_much_too_early_is_lengthened():
    schedule, seconds = run_to_the_end(100, budget=200.0, seconds_of_step=lambda _: 1.0)
    assert schedule.checks[0].iterations == 8 + int(0.985 * 192)
    assert 192 < seconds <= 200


def test_a_later_check_counts_the_pace_since_the_one_before():
    """At 50 all is well; 25 steps of 3 s later there is no time left at all, and one more step is the last."""
    schedule, seconds = run_to_the_end(100, budget=102.0, seconds_of_step=lambda step: 1.0 if step < 50 else 3.0)
    assert [check.iterations for check in schedule.checks[:3]] == [100, 100, 100]
    assert schedule.checks[3] == Check(75, 125.0, 76)
    assert seconds == 128


def test_a_machine_that_speeds_up_late_uses_the_time():
    """The last check, at 92 %, still leaves a pace to correct for: 96 % of the time and more is used."""
    _, seconds = run_to_the_end(1000, budget=1000.0, seconds_of_step=lambda step: 1.0 if step < 700 else 0.5)
    assert 950 < seconds <= 1000


def test_what_cannot_be_met_ends_at_once():
    schedule, _ = run_to_the_end(8, budget=1.0, seconds_of_step=lambda _: 10.0)
    assert schedule.iterations == 3
    assert run_to_the_end(1, 1.0, lambda _: 10.0)[0] == Schedule(1)


@given(
    planned=st.integers(1, 300),
    budget=st.floats(1.0, 500.0),
    paces=st.lists(st.floats(0.01, 5.0), min_size=4, max_size=4),
)
def test_the_course_never_jumps_and_ends_at_the_end(planned, budget, paces):
    schedule, _ = run_to_the_end(planned, budget, lambda step: paces[min(3, 4 * step // planned)])
    course = [schedule.progress_at(step) for step in range(schedule.iterations)]
    assert course[0] == 0
    assert all(a < b for a, b in itertools.pairwise(course))
    assert course[-1] < 1
    assert schedule.progress_at(schedule.iterations) == pytest.approx(1)
    for check in schedule.checks:  # approached from below as from above
        before = Schedule(planned, tuple(c for c in schedule.checks if c.iteration < check.iteration))
        assert schedule.progress_at(check.iteration) == pytest.approx(before.progress_at(check.iteration))


def test_the_learning_rate_follows_the_corrected_course():
    chosen = recipe.recipe_for_iterations(1000, 2)
    shortened = Schedule(1000, (Check(250, 500.0, 500),))
    assert chosen.learning_rate_at(249, shortened) == chosen.learning_rate_at(249)
    assert chosen.learning_rate_at(250, shortened) == pytest.approx(chosen.learning_rate_at(250))
    assert chosen.learning_rate_at(375, shortened) == pytest.approx(1e-2 * (1 - 0.625) / 0.5)


class Clock:
    """Moves on by so many seconds each time a step is taken."""

    def __init__(self, trainer: loop.Trainer, seconds_of_step: float) -> None:
        self.now = 0.0
        step = trainer.step

        def timed_step(*arguments):
            self.now += seconds_of_step
            return step(*arguments)

        trainer.step = timed_step  # type: ignore[method-assign]

    def __call__(self) -> float:
        return self.now


def budgeted(seconds_of_step: float) -> tuple[loop.Trainer, Clock]:
    trainer = make_trainer(iterations=12)
    trainer.run = replace(trainer.run, budget_seconds=12.0, training_seconds=12.0)
    return trainer, Clock(trainer, seconds_of_step)


def test_a_slow_run_ends_in_time_and_goes_on_exactly(tmp_path):
    """Steps of 2 s: after 3 of them there is time for 2 more. Stopped before or after the check: the same bits."""
    trainer, clock = budgeted(2.0)
    assert loop.train_network(trainer, tmp_path / "whole", clock=clock)
    assert clock.now == 10
    for stop in (2, 4):
        folder = tmp_path / f"stopped after {stop}"
        trainer, clock = budgeted(2.0)
        assert not loop.train_network(
            trainer, folder, clock=clock, should_stop=lambda c=clock, s=stop: c.now >= 2.0 * s
        )
        # What comes after a check that was made does not depend on the machine's speed; what comes before one does.
        trainer, clock = budgeted(2.0)
        assert loop.train_network(trainer, folder, clock=clock)
        assert_same_bits(final_weights(tmp_path / "whole"), final_weights(folder))


def test_a_check_is_written_before_anything_else_happens(tmp_path):
    trainer, clock = budgeted(2.0)

    class KilledError(Exception):
        pass

    def killed(done, total, what):
        if done == 4:
            raise KilledError

    with pytest.raises(KilledError):
        loop.train_network(trainer, tmp_path, clock=clock, progress=killed)
    again = make_trainer(iterations=12)
    state = load_checkpoint(tmp_path / loop.CHECKPOINT_FILE, again.network, again.optimizer)
    assert (state.iteration, state.checks) == (3, (Check(3, 6.0, 5),))
