"""nnU-Net v2's plans read into a ``Plan``.

What is read is checked: anything that this package would do differently (another resampling, normalisation or network)
is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from medseg.documents import from_json
from medseg.errors import DocumentError
from medseg.interop.nnunet.architectures import read_network
from medseg.interop.nnunet.vocabulary import (
    PLANNERS,
    PLANS_NAMES,
    READERS,
    REORIENTING_READERS,
    RESAMPLING,
    RESAMPLING_ORDERS,
    SCHEMES,
    channels_of,
    entry,
    expect,
    intensities_of,
    labels_of,
    resampling_options,
)
from medseg.planning.plan import Configuration, Decision, Normalization, Plan
from medseg.planning.planner import STORED
from medseg.planning.presets import PRESETS
from medseg.planning.rules import Triple


def from_nnunet(plans: Mapping[str, Any], dataset_json: Mapping[str, Any], only: Collection[str] | None = None) -> Plan:
    """The plan in nnU-Net v2's ``plans.json``, of any version, with the channels and labels of ``dataset.json``.

    Args:
        only: names of the configurations to read, each with the stage before it; by default all.

    Raises:
        DocumentError: an entry is missing or malformed, or asks for something that this package does not do.
    """
    where = "plans.json"
    expect(plans, "label_manager", ("LabelManager",), where)
    name = str(entry(plans, "plans_name", where))
    planner = entry(plans, "experiment_planner_used", where)
    preset = next((preset for preset in PRESETS if name in PLANS_NAMES.values() and planner == PLANNERS[preset]), None)
    order = from_json(tuple[int, int, int], entry(plans, "transpose_forward", where), f"{where}: transpose_forward")
    if sorted(order) != [0, 1, 2]:
        raise DocumentError(f"{where}: transpose_forward: expected an order of the axes 0, 1, 2, found {list(order)}")
    reader = expect(plans, "image_reader_writer", (*READERS.values(), *REORIENTING_READERS), where)
    channels = channels_of(dataset_json)
    configurations = _configurations(entry(plans, "configurations", where), only, len(channels))
    came_from = f"read from nnU-Net's {name}, which keep no reasons"
    return Plan(
        version=1,
        dataset_name=str(entry(plans, "dataset_name", where)),
        preset=PRESETS[preset].preset if preset else "custom",
        memory_gb=PRESETS[preset].memory_gb if preset else None,
        orientation="RAS" if reader in REORIENTING_READERS else STORED,
        axis_order=order,
        median_spacing_mm=from_json(Triple, entry(plans, "original_median_spacing_after_transp", where), where),
        median_shape=from_json(Triple, entry(plans, "original_median_shape_after_transp", where), where),
        channels=channels,
        labels=labels_of(dataset_json),
        intensities=intensities_of(plans, len(channels), where),
        configurations=configurations,
        decisions=(Decision("configurations", ", ".join(one.name for one in configurations), came_from),),
    )


def _configurations(
    documents: Mapping[str, Any], only: Collection[str] | None, channels: int
) -> tuple[Configuration, ...]:
    wanted = list(documents if only is None else only)
    read: dict[str, Configuration] = {}
    while wanted:
        name = wanted.pop(0)
        if name not in read:
            read[name] = _configuration(name, resolved(documents, name), channels)
            if read[name].previous_stage:
                wanted.append(str(read[name].previous_stage))
    return tuple(read[name] for name in documents if name in read)


def resolved(documents: Mapping[str, Any], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration with what it inherits filled in, the child's entries over the parent's.

    Raises:
        DocumentError: there is no such configuration, or they inherit in a circle.
    """
    if name in seen:
        raise DocumentError(f"plans.json: configurations inherit in a circle: {' -> '.join((*seen, name))}")
    if name not in documents:
        asked = f"configuration {seen[-1]!r} names {name!r}" if seen else f"configuration {name!r} is wanted"
        raise DocumentError(f"plans.json: {asked}, but there are only {', '.join(documents)}")
    own = dict(documents[name])
    parent = own.pop("inherits_from", None)
    return own if parent is None else {**resolved(documents, parent, (*seen, name)), **own}


def _configuration(name: str, document: Mapping[str, Any], channels: int) -> Configuration:
    where = f"plans.json: configurations.{name}"
    expect(document, "preprocessor_name", ("DefaultPreprocessor",), where)
    for what in RESAMPLING_ORDERS:
        expect(document, f"resampling_fn_{what}", (RESAMPLING,), where)
        expect(document, f"resampling_fn_{what}_kwargs", (resampling_options(what),), where)
    patch_size = from_json(tuple[int, ...], entry(document, "patch_size", where), f"{where}.patch_size")
    spacing = from_json(tuple[float, ...], entry(document, "spacing", where), f"{where}.spacing")
    median = from_json(tuple[float, ...], entry(document, "median_image_size_in_voxels", where), where)
    if not len(patch_size) == len(spacing) == len(median) or len(patch_size) not in (2, 3):
        raise DocumentError(
            f"{where}: patch_size, spacing and median_image_size_in_voxels do not have 2 or 3 axes each"
        )
    previous = document.get("previous_stage")
    return Configuration(
        name=name,
        spacing_mm=spacing,
        median_shape=median,
        patch_size=patch_size,
        batch_size=from_json(int, entry(document, "batch_size", where), f"{where}.batch_size"),
        batch_dice=from_json(bool, entry(document, "batch_dice", where), f"{where}.batch_dice"),
        normalization=_normalization(document, channels, where),
        network=read_network(document, len(patch_size), where),
        previous_stage=None if previous is None else from_json(str, previous, f"{where}.previous_stage"),
    )


def _normalization(document: Mapping[str, Any], channels: int, where: str) -> tuple[Normalization, ...]:
    names = from_json(
        tuple[str, ...], entry(document, "normalization_schemes", where), f"{where}.normalization_schemes"
    )
    masked = from_json(tuple[bool, ...], entry(document, "use_mask_for_norm", where), f"{where}.use_mask_for_norm")
    if not len(names) == len(masked) == channels:
        raise DocumentError(f"{where}: {len(names)} normalization_schemes for {channels} channels of dataset.json")
    unknown = set(names) - set(SCHEMES)
    if unknown:
        raise DocumentError(f"{where}: normalisation {min(unknown)!r} is not supported, only {', '.join(SCHEMES)}")
    return tuple(
        Normalization(SCHEMES[name], mask and SCHEMES[name] == "zscore")
        for name, mask in zip(names, masked, strict=True)
    )
