"""nnU-Net v2's plans made from its own fingerprint, and written from a ``Plan``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medseg.documents import from_json, to_json
from medseg.errors import DocumentError
from medseg.interop.nnunet.architectures import architecture_document
from medseg.interop.nnunet.vocabulary import (
    INTENSITIES,
    NORMALIZATIONS,
    PLANNERS,
    PLANS_NAMES,
    READERS,
    RESAMPLING,
    RESAMPLING_ORDERS,
    channels_of,
    entry,
    intensities_of,
    labels_of,
    resampling_options,
)
from medseg.labels import BACKGROUND_NAME, IGNORE_NAME, LabelSet
from medseg.planning.facts import DatasetFacts, Shape
from medseg.planning.plan import Configuration, Plan
from medseg.planning.planner import STORED, Outline, assemble, outline_of
from medseg.planning.presets import PRESETS, budget_for
from medseg.planning.rules import Triple


def plan_from_fingerprint(
    dataset_json: Mapping[str, Any],
    fingerprint_json: Mapping[str, Any],
    preset: str,
    memory_gb: float | None = None,
) -> dict[str, Any]:
    """The plans that nnU-Net v2 writes for a dataset, from its ``dataset.json`` and ``dataset_fingerprint.json``.

    ``preset`` is ``default``, ``resenc-m``, ``resenc-l`` or ``resenc-xl``; ``memory_gb`` defaults to the preset's own.

    Raises:
        UsageError: the preset is not known, or the memory holds no network.
        DocumentError: an entry is missing or malformed.
    """
    made = outline_of(_facts(dataset_json, fingerprint_json), budget_for(preset, memory_gb))
    intensities = entry(fingerprint_json, INTENSITIES, "dataset_fingerprint.json")
    return _document(
        made, made.budget.preset, _dataset_name(dataset_json), _reader(dataset_json, STORED), dict(intensities)
    )


def plan_from_documents(
    dataset_json: Mapping[str, Any],
    fingerprint_json: Mapping[str, Any],
    preset: str = "default",
    memory_gb: float | None = None,
) -> Plan:
    """The plan of a dataset that nnU-Net took the fingerprint of, on the files' own axes.

    Raises:
        UsageError: the preset is not known, or the memory holds no network.
        DocumentError: an entry is missing or malformed.
    """
    made = outline_of(_facts(dataset_json, fingerprint_json), budget_for(preset, memory_gb))
    return assemble(
        made,
        dataset_name=_dataset_name(dataset_json),
        orientation=STORED,
        channels=channels_of(dataset_json),
        labels=labels_of(dataset_json),
        intensities=intensities_of(fingerprint_json, len(channels_of(dataset_json)), "dataset_fingerprint.json"),
    )


def to_nnunet(plan: Plan, dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """A plan as nnU-Net v2 writes it; the ``file_ending`` in ``dataset.json`` decides the reader.

    Raises:
        DocumentError: nnU-Net has no reader for such files in the plan's orientation.
    """
    intensities = {str(channel): to_json(statistics) for channel, statistics in enumerate(plan.intensities)}
    return _document(plan, plan.preset, plan.dataset_name, _reader(dataset_json, plan.orientation), intensities)


def dataset_document(plan: Plan) -> dict[str, Any]:
    """The ``dataset.json`` of a plan's data as NIfTI files, with nnU-Net's consecutive label values."""
    labels = plan.labels
    document: dict[str, Any] = {
        "name": plan.dataset_name,
        "channel_names": {str(number): name for number, name in enumerate(plan.channels)},
        "labels": {BACKGROUND_NAME: 0, **exported_values(labels)},
        "file_ending": ".nii.gz",
    }
    if labels.ignore_index is not None:
        document["labels"][IGNORE_NAME] = labels.ignore_index
    if labels.has_regions:
        document["regions_class_order"] = list(labels.region_order_indices)
    return document


def exported_values(labels: LabelSet) -> dict[str, int | list[int]]:
    """The value, or for a region the values, that stand for each class in nnU-Net."""
    return {
        name: indices[0] if len(indices) == 1 else list(indices)
        for name, indices in zip(labels.names, labels.class_indices, strict=True)
    }


def _document(
    source: Plan | Outline, preset: str, dataset_name: str, reader: str, intensities: dict[str, Any]
) -> dict[str, Any]:
    configurations = {
        one.name: _configuration_document(one, source.configurations, preset) for one in source.configurations
    }
    return {
        "dataset_name": dataset_name,
        "plans_name": PLANS_NAMES[preset],
        "original_median_spacing_after_transp": list(source.median_spacing_mm),
        "original_median_shape_after_transp": [round(size) for size in source.median_shape],
        "image_reader_writer": reader,
        "transpose_forward": list(source.axis_order),
        "transpose_backward": [source.axis_order.index(axis) for axis in range(3)],
        "configurations": configurations,
        "experiment_planner_used": PLANNERS[preset],
        "label_manager": "LabelManager",
        INTENSITIES: intensities,
    }


def _configuration_document(
    configuration: Configuration, siblings: tuple[Configuration, ...], preset: str
) -> dict[str, Any]:
    for sibling in siblings:
        if configuration.previous_stage and _alike(configuration, sibling) and not sibling.previous_stage:
            return {"inherits_from": sibling.name, "previous_stage": configuration.previous_stage}
    document = {
        "data_identifier": _data_identifier(configuration.name, preset),
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": configuration.batch_size,
        "patch_size": list(configuration.patch_size),
        "median_image_size_in_voxels": list(configuration.median_shape),
        "spacing": list(configuration.spacing_mm),
        "normalization_schemes": [NORMALIZATIONS[one.scheme] for one in configuration.normalization],
        "use_mask_for_norm": [one.nonzero_only for one in configuration.normalization],
        **_resampling_document(),
        "architecture": architecture_document(configuration.network),
        "batch_dice": configuration.batch_dice,
    }
    if configuration.previous_stage:
        document["previous_stage"] = configuration.previous_stage
    following = [sibling.name for sibling in siblings if sibling.previous_stage == configuration.name]
    if following:
        document["next_stage"] = following[0] if len(following) == 1 else following
    return document


def _alike(one: Configuration, other: Configuration) -> bool:
    return replace(one, name="", previous_stage=None, decisions=()) == replace(
        other, name="", previous_stage=None, decisions=()
    )


def _data_identifier(configuration_name: str, preset: str) -> str:
    """Names the preprocessed data; the residual presets share those of the default where the data are the same."""
    shared = preset in PRESETS and configuration_name in ("2d", "3d_fullres")
    return f"{PLANS_NAMES['default' if shared else preset]}_{configuration_name}"


def _resampling_document() -> dict[str, Any]:
    document: dict[str, Any] = {}
    for what in RESAMPLING_ORDERS:
        document[f"resampling_fn_{what}"] = RESAMPLING
        document[f"resampling_fn_{what}_kwargs"] = resampling_options(what)
    return document


def _facts(dataset_json: Mapping[str, Any], fingerprint_json: Mapping[str, Any]) -> DatasetFacts:
    where = "dataset_fingerprint.json"
    return DatasetFacts(
        channels=channels_of(dataset_json),
        label_entries=len(entry(dataset_json, "labels", "dataset.json")),
        training_cases=from_json(int, entry(dataset_json, "numTraining", "dataset.json"), "dataset.json: numTraining"),
        spacings_mm=from_json(tuple[Triple, ...], entry(fingerprint_json, "spacings", where), f"{where}: spacings"),
        shapes=from_json(tuple[Shape, ...], entry(fingerprint_json, "shapes_after_crop", where), f"{where}: shapes"),
        relative_size=from_json(float, entry(fingerprint_json, "median_relative_size_after_cropping", where), where),
    )


def _dataset_name(dataset_json: Mapping[str, Any]) -> str:
    return str(dataset_json.get("name", "dataset"))


def _reader(dataset_json: Mapping[str, Any], orientation: str) -> str:
    chosen = dataset_json.get("overwrite_image_reader_writer", "None")
    ending = str(entry(dataset_json, "file_ending", "dataset.json")).lower()
    if orientation == STORED and chosen != "None":
        return str(chosen)
    if ending not in READERS:
        raise DocumentError(f"dataset.json: nnU-Net reads no {ending!r} files, only {', '.join(READERS)}")
    reader = READERS[ending]
    if orientation == STORED or reader in ("NaturalImage2DIO", "Tiff3DIO"):
        return reader
    if orientation != "RAS":
        raise DocumentError(f"nnU-Net has no reader that turns {ending} files to {orientation}, only to RAS")
    return "NibabelIOWithReorient" if ending.startswith(".nii") else "SimpleITKIOWithReorient"
