"""How much memory predicting a scan takes, known from its header before anything is read.

An upper bound of what the steps hold at once, in the order in which they come: prepare, windows, labels.
"""

from __future__ import annotations

from math import prod

from medseg.architecture import feature_map_elements
from medseg.io import Header
from medseg.planning.plan import Configuration, Plan
from medseg.preprocessing import target_grid

# What numerical libraries take for themselves, and what deciding labels needs besides the arrays counted here.
WORKING_BYTES = 150_000_000
_FLOAT = 4


def prediction_bytes(header: Header, plan: Plan, configuration: Configuration, windows_together: int) -> int:
    """Bytes beyond what the process holds before; the scan is taken as if nothing could be cropped away."""
    channels, *shape = header.shape
    z, y, x = (header.geometry.spacing_mm[axis] for axis in plan.axis_order)
    a, b, c = (shape[axis] for axis in plan.axis_order)
    prepared, _ = target_grid((z, y, x), (a, b, c), configuration)
    voxels, prepared_voxels = prod(shape), prod(prepared)
    outputs, patch = plan.labels.output_count, configuration.patch_size
    source = channels * voxels * header.dtype.itemsize
    image = channels * prepared_voxels * _FLOAT
    preparing = 2 * voxels + channels * voxels * _FLOAT + 2 * max(voxels, prepared_voxels) * _FLOAT
    logits = outputs * prepared_voxels * _FLOAT
    plane = [max(size, window) for size, window in zip(prepared[-len(patch) :], patch, strict=True)][1:]
    slab = (2 * outputs + 1) * patch[0] * prod(plane) * _FLOAT
    maps = feature_map_elements(configuration.network, patch, outputs) + (channels + outputs) * prod(patch)
    windows = windows_together * maps * _FLOAT
    deciding = 6 * prepared_voxels + 3 * voxels * plan.labels.dtype.itemsize
    return source + image + max(preparing, logits + max(slab + windows, deciding)) + WORKING_BYTES
