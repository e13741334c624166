"""Is a mean difference over the same cases more than chance? Arrays in, numbers out.

The interval is that of the studentised bootstrap over cases (bootstrap-t, Efron 1981). Its probability is that of a
sign-flip test (Fisher 1935): were two systems the same but for chance, each case's difference could as well have the
other sign, whatever its distribution. The bootstrap alone finds a difference too often where differences have heavy
tails. Where systems were trained with several seeds, the variance that seeds add to a mean is estimated apart and added
to both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 10_000
"""Bootstrap draws, and sign flips; so many that p can be as small as a correction for a hundred comparisons asks."""
CONFIDENCE = 0.95
BETTER, WORSE, UNDECIDED = "better", "worse", "not distinguishable"

RESOLVED = 10
"""With fewer draws beyond it, p is too small for the draws to tell."""

_CELLS = 2**24  # of an array in memory at a time


@dataclass(frozen=True)
class Difference:
    """A mean difference over ``cases``, its interval, and the two-sided probability of one as large by chance."""

    mean: float
    low: float
    high: float
    p: float
    cases: int


@dataclass(frozen=True)
class SeedSpread:
    """Variance that the choice of a seed adds to a run's mean, and on how many degrees of freedom it is known."""

    variance: float
    freedom: int


def paired_differences(
    differences: np.ndarray, seed_variances: np.ndarray | None = None, seed_freedom: np.ndarray | None = None
) -> list[Difference]:
    """Mean, interval and p of each column.

    Fewer than six cases never give p below 0.05: were there no difference, all six signs would agree once in 32 times.

    Args:
        differences: (cases, columns); NaN where a case has none.
        seed_variances: (columns,) variance of each mean difference that seeds cause; none by default.
        seed_freedom: (columns,) degrees of freedom of those variances.
    """
    differences = np.asarray(differences, float)
    known = ~np.isnan(differences)
    counts = known.sum(axis=0)
    columns = differences.shape[1]
    means = np.divide(
        np.where(known, differences, 0).sum(axis=0), counts, out=np.full(columns, np.nan), where=counts > 0
    )
    errors = _bootstrap_errors(np.where(known, differences - means, 0), known)
    extra = np.zeros(columns) if seed_variances is None else seed_variances
    freedom = np.full(columns, np.inf) if seed_freedom is None else seed_freedom
    errors += _seed_errors(1, extra, freedom)
    chance = np.abs(_flipped_means(np.where(known, differences, 0), counts) + _seed_errors(2, extra, freedom))
    tail = (1 - CONFIDENCE) / 2
    found = []
    for column, (mean, cases) in enumerate(zip(means.tolist(), counts.tolist(), strict=True)):
        if cases < 2:
            found.append(Difference(mean, np.nan, np.nan, np.nan, cases))
            continue
        low, high = np.quantile(errors[:, column], (1 - tail, tail))
        beyond = np.count_nonzero(chance[:, column] >= abs(mean) * (1 - 1e-9))
        p = (beyond + 1) / (RESAMPLES + 1)
        if beyond < RESOLVED:
            p = min(p, _student_p(differences[known[:, column], column], extra[column], freedom[column]))
        p = max(p, 2.0 ** (1 - cases))
        found.append(Difference(mean, float(mean - low), float(mean - high), min(p, 1.0), cases))
    return found


def seed_spread(values: np.ndarray) -> SeedSpread:
    """What seeds add to the mean of a run, beside the noise of its cases.

    Args:
        values: (seeds, cases) of one system; NaN where a case has none.
    """
    values = values[:, ~np.isnan(values).any(axis=0)]
    seeds, cases = values.shape
    if seeds < 2 or cases < 2:
        return SeedSpread(0.0, 0)
    means = values.mean(axis=1)
    rest = values - means[:, None] - values.mean(axis=0) + values.mean()
    within = float((rest**2).sum()) / ((seeds - 1) * (cases - 1))
    # The means also differ because each run scatters on each case; the bootstrap over cases knows that part.
    return SeedSpread(max(0.0, float(means.var(ddof=1)) - within / cases), seeds - 1)


def pooled(spreads: Sequence[SeedSpread]) -> SeedSpread:
    """One spread from those of several systems, each weighing as much as it is known."""
    freedom = sum(spread.freedom for spread in spreads)
    total = sum(spread.variance * spread.freedom for spread in spreads)
    return SeedSpread(total / freedom if freedom else 0.0, freedom)


def holm(p: Sequence[float]) -> np.ndarray:
    """Probabilities corrected for their number, step by step from the smallest (Holm 1979); NaN stays NaN."""
    given = np.asarray(p, float)
    corrected = np.full(given.shape, np.nan)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors)) if len(order) else []
    return corrected


def verdict(difference: Difference, p_corrected: float, higher_is_better: bool) -> str:
    """The word for a difference: chance is improbable, and the interval does not reach zero."""
    if not p_corrected <= 1 - CONFIDENCE + 1e-12 or difference.low <= 0 <= difference.high:
        return UNDECIDED
    return BETTER if (difference.mean > 0) == higher_is_better else WORSE


