"""Figures: how metrics spread over cases, how volumes agree, how a training went.

Figures of the report are inline SVG that takes its ink from the page, so that light, dark and print all read well; each
point says its case and leads to it.
"""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg import atomic

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2F86CC", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#5CC3F0", "#9A8500")
"""Colours that people with any colour vision tell apart (after Okabe and Ito 2008), for labels in turn."""
PANELS = {"dice": "Dice", "surface_dice": "Surface Dice", "hausdorff95_mm": "Hausdorff 95 % (mm)"}
"""Metrics whose spread is drawn."""
MOST_POINTS = 3000
"""Above so many rows, only outliers are drawn as points."""
MOST_AGREEMENT_PANELS = 12

# matplotlib wants a colour; this one, used nowhere else, becomes the page's own ink.
INK = "#010203"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


def label_colors(labels: Sequence[int | str]) -> dict[int | str, str]:
    """A colour for each label, the same in every figure."""
    return {label: COLORS[index % len(COLORS)] for index, label in enumerate(labels)}


def distributions(table: pd.DataFrame, anchors: Mapping[str, str]) -> str:
    """Boxes (quartiles, whiskers to 1.5 times their distance, Tukey 1977) and points: a row a label, a panel a metric.

    Args:
        table: an evaluation's table without failed cases.
        anchors: the place in the page of each case.

    Returns:
        An SVG element.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(table["label"]))
    colors = label_colors(labels)
    with rc_context(STYLE):
        figure = Figure(figsize=(10.6, 0.75 + 0.42 * len(labels)), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
        for axes, (metric, title) in zip(panels, PANELS.items(), strict=True):
            for place, label in enumerate(labels):
                rows = table.loc[table["label"] == label]
                _spread(axes, rows, metric, place, colors[label], anchors, outliers_only=len(table) > MOST_POINTS)
            axes.set_title(title, fontsize=9, loc="left")
            axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
            axes.tick_params(axis="y", length=0)
            if not metric.endswith("_mm"):
                axes.set_xlim(min(axes.get_xlim()[0], 0.95), 1.005)
            else:
                axes.margins(x=0.03)
                axes.set_xlim(0, None)
        panels[0].set_ylim(len(labels) - 0.4, -0.6)
        panels[0].set_yticks(range(len(labels)), [str(label) for label in labels])
        return inline(figure, "spread of metrics over cases", anchors)


def agreement(table: pd.DataFrame, anchors: Mapping[str, str]) -> str:
    """Predicted minus reference volume against their mean, by label, with bias and limits (Bland and Altman 1986).

    Of many labels, those with the widest limits for their size are drawn. Arguments and result as
    :func:`distributions`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(table["label"]))
    colors = label_colors(labels)
    known = table["dice"].notna() & table["volume_error_ml"].notna()
    groups = {label: table.loc[known & (table["label"] == label)] for label in labels}
    widest = sorted(
        (label for label in labels if len(groups[label])), key=lambda label: -_spread_of_volume(groups[label])
    )
    drawn = [label for label in labels if label in widest[:MOST_AGREEMENT_PANELS]]
    if not drawn:
        return ""
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.53 * columns, 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(drawn) :]:
            axes.set_axis_off()
        for axes, label in zip(grid.flat, drawn, strict=False):
            _bland_altman(axes, groups[label], colors[label], anchors)
            axes.set_title(str(label), fontsize=9, loc="left")
        figure.supxlabel("mean of predicted and reference volume (ml)", fontsize=9)
        figure.supylabel("predicted \N{MINUS SIGN} reference (ml)", fontsize=9)
        return inline(figure, "agreement of volumes", anchors)


