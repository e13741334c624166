"""One case as a table: a row a label, a column a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from medseg.metrics.counts import count_overlap
from medseg.metrics.extras import Extra, extra_values, parse_metrics
from medseg.metrics.masks import checked_length_mm, checked_spacing, label_pair
from medseg.metrics.regions import Region, label_regions
from medseg.metrics.surface import assd_mm, hausdorff_mm, measure_surfaces, surface_dice

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "label",
    "dice",
    "iou",
    "precision",
    "recall",
    "volume_ml",
    "reference_volume_ml",
    "hausdorff_mm",
    "hausdorff95_mm",
    "assd_mm",
    "surface_dice",
    "volume_error_ml",
    "tp",
    "fp",
    "fn",
    "tn",
)
"""The columns of ``compare``, defined in ``docs/metrics.md``."""


def compare(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing_mm: Sequence[float],
    labels: Sequence[int] | Mapping[str, int | Sequence[int]] | None = None,
    tolerance_mm: float = 1.0,
    metrics: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare a segmentation with a reference, label by label.

    Args:
        prediction: label values (Z, Y, X), or (Y, X) for an image. Axes of length 1 are kept as they are: a volume of
            one slice is a slab with a top and a bottom; for contours in the plane pass the slice and two spacings.
        reference: the same shape.
        spacing_mm: voxel spacing in mm, one an axis.
        labels: the values to compare, or a mapping from name to a value or several values that count as one region.
            By default every value above 0 in either array.
        tolerance_mm: how far surfaces may lie apart and still agree, for ``surface_dice``.
        metrics: further columns, by name: ``hausdorff99_mm`` (any percentile), ``surface_dice_2mm`` (any tolerance),
            ``boundary_iou_2mm`` (any width), ``cldice``, ``lesion_f1``, ``lesion_precision``, ``lesion_recall``.

    Returns:
        One row a label, in the order given, with the columns ``COLUMNS`` and those of ``metrics``. ``label`` holds
        the values, or the names of a mapping. Volumes of images (Y, X) are NaN. What empty masks give is written in
        ``docs/metrics.md``.

    Raises:
        UsageError: shapes that differ, values or labels that are not integers, a spacing or tolerance that is not
            positive or does not fit, or a metric that is not known.
    """
    import pandas as pd

    arrays = label_pair(prediction, reference)
    spacing = checked_spacing(spacing_mm, arrays[0].ndim)
    tolerance = checked_length_mm(tolerance_mm, "tolerance_mm")
    extras = parse_metrics(metrics, min(spacing))
    rows = [_row(region, *arrays, spacing, tolerance, extras) for region in label_regions(*arrays, labels)]
    return pd.DataFrame.from_records(rows, columns=[*COLUMNS, *extras])


def _row(
    region: Region,
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
    extras: Mapping[str, Extra],
) -> tuple[int | str | float, ...]:
    masks = region.mask(prediction), region.mask(reference)
    counts = count_overlap(*masks, total=reference.size)
    distances = measure_surfaces(*masks, spacing_mm)
    voxel_ml = prod(spacing_mm) / 1000 if len(spacing_mm) == 3 else float("nan")
    volume_ml = (counts.tp + counts.fp) * voxel_ml
    reference_volume_ml = (counts.tp + counts.fn) * voxel_ml
    return (
        region.label,
        counts.dice,
        counts.iou,
        counts.precision,
        counts.recall,
        volume_ml,
        reference_volume_ml,
        hausdorff_mm(distances),
        hausdorff_mm(distances, 95),
        assd_mm(distances),
        surface_dice(distances, tolerance_mm),
        volume_ml - reference_volume_ml,
        counts.tp,
        counts.fp,
        counts.fn,
        counts.tn,
        *extra_values(extras, masks, distances, spacing_mm),
    )
