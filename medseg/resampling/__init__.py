"""Arrays onto another grid: images (cubic), logits (linear), label maps (never blended); the separate thick axis.

Both grids cover the same extent: voxel k of m new ones lies at (k + 0.5) * n / m - 0.5 between n old ones. The values
are those of ``skimage.transform.resize(mode="edge", anti_aliasing=False)``, worked out one axis at a time.
"""

from medseg.resampling.axes import thick_axis
from medseg.resampling.images import resize
from medseg.resampling.labels import resize_argmax, resize_labels, resize_regions
from medseg.resampling.planes import CubicPlanes, argmax_planes, label_planes, linear_planes, region_planes

__all__ = [
    "CubicPlanes",
    "argmax_planes",
    "label_planes",
    "linear_planes",
    "region_planes",
    "resize",
    "resize_argmax",
    "resize_labels",
    "resize_regions",
    "thick_axis",
]
