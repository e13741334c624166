"""How much memory predicting a scan takes, known from its header before anything is read.

Upper bounds of what is held at once: the scan and what is made of it on its own grid, and what it takes to get from one
to the other, which does not grow with the number of planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from medseg.architecture import feature_map_elements
from medseg.io import Header
from medseg.planning.plan import Configuration, Plan
from medseg.preprocessing import target_grid

# What numerical libraries take for themselves, and arrays of a fixed size while planes are resampled and decided.
LIBRARY_BYTES = 150_000_000
_FLOAT = 4
# Old planes around those that a cubic spline is asked for, and copies of them while it is worked out.
_SPLINE_MARGIN = 32
_SPLINE_COPIES = 3


@dataclass(frozen=True)
class WorkingMemory:
    """What one model needs while it predicts.

    Attributes:
        planes_bytes: planes of the scan being read, normalised and resampled, and logits being decided; in RAM.
        sums_bytes: windows' logits being summed.
        windows_bytes: feature maps of the windows that are computed at once, and the planes they are cut from.
    """

    planes_bytes: int
    sums_bytes: int
    windows_bytes: int


def scan_bytes(header: Header, plan: Plan) -> int:
    """The scan as it is read, and its mask."""
    channels, *shape = header.shape
    return prod(shape) * (channels * header.dtype.itemsize + plan.labels.dtype.itemsize)


def working_memory(
    header: Header,
    plan: Plan,
    configuration: Configuration,
    together: int,
    *,
    at_once: int | None = None,
    networks: int = 1,
    likely: bool = False,
) -> WorkingMemory:
    """What a model needs beside the scan; the scan is taken as if nothing could be cropped away.

    Args:
        together: windows of a batch.
        at_once: of how many of them feature maps are held at the same time; by default of all.
        networks: whose logits are kept apart.
        likely: whether probabilities are made of all logits, not labels alone.
    """
    channels, *stored = header.shape
    z, y, x = (header.geometry.spacing_mm[axis] for axis in plan.axis_order)
    a, b, c = (stored[axis] for axis in plan.axis_order)
    (planes, *plane), _ = target_grid((z, y, x), (a, b, c), configuration)
    patch = configuration.patch_size
    depth, in_plane = (patch[0], patch[1:]) if len(patch) == 3 else (min(planes, together), patch)
    padded = prod(max(size, window) for size, window in zip(plane, in_plane, strict=True))
    inputs = channels + (len(plan.labels.values) if configuration.previous_stage else 0)
    outputs = networks * plan.labels.output_count

    needed = min(a, ceil(depth * a / planes) + _SPLINE_MARGIN)
    larger = max(needed, depth) * max(b * c, prod(plane))
    reading = inputs * depth * prod(plane) * _FLOAT + (1 + _SPLINE_COPIES) * larger * _FLOAT
    done = min(depth, planes)
    new = ceil((done + 1) * a / planes) * b * c
    if likely:
        deciding = (2 * outputs * new + outputs * prod(plane)) * _FLOAT + 3 * plan.labels.output_count * new * _FLOAT
    else:
        deciding = 6 * done * prod(plane) + 12 * new + 2 * outputs * prod(plane) * _FLOAT
    masked = any(rule.nonzero_only for rule in configuration.normalization)
    maps = feature_map_elements(configuration.network, patch, plan.labels.output_count)
    each = (2 * outputs + 2 * inputs) * prod(patch)
    held = together if at_once is None else at_once
    return WorkingMemory(
        planes_bytes=max(reading, deciding) + (6 * a * b * c if masked else 0),
        sums_bytes=(outputs + 1) * depth * padded * _FLOAT,
        windows_bytes=(inputs * depth * padded + together * each + held * maps) * _FLOAT,
    )
