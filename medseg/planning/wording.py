"""How planned values are written for a person."""

from __future__ import annotations

from collections.abc import Iterable

from medseg.architecture import NetworkSpec
from medseg.laterality import Laterality
from medseg.planning.plan import Configuration, Normalization, Plan

AXES = "ZYX"
_SCHEMES = {
    "ct": "CT window of the training foreground",
    "zscore": "zero mean, unit deviation, scan by scan",
    "none": "left as it is",
    "rescale_to_0_1": "rescaled to 0..1, scan by scan",
    "rgb_to_0_1": "divided by 255",
}
_FAMILIES = {"plain_unet": "plain U-Net", "residual_unet": "residual-encoder U-Net"}


def number(value: float) -> str:
    """Four significant digits, and no more zeros than needed."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def count(many: int, noun: str) -> str:
    """``1 scan``, ``2 scans``."""
    return f"{many} {noun}" if many == 1 else f"{many} {noun}s"


def millions(value: float) -> str:
    """``1120 million``."""
    return f"{number(value / 1e6)} million"


def lengths(values: Iterable[float], unit: str = "") -> str:
    """``1.6 x 0.793 x 0.793 mm``."""
    return " x ".join(map(number, values)) + (f" {unit}" if unit else "")


def plan_values(plan: Plan) -> dict[str, str]:
    """The values that hold for the whole plan, by field, as a person reads them."""
    values = {
        "preset": plan.preset,
        "memory_gb": "unknown" if plan.memory_gb is None else f"{number(plan.memory_gb)} GB",
        "channels": ", ".join(plan.channels),
        "labels": ", ".join(map(_label, plan.labels.meaning.items())),
        "orientation": plan.orientation,
        "axis_order": ", ".join(AXES[axis] for axis in plan.axis_order),
        "median_spacing_mm": lengths(plan.median_spacing_mm, "mm"),
        "median_shape": lengths(plan.median_shape, "voxels"),
        "configurations": ", ".join(configuration.name for configuration in plan.configurations),
    }
    if plan.laterality.is_sided:
        values["laterality"] = _laterality(plan.laterality)
    return values


def configuration_values(configuration: Configuration) -> dict[str, str]:
    """The values of a configuration, by field, as a person reads them."""
    values = {
        "spacing_mm": lengths(configuration.spacing_mm, "mm"),
        "median_shape": lengths(configuration.median_shape, "voxels"),
        "patch_size": lengths(configuration.patch_size, "voxels"),
        "batch_size": str(configuration.batch_size),
        "batch_dice": "over the whole batch" if configuration.batch_dice else "patch by patch",
        "normalization": "; ".join(map(_normalization, configuration.normalization)),
        "network": _network(configuration.network),
    }
    if configuration.previous_stage is not None:
        values["previous_stage"] = configuration.previous_stage
    return values


def _label(meaning: tuple[str, int | tuple[int, ...]]) -> str:
    name, value = meaning
    return f"{name} ({value if isinstance(value, int) else '+'.join(map(str, value))})"


def _laterality(laterality: Laterality) -> str:
    if laterality.alone:
        return f"never mirrored from left to right: {', '.join(laterality.alone)}"
    return "exchanged when mirrored from left to right: " + ", ".join(" and ".join(pair) for pair in laterality.pairs)


def _normalization(normalization: Normalization) -> str:
    return _SCHEMES[normalization.scheme] + (", nonzero voxels only" if normalization.nonzero_only else "")


def _network(network: NetworkSpec) -> str:
    channels = "-".join(map(str, network.features))
    kernels = _runs("x".join(map(str, kernel)) for kernel in network.kernel_sizes)
    strides = _runs("x".join(map(str, stride)) for stride in network.strides[1:])
    steps = f", strides {strides}" if strides else ""
    unit = "convolutions" if network.family == "plain_unet" else "blocks"
    down, up = ("-".join(map(str, blocks)) for blocks in (network.encoder_blocks, network.decoder_blocks))
    blocks = f"{unit} {down} down and {up or 'none'} up"
    return (
        f"{_FAMILIES[network.family]}, {network.stages} resolutions, channels {channels}, {blocks}, "
        f"kernels {kernels}{steps}"
    )


def _runs(items: Iterable[str]) -> str:
    """``3x3x3 (5 times), 1x3x3``: equal neighbours said once."""
    runs: list[tuple[str, int]] = []
    for item in items:
        if runs and runs[-1][0] == item:
            runs[-1] = (item, runs[-1][1] + 1)
        else:
            runs.append((item, 1))
    return ", ".join(item if count == 1 else f"{item} ({count} times)" for item, count in runs)
