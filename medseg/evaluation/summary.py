"""What an evaluation's table says in sum: each label, the foreground, and which cases to look at first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from medseg.evaluation.results import COLUMNS, METRICS

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_COLUMNS = (
    *("label", "value", "metric", "n", "mean", "mean_low", "mean_high", "std"),
    *("median", "minimum", "maximum", "infinite", "undefined"),
)
RESAMPLES = 1000
"""Bootstrap draws behind the interval of a mean."""
POOR_DICE = 0.5
"""Below this Dice less than half of what the masks hold is common to both."""


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """What an evaluation's table says about each label and metric, over the cases that did not fail.

    Returns:
        A row a label and metric: ``label``, ``value``, ``metric``; ``n`` cases in which the metric is defined, and
        ``undefined`` ones (NaN: both masks empty, say) that count nowhere else. Over the ``n`` cases ``median``,
        ``minimum`` and ``maximum``; of them, ``infinite`` ones (distances when one mask is empty). Over the finite
        ones ``mean``, ``mean_low`` and ``mean_high`` (95 % percentile bootstrap over cases, Efron 1979) and ``std``
        (n - 1).
    """
    import pandas as pd

    done, labels = table["error"].to_numpy() == "", table["label"].to_numpy()
    metrics = metrics_of(table)
    figures = table.loc[:, list(metrics)].to_numpy(float)
    rows: list[dict[str, object]] = []
    for label, value in dict(zip(table["label"], table["value"], strict=True)).items():
        values = figures[done & (labels == label)]
        low, high = _bootstrap_mean(values)
        for index, metric in enumerate(metrics):
            column = values[:, index]
            defined = column[~np.isnan(column)]
            finite = defined[np.isfinite(defined)]
            rows.append(
                {
                    "label": label,
                    "value": value,
                    "metric": metric,
                    "n": len(defined),
                    "mean": finite.mean() if len(finite) else np.nan,
                    "mean_low": low[index],
                    "mean_high": high[index],
                    "std": finite.std(ddof=1) if len(finite) > 1 else np.nan,
                    "median": np.median(defined) if len(defined) else np.nan,
                    "minimum": defined.min() if len(defined) else np.nan,
                    "maximum": defined.max() if len(defined) else np.nan,
                    "infinite": len(defined) - len(finite),
                    "undefined": len(column) - len(defined),
                }
            )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def metrics_of(table: pd.DataFrame) -> tuple[str, ...]:
    """The columns that are averaged: those that every table has, then further ones in order."""
    return (*METRICS, *(column for column in table.columns if column not in COLUMNS))


def foreground_mean(summary: pd.DataFrame) -> pd.DataFrame:
    """The mean over labels of each metric's mean, with the labels that have none counted and not averaged.

    Returns:
        A row a metric: ``metric``, ``mean``, ``labels`` that count, and ``absent`` ones without any finite value.
    """
    means = summary.groupby("metric", sort=False)["mean"]
    return means.agg(mean="mean", labels="count", absent=lambda column: column.isna().sum()).reset_index()


@dataclass(frozen=True)
class Finding:
    """One thing to look at: ``kind`` is failed, missed, invented or poor; ``label`` is empty for a failed case."""

    kind: str
    case: str
    label: int | str
    text: str


def findings(table: pd.DataFrame) -> list[Finding]:
    """What went wrong, worst first.

    Cases that failed; labels missed altogether, the largest first; labels predicted where the reference has none, the
    largest first; then rows with a Dice below ``POOR_DICE``, the lowest first.
    """
    import pandas as pd

    rows = table.to_dict("records")
    failed = {row["case"]: row["error"] for row in rows if row["error"]}
    done = [row for row in rows if not row["error"] and not pd.isna(row["tp"])]
    missed = [row for row in done if row["tp"] + row["fp"] == 0 < row["fn"]]
    invented = [row for row in done if row["tp"] + row["fn"] == 0 < row["fp"]]
    poor = [row for row in done if row["tp"] + row["fp"] > 0 < row["tp"] + row["fn"] and row["dice"] < POOR_DICE]
    return [
        *(Finding("failed", case, "", error) for case, error in failed.items()),
        *(
            Finding("missed", row["case"], row["label"], f"{_amount(row['fn'], row['reference_volume_ml'])} not found")
            for row in sorted(missed, key=lambda row: -row["fn"])
        ),
        *(
            Finding(
                "invented", row["case"], row["label"], f"{_amount(row['fp'], row['volume_ml'])} not in the reference"
            )
            for row in sorted(invented, key=lambda row: -row["fp"])
        ),
        *(
            Finding("poor", row["case"], row["label"], f"Dice {row['dice']:.3f}")
            for row in sorted(poor, key=lambda row: row["dice"])
        ),
    ]


def _amount(voxels: float, volume_ml: float) -> str:
    return f"{int(voxels)} voxels" if np.isnan(volume_ml) else f"{volume_ml:.3g} ml ({int(voxels)} voxels)"


def _bootstrap_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (columns,) of the 95 % interval of each column's mean of finite values (cases, columns); NaN below two."""
    finite = np.isfinite(values)
    bounds = np.full((2, values.shape[1]), np.nan)
    known = finite.sum(axis=0) > 1
    if known.any():
        weights = _draws(len(values))
        counts = weights @ finite[:, known]
        # A draw may hold none of the finite values; it has no mean and does not count.
        sums = weights @ np.where(finite, values, 0)[:, known]
        means = np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
        bounds[:, known] = np.nanpercentile(means, (2.5, 97.5), axis=0)
    return bounds[0], bounds[1]


@lru_cache(maxsize=1)
def _draws(cases: int) -> np.ndarray:
    """How often each case is drawn, (RESAMPLES, cases); from a generator of its own, so that figures stay the same."""
    generator = np.random.default_rng(0)
    return generator.multinomial(cases, np.full(cases, 1 / cases), size=RESAMPLES).astype(float)
