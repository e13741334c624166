"""All pairs of systems on the cases they share: a row a pair, label and metric, each with a word for what it says."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.comparing.figures import figures_of, higher_is_better, require_metrics, shared_cases
from medseg.comparing.statistics import (
    SeedSpread,
    holm,
    paired_differences,
    pooled,
    rank_shares,
    seed_spread,
    verdict,
)
from medseg.comparing.systems import Run, System, read_systems
from medseg.errors import UsageError
from medseg.metrics import COLUMNS as CASE_COLUMNS
from medseg.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_METRICS = ("dice", "surface_dice", "hausdorff95_mm")
COLUMNS = (
    *("system", "against", "label", "metric", "cases", "mean", "mean_against"),
    *("difference", "low", "high", "p", "p_holm", "verdict"),
)
"""The columns of the table; ``difference`` is ``mean`` minus ``mean_against`` over the cases that both have."""
MEAN_COLUMNS = ("system", "label", "metric", "cases", "mean", "seeds", "seed_std")
RANK_COLUMNS = ("metric", "system", "place", "share")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison found.

    Attributes:
        systems: names, in the order given.
        seeds: runs of each system.
        metrics: that were compared.
        table: a row a pair, label and metric, with the columns ``COLUMNS``. ``low`` and ``high`` bound the 95 %
            interval of ``difference``; ``p`` is the probability of one as large by chance, ``p_holm`` corrected for the
            number of rows; ``verdict`` says whether ``system`` is better or worse than ``against``, or not
            distinguishable from it.
        means: a row a system, label and metric; ``seed_std`` is the standard deviation of the runs' means.
        ranks: a row a metric, system and place, with the share of bootstrap draws in which the system takes the place.
        notes: what the reader must know: cases left out, infinite distances, a single seed.
    """

    systems: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    table: pd.DataFrame
    means: pd.DataFrame
    ranks: pd.DataFrame
    notes: tuple[str, ...]


def compare(
    *sources: Run | Sequence[Run] | Mapping[str, Run | Sequence[Run]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    references: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    tolerance_mm: float = 1.0,
    workers: int | str = 0,
    progress: Progress = silent,
) -> Comparison:
    """Read and compare systems.

    Args:
        sources: two or more systems, or one mapping from names to systems; see :func:`medseg.comparing.read_systems`.
        metrics: columns to compare.
        references, labels, tolerance_mm, workers: for folders of masks, as :func:`medseg.evaluate` takes them.

    Raises:
        UsageError, DocumentError, FileUnreadableError: as ``read_systems`` and ``compare_systems``.
    """
    given = sources[0] if len(sources) == 1 and isinstance(sources[0], Mapping) else list(sources)
    systems = read_systems(
        given,  # type: ignore[arg-type]
        references=references,
        labels=labels,
        tolerance_mm=tolerance_mm,
        metrics=[metric for metric in metrics if metric not in CASE_COLUMNS],
        workers=workers,
        progress=progress,
    )
    return compare_systems(systems, metrics)


def compare_systems(systems: Sequence[System], metrics: Sequence[str] = DEFAULT_METRICS) -> Comparison:
    """Compare every pair of systems, label by label and metric by metric, over the cases that all runs have.

    A metric is undefined where neither mask holds the label. Where one run leaves it out rightly and another invents
    it, the first counts as perfect there. An infinite distance counts as the largest finite one of its label. Volume
    errors are compared by their size.

    Raises:
        UsageError: systems of one name, a metric that a table lacks, or no case in common.
    """
    import pandas as pd

    names = tuple(system.name for system in systems)
    if len(set(names)) != len(names) or len(names) < 2:
        raise UsageError(f"compare: expected two or more systems with names of their own, found {', '.join(names)}")
    require_metrics(systems, metrics)
    cases, case_notes = shared_cases(systems)
    labels = list(dict.fromkeys(label for system in systems for run in system.runs for label in run["label"] if label))
    notes = list(case_notes)
    values = {metric: figures_of(systems, metric, labels, cases, notes) for metric in dict.fromkeys(metrics)}
    means, spreads = _means(names, labels, values)
    table = _pairs(names, labels, values, spreads)
    if all(len(system.runs) == 1 for system in systems):
        notes.append(
            "one run a system: what is said holds for these trained models; whether the methods differ needs several"
            " seeds of each"
        )
    return Comparison(
        systems=names,
        seeds=tuple(len(system.runs) for system in systems),
        metrics=tuple(values),
        table=pd.DataFrame(table, columns=list(COLUMNS)),
        means=pd.DataFrame(means, columns=list(MEAN_COLUMNS)),
        ranks=pd.DataFrame(_ranks(names, values), columns=list(RANK_COLUMNS)),
        notes=tuple(notes),
    )


def _means(
    names: Sequence[str], labels: Sequence[str], values: Mapping[str, list[np.ndarray]]
) -> tuple[list[tuple[object, ...]], dict[tuple[str, int], SeedSpread]]:
    """Rows of ``means``, and the spread that seeds cause by metric and label, pooled over systems."""
    rows: list[tuple[object, ...]] = []
    spreads = {}
    for metric, systems in values.items():
        for index, label in enumerate(labels):
            spreads[metric, index] = pooled([seed_spread(system[:, index]) for system in systems])
            for name, system in zip(names, systems, strict=True):
                runs = system[:, index]
                known = ~np.isnan(runs).any(axis=0)
                means = runs[:, known].mean(axis=1) if known.any() else np.full(len(runs), np.nan)
                std = float(means.std(ddof=1)) if len(means) > 1 else np.nan
                rows.append((name, label, metric, int(known.sum()), float(means.mean()), len(runs), std))
    return rows, spreads


def _pairs(
    names: Sequence[str],
    labels: Sequence[str],
    values: Mapping[str, list[np.ndarray]],
    spreads: Mapping[tuple[str, int], SeedSpread],
) -> list[tuple[object, ...]]:
    heads, columns, ours, theirs, variances, freedom = [], [], [], [], [], []
    for first, second in itertools.combinations(range(len(names)), 2):
        for index, label in enumerate(labels):
            for metric, systems in values.items():
                against, system = systems[first][:, index], systems[second][:, index]
                difference = system.mean(axis=0) - against.mean(axis=0)
                known = ~np.isnan(difference)
                spread = spreads[metric, index]
                heads.append((names[second], names[first], label, metric))
                columns.append(difference)
                ours.append(float(system[:, known].mean()) if known.any() else np.nan)
                theirs.append(float(against[:, known].mean()) if known.any() else np.nan)
                variances.append(spread.variance * (1 / len(system) + 1 / len(against)))
                freedom.append(max(1, spread.freedom))
    if not columns:
        return []
    found = paired_differences(np.stack(columns, axis=1), np.array(variances), np.array(freedom))
    corrected = holm([difference.p for difference in found])
    return [
        (
            *head,
            difference.cases,
            mean,
            mean_against,
            difference.mean,
            difference.low,
            difference.high,
            difference.p,
            p,
            verdict(difference, p, higher_is_better(head[3])),
        )
        for head, difference, mean, mean_against, p in zip(heads, found, ours, theirs, corrected.tolist(), strict=True)
    ]


def _ranks(names: Sequence[str], values: Mapping[str, list[np.ndarray]]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for metric, systems in values.items():
        if not systems[0].shape[1]:
            continue
        shares = rank_shares(systems, higher_is_better(metric))
        rows += [
            (metric, name, place, share)
            for name, places in zip(names, shares.tolist(), strict=True)
            for place, share in enumerate(places, 1)
        ]
    return rows