def limits_of_agreement(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean difference and the limits 1.96 standard deviations below and above; NaN limits for fewer than two."""
    bias = float(np.mean(differences)) if len(differences) else float("nan")
    reach = 1.96 * float(np.std(differences, ddof=1)) if len(differences) > 1 else float("nan")
    return bias, bias - reach, bias + reach


def training_plot(progress_csv: str | os.PathLike[str], png: str | os.PathLike[str]) -> None:
    """Draw the course of a training: losses, pseudo-Dice and learning rate by epoch.

    Args:
        progress_csv: columns epoch, iteration, seconds, learning_rate, train_loss, validation_loss, mean_dice, then
            ``dice_NAME`` of each class.
        png: the picture to write.

    Raises:
        StorageError: the picture cannot be written.
    """
    import pandas as pd
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    course = pd.read_csv(progress_csv)
    columns = list(course.columns)
    classes = columns[columns.index("mean_dice") + 1 :]
    colors = label_colors(classes)
    epochs = course["epoch"]
    mark = "." if len(course) < 40 else None
    with rc_context({**STYLE, **{name: "#222222" for name, value in STYLE.items() if value == INK}}):
        figure = Figure(figsize=(9, 8), layout="constrained")
        loss, dice, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
        loss.plot(epochs, course["train_loss"], color=COLORS[0], marker=mark, label="training")
        loss.plot(epochs, course["validation_loss"], color=COLORS[4], marker=mark, label="validation")
        loss.set_ylabel("loss")
        for name in classes:
            dice.plot(
                epochs, course[name], color=colors[name], linewidth=0.9, alpha=0.75, label=name.removeprefix("dice_")
            )
        dice.plot(epochs, course["mean_dice"], color="#222222", linewidth=1.8, marker=mark, label="mean")
        dice.set_ylabel("pseudo-Dice of validation patches")
        dice.set_ylim(0, 1)
        rate.plot(epochs, course["learning_rate"], color="#222222", marker=mark)
        rate.set_ylabel("learning rate")
        rate.set_xlabel("epoch")
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
        for axes in (loss, dice, rate):
            axes.grid(color="#222222", alpha=0.12, linewidth=0.6)
        for axes in (loss, dice):
            if len(axes.lines) <= 12:
                axes.legend(frameon=False, fontsize=8, loc="best")
        with atomic.replacing_file(png) as temporary:
            figure.savefig(temporary, format="png", dpi=110, facecolor="white")


def _spread(
    axes: Axes,
    rows: pd.DataFrame,
    metric: str,
    place: int,
    color: str,
    anchors: Mapping[str, str],
    *,
    outliers_only: bool,
) -> None:
    """One line: a box, its points, and how many values are infinite or undefined."""
    cases, values = rows["case"].to_numpy(), rows[metric].to_numpy(float)
    finite = np.isfinite(values)
    if finite.any():
        low, middle, high = np.percentile(values[finite], (25, 50, 75))
        reach = 1.5 * (high - low)
        inside = values[finite & (values >= low - reach) & (values <= high + reach)]
        axes.hlines(place, inside.min(), inside.max(), color=INK, linewidth=0.8, zorder=1)
        axes.barh(place, high - low, 0.56, low, color=color, alpha=0.3, edgecolor="none", zorder=2)
        axes.vlines(middle, place - 0.28, place + 0.28, color=INK, linewidth=1.4, zorder=4)
        outlying = (values < low - reach) | (values > high + reach)
        shown = finite & (outlying | (not outliers_only))
        jitter = np.random.default_rng(place).uniform(-0.2, 0.2, len(values))
        points = axes.scatter(
            values[shown], place + jitter[shown], s=9, color=color, alpha=0.75, linewidths=0, zorder=3
        )
        points.set_urls([f"#{anchors[case]}" for case in cases[shown]])
    infinite = int(np.isinf(values).sum())
    if infinite:
        axes.annotate(f"+ {infinite} at ∞", (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    if not finite.any() and not infinite:
        axes.annotate(
            "undefined", (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, alpha=0.7
        )


def _bland_altman(axes: Axes, rows: pd.DataFrame, color: str, anchors: Mapping[str, str]) -> None:
    difference = rows["volume_error_ml"].to_numpy(float)
    mean = (rows["volume_ml"].to_numpy(float) + rows["reference_volume_ml"].to_numpy(float)) / 2
    bias, low, high = limits_of_agreement(difference)
    axes.axhline(0, color=INK, linewidth=0.6, alpha=0.5)
    axes.axhline(bias, color=color, linewidth=1.4)
    for limit in (low, high):
        if np.isfinite(limit):
            axes.axhline(limit, color=color, linewidth=1, linestyle=(0, (4, 3)))
    points = axes.scatter(mean, difference, s=11, color=color, alpha=0.75, linewidths=0)
    points.set_urls([f"#{anchors[case]}" for case in rows["case"]])
    axes.margins(y=0.12)


def _spread_of_volume(rows: pd.DataFrame) -> float:
    """Width of the limits of agreement as a part of the mean reference volume."""
    _, low, high = limits_of_agreement(rows["volume_error_ml"].to_numpy(float))
    size = float(rows["reference_volume_ml"].to_numpy(float).mean())
    return (high - low) / size if size > 0 and np.isfinite(low) else 0.0


def inline(figure: Figure, name: str, anchors: Mapping[str, str]) -> str:
    """The figure as an SVG element for the inside of a page: as wide as fits, in the page's ink, its points named."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # keeps the ids of two figures in one page apart
        figure.savefig(
            written, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Type", "Format"))
        )
    svg = written.getvalue()
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(
        r'<svg width="([\d.]+)pt" height="[\d.]+pt"',
        rf'<svg role="img" aria-label="{name}" style="max-width:\1pt"',
        svg,
    )
    cases = {anchor: html.escape(case) for case, anchor in anchors.items()}
    named = re.sub(
        r'<a xlink:href="#([^"]+)"[^>]*>', lambda link: f'<a href="#{link[1]}"><title>{cases[link[1]]}</title>', svg
    )
    return named.replace("xlink:href", "href").replace(INK, "currentColor")
