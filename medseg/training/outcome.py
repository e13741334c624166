"""What a training came to: whether the model has learned, which labels it never found, what more time would buy.

Nothing here is computed by a network. The held-out cases say what was learned; of the learning curve only one thing is
read, since its rise at the end is owed to the falling learning rate: a curve that does not rise there is at its end.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING, Literal

from medseg.evaluation.detection import LabelFound, cases_text, labels_found, never_found_text
from medseg.planning.sizing import STEPS_WANTED
from medseg.training.history import HistoryRow

if TYPE_CHECKING:
    from medseg.evaluation import Evaluation
    from medseg.training.run import Run

OUTCOME_FILE = "outcome.json"
FEWEST_STEPS = 100
"""Runs from random weights with fewer steps have learned nothing, unless their Dice says otherwise."""
FEW_STEPS_DICE = 0.5
"""It says so from here on: easy data (``medseg demo --quick``) have reached 0.9 in 77 steps."""
STEPS_TO_TRY = 500
"""A first run that teaches something: hippocampus has 0.866 after 405 steps, docs/lab-notes.md."""
LEARNED_DICE = 0.1
"""A mean Dice below this counts as nothing learned."""
WORTHWHILE_GAIN = 0.005
"""Dice that a run twice as long must bring at least to be called worth it; runs of one kind differ by 0.003."""
FEWEST_POINTS = 8
"""Points that the second half of a learning curve needs before it can be called flat."""

Kind = Literal["learned", "improving", "partly", "not learned", "too short", "not measured"]


@dataclass(frozen=True)
class GainRule:
    """How Dice grows with the time of training: 1 - Dice falls by a part of itself with each doubling.

    Attributes:
        low, high: the least and the largest part that is expected.
        fewest_steps, most_steps: runs between which the rule is used.
        source: where the numbers are from.
    """

    low: float
    high: float
    fewest_steps: int
    most_steps: int
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1:
            raise ValueError(f"expected 0 <= low <= high < 1, found low {self.low} and high {self.high}")


GAIN_RULE = GainRule(
    low=0.03,
    high=0.20,
    fewest_steps=200,
    most_steps=7000,
    source="docs/lab-notes.md of 2026-12-01: from 300 to 1200 steps hippocampus and retina lose 4 to 10 % of their"
    " error a doubling, OpenKBP and STS 15 to 25 %; used from 200 steps on",
)


def expected_gain(
    dice: float, factor: float, steps: int | None = None, rule: GainRule = GAIN_RULE
) -> tuple[float, float] | None:
    """What a run several times as long would add to a Dice, from ... to; None where the rule does not reach.

    Args:
        dice: mean Dice of the run that there is.
        factor: how many times as long, 1 or more.
        steps: of the run that there is.

    Raises:
        ValueError: a factor below 1.
    """
    if factor < 1:
        raise ValueError(f"expected a factor of 1 or more, found {factor}")
    if math.isnan(dice) or (steps is not None and not rule.fewest_steps <= steps <= rule.most_steps):
        return None
    low, high = ((1 - dice) * (1 - (1 - part) ** math.log2(factor)) for part in (rule.low, rule.high))
    return low, high


@dataclass(frozen=True)
class Longer:
    """A longer run to try.

    Attributes:
        steps: about how many it would have.
        seconds: about how long it would take, at the pace of the run that there is.
        option: what asks for it on the command line, such as ``--budget 12m``.
        factor: its length as a multiple of the run that there is.
        gain: the Dice that it would bring, from ... to, where that can be said.
    """

    steps: int
    seconds: float
    option: str
    factor: float
    gain: tuple[float, float] | None


@dataclass(frozen=True)
class TrainingOutcome:
    """What ``outcome.json`` holds.

    Attributes:
        kind: ``learned``; ``improving``: learned, and twice the time would bring ``WORTHWHILE_GAIN`` or more;
            ``partly``: some labels were never found, or hardly; ``not learned``; ``too short``: too few steps to learn
            from; ``not measured``: nothing was held out.
        steps: iterations of the run.
        seconds: training time.
        measured_on: what ``mean_dice`` is from: whole held-out cases, or the patches of the learning curve.
        measured, held_out: cases that were measured, of how many.
        mean_dice: mean over labels of their mean over cases; NaN without any.
        labels: each label over the measured cases; on patches all counts are 0.
        never_found: labels with Dice 0 in all cases that have them.
        hardly_found: further ones whose mean Dice is below ``LEARNED_DICE``, or no better than marking every voxel.
        unmeasured: labels that no measured case has.
        flat: the curve did not rise in the second half of the run, although the learning rate fell.
        longer: a longer run to try, if one is worth it or the gain can be told.
    """

    version: Literal[1]
    kind: Kind
    steps: int
    seconds: float
    measured_on: Literal["cases", "patches"]
    measured: int
    held_out: int
    mean_dice: float
    labels: tuple[LabelFound, ...]
    never_found: tuple[str, ...]
    hardly_found: tuple[str, ...]
    unmeasured: tuple[str, ...]
    flat: bool
    longer: Longer | None

    @property
    def has_learned(self) -> bool:
        """Whether the model is worth predicting with; what was not measured is not held against it."""
        return self.kind not in ("not learned", "too short")


def judge_training(
    run: Run,
    labels: Sequence[str],
    history: Sequence[HistoryRow],
    evaluation: Evaluation | None = None,
    *,
    held_out: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    rule: GainRule = GAIN_RULE,
) -> TrainingOutcome:
    """What a finished run came to.

    Args:
        labels: names, in the order of the curve's Dice.
        history: the learning curve; its last point says how long the run was, where ``steps`` and ``seconds`` do not.
        evaluation: the held-out cases against their references; without, or where all of them failed, the last point
            of the curve counts.
        held_out: held-out cases that there are, where not all were measured.
        rule: what more time brings.
    """
    last = history[-1] if history else None
    steps = (last.iteration if last else 0) if steps is None else steps
    seconds = (last.seconds if last else 0.0) if seconds is None else seconds
    found = labels_found(evaluation) if evaluation is not None else ()
    measured = len(evaluation.cases) - len(evaluation.failures) if evaluation is not None else 0
    on_cases = any(not math.isnan(label.dice) for label in found)
    if not on_cases:
        dices = last.class_dice if last else ()
        found = tuple(LabelFound(name, 0, 0, dice, math.nan) for name, dice in zip(labels, dices, strict=False))
    known = [label for label in found if not math.isnan(label.dice)]
    mean = fmean(label.dice for label in known) if known else math.nan
    missing = tuple(label.label for label in known if (label.never_found if on_cases else label.dice == 0))
    hardly = tuple(
        label.label
        for label in known
        if label.label not in missing and (label.dice < LEARNED_DICE or label.dice <= label.full_dice)
    )
    flat = not missing and not hardly and is_flat([row.mean_dice for row in history])
    gain = expected_gain(mean, 2.0, steps, rule)
    if steps < FEWEST_STEPS and run.pretrained is None and not mean >= FEW_STEPS_DICE:
        kind: Kind = "too short"
    elif not known:
        kind = "not measured"
    elif mean < LEARNED_DICE or len(missing) == len(known) or mean <= _full_mask_dice(known):
        kind = "not learned"
    elif missing or hardly:
        kind = "partly"
    elif not flat and (steps < rule.fewest_steps or (gain is not None and gain[0] >= WORTHWHILE_GAIN)):
        kind = "improving"
    else:
        kind = "learned"
    return TrainingOutcome(
        version=1,
        kind=kind,
        steps=steps,
        seconds=seconds,
        measured_on="cases" if on_cases else "patches",
        measured=measured if on_cases else 0,
        held_out=max(held_out or 0, len(evaluation.cases) if evaluation is not None else 0),
        mean_dice=mean,
        labels=found,
        never_found=missing,
        hardly_found=hardly,
        unmeasured=tuple(label.label for label in found if label not in known),
        flat=flat,
        longer=_longer(run, kind, steps, seconds, None if flat or kind not in ("learned", "improving") else gain),
    )


def is_flat(dice: Sequence[float]) -> bool:
    """Whether a curve has come to its end: in its second half, later points lie less than ``WORTHWHILE_GAIN`` higher.

    The mean of the last quarter is compared with that of the quarter before; twice the standard error of their
    difference is added, so that a curve that jumps about is not called flat.
    """
    second = [value for value in dice[len(dice) // 2 :] if not math.isnan(value)]
    if len(second) < FEWEST_POINTS:
        return False
    before, after = second[: len(second) // 2], second[len(second) // 2 :]
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    return fmean(after) - fmean(before) + 2 * error < WORTHWHILE_GAIN


def outcome_lines(outcome: TrainingOutcome, command: str) -> list[str]:
    """One to four sentences for people.

    Args:
        command: what began the run, without its length, such as ``medseg train -w W --fold 0``.
    """
    longer = outcome.longer
    again = f"{command} {longer.option} --restart" if longer else ""
    took = time_text(longer.seconds) if longer else ""
    lines = [_headline(outcome)]
    partial = [label for label in outcome.labels if 0 < label.found < label.present]
    if outcome.kind == "partly":
        never = never_found_text(outcome.labels) or ", ".join(outcome.never_found)  # on patches no cases are counted
        dice = {label.label: label.dice for label in outcome.labels}
        hardly = ", ".join(f"{label} (mean Dice {dice[label]:.3f})" for label in outcome.hardly_found)
        parts = {"Never found": never, "Hardly found": hardly}
        lines.append(" ".join(f"{what}: {which}." for what, which in parts.items() if which))
    if partial and outcome.has_learned:
        named = [f"{label.label} in {label.found} of {label.present} cases" for label in partial[:4]]
        lines.append(f"Found in part: {', '.join(named)}{', ...' if len(partial) > 4 else ''}.")
    if longer is None:
        if outcome.kind == "not learned":
            lines.append(
                "So many steps should teach more: look at progress.png, and at the data with medseg doctor DATASET."
            )
        elif outcome.flat:
            lines.append("The learning curve was flat at the end of the run; more time would bring little.")
    elif outcome.kind in ("too short", "not learned"):
        lines.append(f"{longer.steps} steps would take about {took} here: {again}")
    elif outcome.kind == "partly":
        rare = " A rare label is shown more often with --balance-classes." if outcome.steps >= STEPS_WANTED else ""
        lines.append(f"Train longer, about {took}: {again}{rare}")
    elif longer.gain is None:
        lines.append(f"A longer run should bring more, how much cannot be told from so few steps: {again}")
    else:
        lines.append(
            f"Twice the time (about {took}) would bring {_gain_text(longer.gain)} more Dice"
            + (f": {again}" if outcome.kind == "improving" else ".")
        )
    return lines


def train_command(run: Run, workspace: str, default_configuration: str | None = None) -> str:
    """The command that begins a run like this one, without its length."""
    words = ["medseg", "train", "-w", workspace]
    if run.configuration != default_configuration:
        words += ["-c", run.configuration]
    words += ["--fold", str(run.fold)]
    if run.seed:
        words += ["--seed", str(run.seed)]
    if run.pretrained is not None:
        words += ["--pretrained", run.pretrained]
    if run.recipe.frozen_iterations:
        words += ["--freeze", str(run.recipe.frozen_iterations)]
    words += ["--balance-classes"] * run.recipe.balance_classes + ["--deterministic"] * run.deterministic
    return shlex.join(words)


def budget_text(seconds: float) -> str:
    """A time as ``--budget`` takes it, such as ``90s``, ``12m`` or ``1h30m``; never less than the given one."""
    if seconds <= 120:
        return f"{max(10, 10 * math.ceil(seconds / 10))}s"
    minutes = math.ceil(seconds / 60)
    if minutes < 120:
        return f"{minutes}m"
    quarters = math.ceil(minutes / 15)
    return f"{quarters // 4}h" + (f"{quarters % 4 * 15}m" if quarters % 4 else "")


def time_text(seconds: float) -> str:
    """A time for a reader: ``40 s``, ``12 min`` (rounded up), ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _full_mask_dice(known: Sequence[LabelFound]) -> float:
    """Mean over labels of the Dice of a mask of every voxel; 0 on patches, of which it is not known."""
    full = [label.full_dice for label in known if not math.isnan(label.full_dice)]
    return fmean(full) if full else 0.0


