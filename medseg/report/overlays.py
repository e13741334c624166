"""Masks drawn on the scan in three planes, as a radiologist hangs them.

The patient's right is on the left of axial and coronal views, anterior is up in axial and left in sagittal views, and
superior is up. Marks are read from the grid, two letters where a plane is oblique.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.orientation import AS_STORED, AXIS_CODES
from medseg.volume import Box, Geometry, LabelVolume, Volume, bounding_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE_COLOR, PREDICTION_COLOR = "#38C6FF", "#FF9A1F"
HANGING = "LPI"
"""Axes x to the patient's left, y to posterior, z to inferior: then every view is a plain slice, rows downwards."""
PLANES = ("axial", "coronal", "sagittal")
MARGIN_MM, WINDOW_MARGIN_MM = 30.0, 10.0
"""What is shown around the label at least, and what its brightness is judged by."""
SHORTEST_SIDE = 0.75
"""Of what is shown, as a part of the longest side: long thin structures keep their surroundings."""
OBLIQUE_COSINE = 0.3
"""From this part on, a direction is named in a mark."""
WIDTH_INCHES, HEIGHT_INCHES, GAP_INCHES, DPI = 10.0, 3.6, 0.04, 100

_AIR_HU = (-4000, -900)
_MOST_HU = 40000
# Level and width in HU: the usual presets.
_LUNG, _SOFT_TISSUE, _BONE = (-600, 1500), (40, 400), (400, 1800)
_SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True, eq=False)
class View:
    """One slice ready to be shown.

    Attributes:
        title: the plane, and where the slice lies in the file's own axes, such as ``"axial z = 12"``.
        image: (rows, columns), or None without a scan.
        prediction: label values (rows, columns).
        reference: the same.
        spacing_mm: of rows and columns.
        marks: directions at the left, right, top and bottom edge, such as ``("R", "L", "A", "P")``.
    """

    title: str
    image: np.ndarray | None
    prediction: np.ndarray
    reference: np.ndarray
    spacing_mm: tuple[float, float]
    marks: tuple[str, str, str, str]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        rows, columns = self.prediction.shape
        return rows * self.spacing_mm[0], columns * self.spacing_mm[1]


def views(
    prediction: LabelVolume,
    reference: LabelVolume,
    values: tuple[int, ...],
    image: Volume | None = None,
    *,
    oriented: bool = True,
) -> list[View]:
    """Slices in up to three planes through the worst place of one label, cropped to its surroundings.

    Args:
        prediction: on the reference's grid.
        reference: all its labels are kept, to be drawn as well.
        values: those of the label; each slice is the one where the two masks differ most over it.
        image: a scan on the same grid; its first channel is shown.
        oriented: False for pictures, which have no patient: they are shown as they are stored, without marks.

    Raises:
        GeometryError: grids that differ.
    """
    reference.geometry.require_equal(prediction.geometry, "the reference", "the prediction")
    change = reference.geometry.change_to(HANGING) if oriented else AS_STORED
    grid = reference.geometry.changed(change)
    masks = change.apply(prediction.array), change.apply(reference.array)
    scan = None
    if image is not None:
        reference.geometry.require_equal(image.geometry, "the reference", "the scan")
        scan = change.apply(image.array[0])
    here, there = (np.isin(mask, values) for mask in masks)
    differs = here ^ there if (here ^ there).any() else here | there
    field = surroundings(here | there, grid.spacing_mm, MARGIN_MM)
    shown = []
    for axis, plane in enumerate(PLANES):
        rows, columns = (other for other in range(3) if other != axis)
        if grid.shape[rows] == 1 or grid.shape[columns] == 1:
            continue
        weight = differs.sum(axis=(rows, columns))
        index = int(np.argmax(weight)) if weight.any() else grid.shape[axis] // 2
        cut: list[slice | int] = list(field.slices)
        cut[axis] = index
        at = tuple(cut)
        place = grid.shape[axis] - 1 - index if change.flips[axis] else index
        shown.append(
            View(
                title=f"{plane if oriented else 'plane'} {'zyx'[change.order[axis]]} = {place}",
                image=None if scan is None else scan[at],
                prediction=masks[0][at],
                reference=masks[1][at],
                spacing_mm=(grid.spacing_mm[rows], grid.spacing_mm[columns]),
                marks=(
                    direction(grid, columns, -1),
                    direction(grid, columns, 1),
                    direction(grid, rows, -1),
                    direction(grid, rows, 1),
                )
                if oriented
                else ("", "", "", ""),
            )
        )
    return shown


def direction(grid: Geometry, axis: int, sign: int) -> str:
    """Anatomical letters of where an array axis leads (``sign`` -1: where it comes from), strongest first."""
    cosines = sign * grid.affine[:3, axis] / np.linalg.norm(grid.affine[:3, axis])
    strongest_first = np.argsort(-np.abs(cosines), kind="stable")
    return "".join(AXIS_CODES[w][int(cosines[w] > 0)] for w in strongest_first if abs(cosines[w]) >= OBLIQUE_COSINE)


