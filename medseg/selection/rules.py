"""How it is decided, from Dice alone: arrays (variants, labels, cases), NaN where a label is in neither mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from medseg.comparing.statistics import BETTER, Difference, holm, paired_differences, verdict
from medseg.labels import LabelSet
from medseg.postprocessing import Step

Rule = Literal["noise", "nnunet"]
Measure = Callable[[Sequence[tuple[Step, ...]]], np.ndarray]
"""Dice (variants, labels, cases) of the chosen model after each of some sequences of steps."""

SIZES_MM3 = (10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
"""Least sizes of a component that are tried."""
MOST_STEPS = 8


def choose_model(
    rule: Rule, names: Sequence[str], scores: np.ndarray, means: Sequence[float], singles: int
) -> tuple[int, list[str]]:
    """The index of the model to use, and why. The first ``singles`` are configurations, the others pairs."""
    first = int(np.nanargmax(means))
    if rule == "nnunet":
        return first, [f"{names[first]} has the highest mean Dice, {means[first]:.4f}"]
    best = int(np.nanargmax(means[:singles]))
    because = [f"{names[best]} has the highest mean Dice of the configurations, {means[best]:.4f}"]
    others = [index for index in range(len(names)) if index != best]
    if not others:
        return best, because
    gains = _beyond_noise(scores[best], scores[others])
    for index, (word, difference) in zip(others, gains, strict=True):
        if index < singles and word != BETTER:
            lead = -difference.mean
            because.append(f"{names[best]} leads {names[index]} by {lead:.4f} Dice ({_interval(difference, sign=-1)})")
    better = [index for index, (word, _) in zip(others, gains, strict=True) if index >= singles and word == BETTER]
    if better:
        chosen = max(better, key=lambda index: means[index])
        _, difference = gains[others.index(chosen)]
        because.append(
            f"{names[chosen]} is better than it beyond noise: {difference.mean:+.4f} ({_interval(difference)})"
        )
        return chosen, because
    if len(names) > singles:
        because.append("no pair is better than it beyond noise")
    return best, because


def steps_of_nnunet(labels: LabelSet, measure: Measure) -> tuple[list[Step], list[str]]:
    """The largest component of the foreground if the mean rises and no class falls; then of each class that rises."""
    overall = Step("largest_component", labels.values)
    before, after = measure([(), (overall,)])
    steps, because = [], []
    means, moved = _class_means(before), _class_means(after)
    rises = np.nanmean(moved) > np.nanmean(means) and not (moved < means).any()
    because.append(f"{overall}: mean Dice {np.nanmean(means):.4f} to {np.nanmean(moved):.4f}, {_kept(rises)}")
    if rises:
        steps.append(overall)
    if len(labels.classes) == 1:
        return steps, because
    classes = list(enumerate(labels.classes.items()))
    if not labels.has_regions:  # plain labels take their turn by value, regions as declared
        classes.sort(key=lambda entry: entry[1][1])
    for index, (name, covered) in classes:
        step = Step("largest_component", covered)
        before, after = (_class_means(score)[index] for score in measure([tuple(steps), (*steps, step)]))
        rises = after > before
        because.append(f"{step} ({name}): Dice {before:.4f} to {after:.4f}, {_kept(rises)}")
        if rises:
            steps.append(step)
    return steps, because


def steps_beyond_noise(labels: LabelSet, measure: Measure) -> tuple[list[Step], list[str]]:
    """One step after the other: of those that are better beyond noise and lower no class, the one that gains most."""
    candidates = [Step("largest_component", labels.values)]
    for covered in labels.classes.values():
        candidates += [Step("largest_component", covered), Step("fill_holes", covered)]
        candidates += [Step("minimum_size", covered, size) for size in SIZES_MM3]
    candidates = list(dict.fromkeys(candidates))
    steps: list[Step] = []
    because: list[str] = []
    while len(steps) < MOST_STEPS:
        waiting = [step for step in candidates if step not in steps]
        before, *after = measure([tuple(steps), *((*steps, step) for step in waiting)])
        gains = _beyond_noise(before, np.stack(after))
        kept = [
            (difference.mean, step, difference)
            for step, score, (word, difference) in zip(waiting, after, gains, strict=True)
            if word == BETTER and not (_paired_means(before, score) < 0).any()
        ]
        if not kept:
            because.append(f"no {'further ' if steps else ''}step of {len(waiting)} is better beyond noise")
            break
        _, step, difference = max(kept, key=lambda candidate: candidate[0])
        steps.append(step)
        because.append(f"{step}: {difference.mean:+.4f} Dice ({_interval(difference)}), kept")
    return steps, because


def _beyond_noise(before: np.ndarray, after: np.ndarray) -> list[tuple[str, Difference]]:
    """The word and the difference of the mean over labels, for each variant (variants, labels, cases) against one."""
    columns = []
    for variant in after:
        first, second = _paired(before, variant)
        known = ~np.isnan(second - first)
        counts = known.sum(axis=0)
        sums = np.where(known, second - first, 0).sum(axis=0)
        columns.append(np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0))
    found = paired_differences(np.stack(columns, axis=1))
    corrected = holm([difference.p for difference in found])
    return [(verdict(difference, p, True), difference) for difference, p in zip(found, corrected, strict=True)]


def _paired(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice of two variants (labels, cases); a label rightly left out by one and invented by the other counts as 1."""
    first, second = np.isnan(before), np.isnan(after)
    return np.where(first & ~second, 1.0, before), np.where(second & ~first, 1.0, after)


def _paired_means(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """By how much the mean of each label rises."""
    first, second = _paired(before, after)
    return np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in second - first])


def _class_means(score: np.ndarray) -> np.ndarray:
    return np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in score])


def mean_dice(score: np.ndarray) -> float:
    """The mean over labels of the mean over cases (labels, cases), each over what is defined."""
    means = _class_means(score)
    return float("nan") if np.isnan(means).all() else float(np.nanmean(means))


def _interval(difference: Difference, sign: int = 1) -> str:
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"95 % interval {low:+.4f} to {high:+.4f}, {difference.cases} cases"


def _kept(is_kept: bool | np.bool_) -> str:
    return "kept" if is_kept else "left out"