def rank_shares(runs: Sequence[np.ndarray], higher_is_better: bool) -> np.ndarray:
    """How often each system takes each place when cases, and seeds, are drawn anew: (systems, places), rows sum to 1.

    Args:
        runs: of each system (seeds, labels, cases) values, NaN where there is none. A system's score is the mean over
            labels of the mean over cases and seeds. Systems with equal scores share their places.
    """
    cases = runs[0].shape[-1]
    scores = np.full((RESAMPLES, len(runs)), np.nan)
    generator = np.random.default_rng(2)
    for start, weights in _draws(cases, max(1, max(run.shape[0] * run.shape[1] for run in runs))):
        for system, run in enumerate(runs):
            seeds, labels, _ = run.shape
            flat = run.reshape(seeds * labels, cases).T
            known = ~np.isnan(flat)
            counts = weights @ known
            sums = weights @ np.where(known, flat, 0)
            means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
            means = means.reshape(-1, seeds, labels)
            drawn = generator.integers(seeds, size=(len(weights), seeds))
            means = np.take_along_axis(means, drawn[:, :, None], axis=1).mean(axis=1)
            kept = ~np.isnan(means)
            total = np.where(kept, means, 0).sum(axis=1)
            scores[start : start + len(weights), system] = np.divide(
                total, kept.sum(axis=1), out=np.full(len(weights), np.nan), where=kept.any(axis=1)
            )
    scores = scores[~np.isnan(scores).any(axis=1)]
    if not higher_is_better:
        scores = -scores
    above = (scores[:, None, :] > scores[:, :, None]).sum(axis=2)
    equal = (scores[:, None, :] == scores[:, :, None]).sum(axis=2)
    places = np.arange(len(runs))
    held = (places >= above[..., None]) & (places < (above + equal)[..., None])
    return (held / equal[..., None]).mean(axis=0) if len(scores) else np.full((len(runs),) * 2, np.nan)


def _bootstrap_errors(centred: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Errors (RESAMPLES, columns) of means as the bootstrap sees them, from differences less their mean (0 if none).

    A draw's error is measured in its own standard error and given back in that of the sample. A draw without spread
    has no measure of its own; there, the sample's stands in.
    """
    counts = np.maximum(known.sum(axis=0), 1)
    spread = np.sqrt((centred**2).sum(axis=0) / counts)
    errors = np.zeros((RESAMPLES, centred.shape[1]))
    for start, weights in _draws(len(centred), centred.shape[1]):
        drawn = np.maximum(weights @ known, 1)
        mean = weights @ centred / drawn
        own = np.sqrt(np.maximum(weights @ centred**2 / drawn - mean**2, 0))
        own = np.where(own > 1e-9 * spread, own, spread)
        # A column may be drawn fewer or more times than it has cases; both errors of the mean follow the square root.
        scale = np.divide(spread, own, out=np.zeros_like(own), where=own > 0) * np.sqrt(drawn / counts)
        errors[start : start + len(weights)] = mean * scale
    return errors


def _flipped_means(differences: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means (RESAMPLES, columns) were the sign of each case's difference (0 if none) a matter of chance."""
    generator = np.random.default_rng(3)
    cases, columns = differences.shape
    means = np.empty((RESAMPLES, columns))
    at_a_time = max(1, min(RESAMPLES, _CELLS // max(cases, columns, 1)))
    for start in range(0, RESAMPLES, at_a_time):
        signs = generator.integers(2, size=(min(at_a_time, RESAMPLES - start), cases)) * 2.0 - 1
        means[start : start + len(signs)] = signs @ differences / np.maximum(counts, 1)
    return means


def _seed_errors(stream: int, variances: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Errors (RESAMPLES, columns) of mean differences that other seeds would have caused."""
    generator = np.random.default_rng([stream, 1])
    errors = np.zeros((RESAMPLES, len(variances)))
    for column in np.flatnonzero(variances > 0):
        errors[:, column] = np.sqrt(variances[column]) * generator.standard_t(freedom[column], RESAMPLES)
    return errors


def _student_p(differences: np.ndarray, extra: float, freedom: float) -> float:
    """Two-sided p of Student's t, for tails that the draws cannot resolve."""
    from scipy.stats import t

    error = np.sqrt(differences.var(ddof=1) / len(differences) + extra)
    known_on = min(len(differences) - 1, freedom) if extra > 0 else len(differences) - 1
    return float(2 * t.sf(abs(differences.mean()) / error, known_on)) if error > 0 else 0.0


def _draws(cases: int, columns: int) -> Iterator[tuple[int, np.ndarray]]:
    """How often each case is drawn: (start, weights (draws, cases)), all ``RESAMPLES`` of them a part at a time."""
    at_a_time = max(1, min(RESAMPLES, _CELLS // max(cases, columns, 1)))
    if at_a_time == RESAMPLES:
        yield 0, _all_draws(cases)
        return
    generator = np.random.default_rng(0)
    for start in range(0, RESAMPLES, at_a_time):
        size = min(at_a_time, RESAMPLES - start)
        yield start, generator.multinomial(cases, np.full(cases, 1 / cases), size=size).astype(float)


@lru_cache(maxsize=2)
def _all_draws(cases: int) -> np.ndarray:
    """From a generator of its own, so that the same cases always give the same figures."""
    generator = np.random.default_rng(0)
    return generator.multinomial(cases, np.full(cases, 1 / cases), size=RESAMPLES).astype(float)