def surroundings(mask: np.ndarray, spacing_mm: tuple[float, float, float], margin_mm: float) -> Box:
    """The box (Z, Y, X) of a mask with a margin on every side, no side much shorter than the longest.

    An empty mask gives everything.
    """
    box = bounding_box(mask)
    if box is None:
        return Box((0, 0, 0), mask.shape)
    sizes_mm = [size * spacing + 2 * margin_mm for size, spacing in zip(box.shape, spacing_mm, strict=True)]
    start, stop = [], []
    for axis, size_mm in enumerate(sizes_mm):
        missing = max(size_mm, SHORTEST_SIDE * max(sizes_mm)) / spacing_mm[axis] - box.shape[axis]
        start.append(max(0, box.start[axis] - round(missing / 2)))
        stop.append(min(mask.shape[axis], box.stop[axis] + round(missing / 2)))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def window(scan: np.ndarray, inside: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """The darkest and brightest value to show of a scan (Z, Y, X) around a label that covers ``inside`` (Z, Y, X).

    CT, known by air at about -1000 HU, has the usual window of lung, soft tissue or bone, whichever suits the label.
    Other scans show percentiles 2 to 98 of the label's surroundings without the background value.
    """
    lowest, highest = np.nanmin(scan), np.nanmax(scan)
    if _AIR_HU[0] < lowest < _AIR_HU[1] and highest < _MOST_HU:
        typical = float(np.median(scan[inside])) if inside.any() else 0.0
        level, width = _LUNG if typical < -300 else _BONE if typical > 200 else _SOFT_TISSUE
        return level - width / 2, level + width / 2
    around = scan[surroundings(inside, spacing_mm, WINDOW_MARGIN_MM).slices]
    seen = around[np.isfinite(around) & (around > lowest)]
    low, high = np.percentile(seen, (2, 98)) if seen.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def draw(
    shown: list[View], values: tuple[int, ...], others: Iterable[tuple[int, ...]], limits: tuple[float, float] = (0, 1)
) -> bytes:
    """A PNG of views side by side at one scale: the reference's outline solid, the prediction's dashed.

    Args:
        shown: from :func:`views`, one at least.
        values: the label that is looked at, drawn strong.
        others: further labels, drawn faint.
        limits: from :func:`window`.
    """
    from matplotlib.figure import Figure

    tallest, across = max(view.size_mm[0] for view in shown), sum(view.size_mm[1] for view in shown)
    gaps = GAP_INCHES * (len(shown) - 1)
    inch_per_mm = min((WIDTH_INCHES - gaps) / across, HEIGHT_INCHES / tallest)
    width, height = across * inch_per_mm + gaps, tallest * inch_per_mm
    figure = Figure(figsize=(width, height), facecolor="black")
    bar = next((length for length in _SCALE_BARS_MM if length <= across / len(shown) / 4), _SCALE_BARS_MM[-1])
    left = 0.0
    for view in shown:
        tall, wide = (size * inch_per_mm for size in view.size_mm)
        axes = figure.add_axes((left / width, (height - tall) / 2 / height, wide / width, tall / height))
        left += wide + GAP_INCHES
        _draw_view(axes, view, limits, bar)
        for other in others:
            _outline(axes, view, other, linewidth=0.8, alpha=0.65)
        _outline(axes, view, values, linewidth=1.6, alpha=1.0)
        axes.set_xlim(0, view.size_mm[1])
        axes.set_ylim(view.size_mm[0], 0)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, facecolor="black", metadata={"Software": None})
    return picture.getvalue()


def _draw_view(axes: Axes, view: View, limits: tuple[float, float], bar_mm: int) -> None:
    from matplotlib.patheffects import withStroke

    height, width = view.size_mm
    axes.set_axis_off()
    if view.image is not None:
        axes.imshow(
            view.image,
            cmap="gray",
            vmin=limits[0],
            vmax=limits[1],
            extent=(0, width, height, 0),
            interpolation="bilinear",
            aspect="auto",
        )
    outlined = [withStroke(linewidth=2, foreground="black")]
    text = {"transform": axes.transAxes, "color": "white", "path_effects": outlined}
    left, right, top, bottom = view.marks
    axes.text(0.015, 0.5, left, ha="left", va="center", fontsize=10, fontweight="bold", **text)
    axes.text(0.985, 0.5, right, ha="right", va="center", fontsize=10, fontweight="bold", **text)
    axes.text(0.5, 0.985, top, ha="center", va="top", fontsize=10, fontweight="bold", **text)
    axes.text(0.5, 0.015, bottom, ha="center", va="bottom", fontsize=10, fontweight="bold", **text)
    axes.text(0.02, 0.985, view.title, ha="left", va="top", fontsize=7.5, **text)
    if not any(view.marks):  # a picture, whose scale nobody knows
        return
    x, y = 0.03 * width, 0.97 * height
    axes.plot((x, x + bar_mm), (y, y), color="white", linewidth=2, solid_capstyle="butt")
    axes.annotate(
        f"{bar_mm} mm", (x, y), (0, 4), textcoords="offset points", color="white", fontsize=7.5, path_effects=outlined
    )


def _outline(axes: Axes, view: View, values: tuple[int, ...], *, linewidth: float, alpha: float) -> None:
    rows = (np.arange(-1, view.prediction.shape[0] + 1) + 0.5) * view.spacing_mm[0]
    columns = (np.arange(-1, view.prediction.shape[1] + 1) + 0.5) * view.spacing_mm[1]
    for mask, color, dashes in (
        (view.reference, REFERENCE_COLOR, "solid"),
        (view.prediction, PREDICTION_COLOR, (0, (3.2, 1.4))),
    ):
        # Repeating the edge lets an outline that is cut by the view run out of it instead of along its border.
        inside = np.pad(np.isin(mask, values), 1, mode="edge").astype(float)
        if inside.any() and not inside.all():
            axes.contour(
                columns,
                rows,
                inside,
                levels=[0.5],
                colors=[color],
                linewidths=linewidth,
                linestyles=[dashes],
                alpha=alpha,
            )
