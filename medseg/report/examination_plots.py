"""Figures of a dataset: how often and how large each class is, and which values images hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.integrity import CaseRecord, ClassBalance
from medseg.report.plots import COLORS, INK, STYLE, inline, label_colors

MOST_CLASSES = 60
"""Classes that a figure has room for; the rarest are drawn."""


def balance(classes: Sequence[ClassBalance]) -> str:
    """How many masks show each class, and its volume in each of them on a logarithmic axis, as an SVG element."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rarest = sorted(classes, key=lambda one: len(one.volumes_ml))[:MOST_CLASSES]
    shown = [one for one in classes if one in rarest]
    colors = label_colors([one.name for one in classes])
    with rc_context(STYLE):
        figure = Figure(figsize=(10.6, 0.75 + 0.36 * len(shown)), layout="constrained")
        masks, volumes = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2))
        for place, one in enumerate(shown):
            masks.barh(place, len(one.volumes_ml), 0.6, color=colors[one.name], alpha=0.8)
            jitter = np.random.default_rng(place).uniform(-0.2, 0.2, len(one.volumes_ml))
            sizes = np.array(list(one.volumes_ml.values()))
            volumes.scatter(sizes, place + jitter, s=10, color=colors[one.name], alpha=0.75, linewidths=0)
            if sizes.size:
                volumes.vlines(np.median(sizes), place - 0.3, place + 0.3, color=INK, linewidth=1.4)
        masks.set_xlim(0, max((one.masks for one in shown), default=1))
        masks.set_title("Masks that show it", fontsize=9, loc="left")
        volumes.set_xscale("log")
        volumes.set_title("Volume in each (ml), and the median", fontsize=9, loc="left")
        for axes in (masks, volumes):
            axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
            axes.tick_params(axis="y", length=0)
        masks.set_ylim(len(shown) - 0.4, -0.6)
        masks.set_yticks(range(len(shown)), [one.name for one in shown])
        return inline(figure, "how often and how large classes are", {})


def intensities(records: Sequence[CaseRecord], channels: Sequence[str]) -> str:
    """The values of each image, a panel a channel: a line from percentile 0.5 to 99.5 with the median, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    fitting = [record for record in records if len(record.intensities) == len(channels)]
    if not fitting:
        return ""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.6, 2.1 * len(channels)), layout="constrained")
        panels = figure.subplots(len(channels), 1, sharex=True, squeeze=False)[:, 0]
        places = np.arange(len(fitting))
        for number, (axes, channel) in enumerate(zip(panels, channels, strict=True)):
            low, middle, high = np.array([record.intensities[number] for record in fitting]).T
            color = COLORS[number % len(COLORS)]
            axes.vlines(places, low, high, color=color, alpha=0.55, linewidth=max(0.6, min(6.0, 400 / len(fitting))))
            axes.scatter(places, middle, s=9, color=INK, linewidths=0, zorder=3)
            axes.set_title(channel, fontsize=9, loc="left")
            axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        panels[-1].set_xlabel("images, in order of name")
        panels[-1].set_xticks([])
        panels[-1].set_xlim(-1, len(fitting))
        return inline(figure, "values of each image", {})
