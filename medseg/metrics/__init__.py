"""How well a prediction agrees with a reference: overlap, boundary distances in mm, structure and lesions.

``compare`` makes the table of one case; the other functions answer one question each. Arrays in, numbers out: no files,
no torch. Definitions, and what every metric gives for empty masks, are in ``docs/metrics.md``.
"""

from medseg.metrics.boundary import boundary_iou
from medseg.metrics.centreline import cldice
from medseg.metrics.counts import Overlap, mean_iou, overlap
from medseg.metrics.extras import parse_metrics
from medseg.metrics.lesions import LesionDetection, lesion_detection
from medseg.metrics.surface import (
    SurfaceDistances,
    SurfaceElements,
    assd_mm,
    hausdorff_mm,
    surface_dice,
    surface_distances,
)
from medseg.metrics.table import COLUMNS, compare

__all__ = [
    "COLUMNS",
    "LesionDetection",
    "Overlap",
    "SurfaceDistances",
    "SurfaceElements",
    "assd_mm",
    "boundary_iou",
    "cldice",
    "compare",
    "hausdorff_mm",
    "lesion_detection",
    "mean_iou",
    "overlap",
    "parse_metrics",
    "surface_dice",
    "surface_distances",
]
