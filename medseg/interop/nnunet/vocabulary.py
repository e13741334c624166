"""nnU-Net v2's words: the names that its documents use, and the entries that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.documents import from_json
from medseg.errors import DocumentError
from medseg.fingerprinting import IntensityStatistics
from medseg.labels import LabelSet
from medseg.planning.plan import NormalizationScheme

PLANS_NAMES = {
    "default": "nnUNetPlans",
    "resenc-m": "nnUNetResEncUNetMPlans",
    "resenc-l": "nnUNetResEncUNetLPlans",
    "resenc-xl": "nnUNetResEncUNetXLPlans",
    "custom": "medsegPlans",
}
PLANNERS = {
    "default": "ExperimentPlanner",
    "resenc-m": "nnUNetPlannerResEncM",
    "resenc-l": "nnUNetPlannerResEncL",
    "resenc-xl": "nnUNetPlannerResEncXL",
    "custom": "ExperimentPlanner",
}
NORMALIZATIONS: dict[NormalizationScheme, str] = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "none": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
SCHEMES: dict[str, NormalizationScheme] = {name: scheme for scheme, name in NORMALIZATIONS.items()}
READERS = {
    ".nii.gz": "SimpleITKIO",
    ".nrrd": "SimpleITKIO",
    ".mha": "SimpleITKIO",
    ".gipl": "SimpleITKIO",
    ".nii": "NibabelIO",
    ".tiff": "Tiff3DIO",
    ".png": "NaturalImage2DIO",
    ".bmp": "NaturalImage2DIO",
    ".tif": "NaturalImage2DIO",
}
REORIENTING_READERS = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")
RESAMPLING = "resample_data_or_seg_to_shape"
RESAMPLING_ORDERS = {"data": (False, 3), "seg": (True, 1), "probabilities": (False, 1)}
INTENSITIES = "foreground_intensity_properties_per_channel"
OLDER_INTENSITIES = "foreground_intensity_properties_by_modality"


def resampling_options(what: str) -> dict[str, Any]:
    """The one way of resampling ``data``, ``seg`` or ``probabilities`` that is known here."""
    is_seg, order = RESAMPLING_ORDERS[what]
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}


def entry(document: Any, name: str, where: str) -> Any:
    """An entry that must be there.

    Raises:
        DocumentError: it is not.
    """
    if not isinstance(document, Mapping) or name not in document:
        raise DocumentError(f"{where}: entry {name!r} is missing")
    return document[name]


def expect(document: Mapping[str, Any], name: str, supported: tuple[Any, ...], where: str) -> Any:
    """An entry that must be one of a few values.

    Raises:
        DocumentError: it is missing, or something that this package does not do.
    """
    found = entry(document, name, where)
    if found not in supported:
        listed = " or ".join(map(str, dict.fromkeys(map(str, supported))))
        raise DocumentError(f"{where}: {name} {found!r} is not supported, only {listed}")
    return found


def channels_of(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """The channel names in ``dataset.json``, in order."""
    older = "channel_names" not in dataset_json and "modality" in dataset_json
    names = entry(dataset_json, "modality" if older else "channel_names", "dataset.json")
    return tuple(from_json(dict[str, str], names, "dataset.json: channel_names").values())


def labels_of(dataset_json: Mapping[str, Any]) -> LabelSet:
    """The labels in ``dataset.json``."""
    return LabelSet.parse(entry(dataset_json, "labels", "dataset.json"), dataset_json.get("regions_class_order"))


def intensities_of(document: Mapping[str, Any], channels: int, where: str) -> tuple[IntensityStatistics, ...]:
    """The foreground statistics of every channel in plans or a fingerprint."""
    older = INTENSITIES not in document and OLDER_INTENSITIES in document
    name = OLDER_INTENSITIES if older else INTENSITIES
    by_channel = entry(document, name, where)
    return tuple(
        from_json(
            IntensityStatistics, entry(by_channel, str(channel), f"{where}: {name}"), f"{where}: {name}.{channel}"
        )
        for channel in range(channels)
    )
