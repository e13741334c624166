"""Figures of a comparison: differences with their intervals, and how often each system takes each place."""

from __future__ import annotations

import numpy as np

from medseg.comparing import BETTER, WORSE, Comparison
from medseg.report.plots import COLORS, INK, STYLE, inline

_VERDICT_COLORS = {BETTER: "#009E73", WORSE: "#D55E00"}


def differences(comparison: Comparison) -> str:
    """A panel a metric, a row a pair and label: the mean difference, its 95 % interval, the colour of its verdict.

    Returns:
        An SVG element.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    table = comparison.table
    several = len(comparison.systems) > 2
    heads = list(dict.fromkeys(zip(table["system"], table["against"], table["label"], strict=True)))
    names = [f"{label}: {system} \N{MINUS SIGN} {against}" if several else label for system, against, label in heads]
    with rc_context(STYLE):
        figure = Figure(figsize=(10.6, 0.8 + 0.3 * len(heads)), layout="constrained")
        panels = figure.subplots(1, len(comparison.metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, comparison.metrics, strict=True):
            rows = table.loc[table["metric"] == metric].to_dict("records")
            axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
            for place, row in enumerate(rows):
                color = _VERDICT_COLORS.get(row["verdict"], INK)
                if np.isfinite(row["low"]):
                    axes.hlines(place, row["low"], row["high"], color=color, linewidth=1.6)
                if np.isfinite(row["difference"]):
                    axes.plot(row["difference"], place, "o", color=color, markersize=4.5)
            axes.set_title(metric, fontsize=9, loc="left")
            axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
            axes.tick_params(axis="y", length=0)
            axes.margins(x=0.08)
        panels[0].set_ylim(len(heads) - 0.4, -0.6)
        panels[0].set_yticks(range(len(heads)), names)
        return inline(figure, "differences between systems", {})


def places(comparison: Comparison) -> str:
    """A panel a metric, a bar a system, divided by the share of draws in which it takes each place.

    Returns:
        An SVG element.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    systems = comparison.systems
    with rc_context(STYLE):
        figure = Figure(figsize=(10.6, 0.8 + 0.36 * len(systems)), layout="constrained")
        panels = figure.subplots(1, len(comparison.metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, comparison.metrics, strict=True):
            rows = comparison.ranks.loc[comparison.ranks["metric"] == metric]
            left = np.zeros(len(systems))
            for place in range(1, len(systems) + 1):
                share = rows.loc[rows["place"] == place].set_index("system")["share"].reindex(list(systems)).to_numpy()
                share = np.nan_to_num(share.astype(float))
                axes.barh(
                    range(len(systems)),
                    share,
                    0.66,
                    left,
                    color=COLORS[(place - 1) % len(COLORS)],
                    label=f"place {place}",
                )
                for row, (width, start) in enumerate(zip(share, left, strict=True)):
                    if width > 0.12:
                        axes.text(
                            start + width / 2,
                            row,
                            f"{width:.0%}",
                            ha="center",
                            va="center",
                            fontsize=8,
                            color="#ffffff",
                        )
                left += share
            axes.set_title(metric, fontsize=9, loc="left")
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
            axes.tick_params(axis="y", length=0)
        panels[0].set_ylim(len(systems) - 0.5, -0.5)
        panels[0].set_yticks(range(len(systems)), list(systems))
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=8, frameon=False, fontsize=8
        )
        return inline(figure, "places of the systems", {})