def _longer(run: Run, kind: Kind, steps: int, seconds: float, gain: tuple[float, float] | None) -> Longer | None:
    """The run to try next: of so many steps that something is learned, or twice as long."""
    if not steps or kind == "not measured":
        return None
    if kind in ("too short", "not learned"):
        if steps >= STEPS_TO_TRY:
            return None
        wanted = STEPS_TO_TRY
    elif kind == "learned" and gain is None:
        return None
    else:
        wanted = max(2 * steps, STEPS_TO_TRY if kind == "partly" else 0)
    factor = wanted / steps
    if run.budget_seconds is None:
        return Longer(wanted, seconds * factor, f"--iterations {wanted}", factor, gain)
    time = 2 * run.budget_seconds
    if factor != 2:  # what was spent before the first step stays about the same
        spent = run.budget_seconds - (run.training_seconds or run.budget_seconds)
        time = seconds * factor + spent
    return Longer(wanted, time, f"--budget {budget_text(time)}", factor, gain)


def _headline(outcome: TrainingOutcome) -> str:
    steps = f"{outcome.steps} step{'' if outcome.steps == 1 else 's'}"
    where = "on held-out patches"
    if outcome.measured_on == "cases":
        of = f"{outcome.measured} of " if outcome.measured < outcome.held_out else ""
        where = f"on {of}{cases_text(outcome.held_out).replace('case', 'held-out case')}"
    dice = "" if math.isnan(outcome.mean_dice) else f"mean Dice {outcome.mean_dice:.3f} {where}"
    if outcome.kind == "too short":
        learned = "this model has learned nothing" if outcome.steps < 10 else "too few to learn from"
        return f"Trained {steps} only: {learned}{f' ({dice})' if dice else ''}."
    if outcome.kind == "not measured":
        return f"Trained {steps}; no held-out case was measured, so what the model has learned is not known."
    if outcome.kind == "not learned":
        than = ""
        if outcome.mean_dice <= _full_mask_dice(outcome.labels):
            than = f", no better than {'an empty mask' if outcome.mean_dice == 0 else 'marking every voxel'}"
        return f"Not learned: {dice} after {steps}{than}."
    if outcome.kind == "partly":
        known = sum(not math.isnan(label.dice) for label in outcome.labels)
        count = known - len(outcome.never_found) - len(outcome.hardly_found)
        return f"Learned in part: {dice}; {count} of {known} labels found."
    return f"{'Learned, and still improving' if outcome.kind == 'improving' else 'Learned'}: {dice}."


def _gain_text(gain: tuple[float, float]) -> str:
    low, high = (round(value, 3) for value in gain)
    if low < 0.001:
        return "less than 0.001" if high < 0.001 else f"at most {high:.3f}"
    return f"about {low:.3f} to {high:.3f}"
