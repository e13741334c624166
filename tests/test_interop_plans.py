"""nnU-Net's plans: made as it makes them, read in every form, written back, and refused where they ask for more."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import DocumentError, UsageError
from medseg.interop.nnunet import from_nnunet, plan_from_documents, plan_from_fingerprint, to_nnunet
from medseg.planning import Plan

FOLDERS = ("golden_plans", "golden_plans_msd")
PRESETS = ("default", "resenc-m", "resenc-l", "resenc-xl")
# Written by another program around nnU-Net, which named the plans its own way.
NAMES = ("dataset_name", "plans_name", "data_identifier")

DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 20,
    "file_ending": ".nii.gz",
}
FINGERPRINT = {
    "spacings": [[2.5, 0.8, 0.8]] * 20,
    "shapes_after_crop": [[150, 512, 512]] * 20,
    "median_relative_size_after_cropping": 1.0,
    "foreground_intensity_properties_per_channel": {
        "0": {
            "max": 900.0,
            "mean": 100.0,
            "median": 101.0,
            "min": -900.0,
            "percentile_00_5": -20.0,
            "percentile_99_5": 200.0,
            "std": 40.0,
        }
    },
}


def plans_document(preset: str = "default") -> dict[str, Any]:
    return plan_from_fingerprint(DATASET, FINGERPRINT, preset)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def golden(shared: Path):
    """Every stored pair of inputs with what nnU-Net made of them: case, preset, dataset, fingerprint, plans."""
    for folder in FOLDERS:
        for case in sorted(path for path in (shared / folder).iterdir() if path.is_dir()):
            dataset, fingerprint = read_json(case / "dataset.json"), read_json(case / "dataset_fingerprint.json")
            for preset in PRESETS:
                path = case / f"plans_{preset.replace('-', '_')}.json"
                if path.exists():
                    yield case, preset, dataset, fingerprint, read_json(path)


def differences(wanted: Any, found: Any, where: str = ""):
    """Every place where two documents differ, as numbers."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in {**wanted, **found}:
            if key not in wanted or key not in found:
                yield f"{where}.{key}: only in {'wanted' if key in wanted else 'found'}"
            else:
                yield from differences(wanted[key], found[key], f"{where}.{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for i, pair in enumerate(zip(wanted, found, strict=True)):
            yield from differences(*pair, f"{where}[{i}]")
    elif isinstance(wanted, float) and isinstance(found, int | float):
        if not math.isclose(wanted, found, rel_tol=1e-12):
            yield f"{where}: {wanted} != {found}"
    elif wanted != found or isinstance(wanted, bool) != isinstance(found, bool):
        yield f"{where}: {wanted!r} != {found!r}"


def table(counts: Counter) -> str:
    rows = [f"{'preset':<10} {'equal':>5} {'different':>9}"]
    rows += [f"{preset:<10} {counts[preset, True]:>5} {counts[preset, False]:>9}" for preset in PRESETS]
    return "\n".join(rows)


def significant(case: Path, found: list[str]) -> list[str]:
    ignored = NAMES if case.parent.name == "golden_plans_msd" else NAMES[:1]
    return [line for line in found if not any(f".{name}:" in line for name in ignored)]


def test_plans_equal_those_of_nnunet(shared):
    counts, wrong = Counter(), []
    for case, preset, dataset, fingerprint, wanted in golden(shared):
        made = json.loads(json.dumps(plan_from_fingerprint(dataset, fingerprint, preset)))
        found = significant(case, list(differences(wanted, made)))
        counts[preset, not found] += 1
        wrong += [f"{case.name} {preset} {line}" for line in found]
    sys.stdout.write(f"\n{table(counts)}\n")
    assert not wrong, "\n".join([table(counts), *wrong[:20]])
    assert sum(counts.values()) >= 90


def test_plans_of_nnunet_survive_being_read_and_written(shared):
    wrong = []
    for case, preset, dataset, _, wanted in golden(shared):
        written = json.loads(json.dumps(to_nnunet(from_nnunet(wanted, dataset), dataset)))
        wrong += [f"{case.name} {preset} {line}" for line in significant(case, list(differences(wanted, written)))]
    assert not wrong, "\n".join(wrong[:20])


def test_a_plan_of_documents_is_the_plan_read_from_their_plans(shared, tmp_path):
    for case, preset, dataset, fingerprint, wanted in golden(shared):
        made, read = plan_from_documents(dataset, fingerprint, preset), from_nnunet(wanted, dataset)
        assert (made.preset, made.memory_gb, made.orientation) == (read.preset, read.memory_gb, "stored"), case.name
        for one, other in zip(made.configurations, read.configurations, strict=True):
            assert (one.network, one.patch_size, one.batch_size) == (other.network, other.patch_size, other.batch_size)
            assert one.normalization == other.normalization
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made


def test_models_of_edited_plans_are_custom(shared):
    for model in ("nnunet_model_tiny", "nnunet_model_tiny_2d", "nnunet_model_tiny_resenc"):
        plans, dataset = (read_json(shared / model / name) for name in ("plans.json", "dataset.json"))
        plan = from_nnunet(plans, dataset)
        assert (plan.preset, plan.memory_gb) == ("custom", None)
        for configuration in plan.configurations:
            architecture = plans["configurations"][configuration.name]["architecture"]["arch_kwargs"]
            assert list(configuration.network.features) == architecture["features_per_stage"]
        written = to_nnunet(plan, dataset)
        assert written["plans_name"] == "medsegPlans"
        assert written["configurations"]["2d"]["data_identifier"] == "medsegPlans_2d"


def older(configuration: dict[str, Any]) -> dict[str, Any]:
    """A configuration as nnU-Net wrote it before plans had an ``architecture``."""
    architecture = configuration.pop("architecture")
    given = architecture["arch_kwargs"]
    return configuration | {
        "UNet_class_name": architecture["network_class_name"].rpartition(".")[2],
        "UNet_base_num_features": 32,
        "n_conv_per_stage_encoder": given.get("n_conv_per_stage") or given.get("n_blocks_per_stage"),
        "n_conv_per_stage_decoder": given["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [5, 5, 5],
        "pool_op_kernel_sizes": given["strides"],
        "conv_kernel_sizes": given["kernel_sizes"],
        "unet_max_num_features": 320 if len(configuration["patch_size"]) == 3 else 512,
    }


@pytest.mark.parametrize("preset", ["default", "resenc-m"])
def test_plans_from_before_architectures_were_written_out(preset):
    plans = plans_document(preset)
    wanted = from_nnunet(plans, DATASET)
    for name, configuration in plans["configurations"].items():
        if "architecture" in configuration:
            plans["configurations"][name] = older(configuration)
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    modality = {**DATASET, "modality": DATASET["channel_names"]}
    del modality["channel_names"]
    assert from_nnunet(plans, modality) == wanted


def test_whole_stages_may_share_one_number():
    plans = plans_document()
    given = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    given |= {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2, "kernel_sizes": 3}
    given["strides"] = [1, *given["strides"][1:]]
    network = from_nnunet(plans, DATASET).configuration("3d_fullres").network
    assert network.encoder_blocks == (2,) * network.stages
    assert network.kernel_sizes == ((3, 3, 3),) * network.stages
    assert network.strides[0] == (1, 1, 1)


def test_decoders_are_listed_from_full_resolution_here_and_towards_it_there():
    plans = plans_document()
    given = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    given["n_conv_per_stage_decoder"] = list(range(1, given["n_stages"]))
    plan = from_nnunet(plans, DATASET)
    assert plan.configuration("2d").network.decoder_blocks[-1] == 1
    written = to_nnunet(plan, DATASET)["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert written["n_conv_per_stage_decoder"] == given["n_conv_per_stage_decoder"]


def test_configurations_inherit_through_several_parents():
    plans = plans_document()
    plans["configurations"]["larger"] = {"inherits_from": "3d_cascade_fullres", "batch_size": 5}
    plan = from_nnunet(plans, DATASET)
    larger, fullres = plan.configuration("larger"), plan.configuration("3d_fullres")
    assert (larger.batch_size, larger.previous_stage) == (5, "3d_lowres")
    assert larger.network == fullres.network
    written = to_nnunet(plan, DATASET)["configurations"]
    assert written["3d_lowres"]["next_stage"] == ["3d_cascade_fullres", "larger"]
    assert written["larger"]["batch_size"] == 5


def test_only_what_is_wanted_is_read_with_the_stage_before():
    plans = plans_document()
    plans["configurations"]["2d"]["preprocessor_name"] = "OwnPreprocessor"
    plan = from_nnunet(plans, DATASET, only=["3d_cascade_fullres"])
    assert [one.name for one in plan.configurations] == ["3d_lowres", "3d_cascade_fullres"]
    with pytest.raises(DocumentError, match="'3d_huge' is wanted, but there are only 2d"):
        from_nnunet(plans, DATASET, only=["3d_huge"])


@pytest.mark.parametrize(
    ("circle", "message"),
    [
        ({"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}, "in a circle: a -> b -> a"),
        ({"a": {"inherits_from": "a"}}, "in a circle: a -> a"),
        ({"a": {"inherits_from": "nowhere"}}, "'a' names 'nowhere', but there are only"),
    ],
)
def test_impossible_inheritance_is_refused(circle, message):
    plans = plans_document()
    plans["configurations"] |= circle
    with pytest.raises(DocumentError, match=message):
        from_nnunet(plans, DATASET)


def changed(plans: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    plans = copy.deepcopy(plans)
    *parents, last = path.split("/")
    place = plans
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return plans


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("resampling_fn_data", "resample_torch_fornnunet", "resampling_fn_data 'resample_torch_fornnunet' is not supp"),
        ("resampling_fn_data_kwargs/order", 1, "resampling_fn_data_kwargs .* is not supported, only .*'order': 3"),
        ("resampling_fn_probabilities_kwargs/order_z", 1, "resampling_fn_probabilities_kwargs"),
        ("preprocessor_name", "OwnPreprocessor", "preprocessor_name 'OwnPreprocessor' is not supported"),
        ("normalization_schemes", ["HistogramNormalization"], "'HistogramNormalization' is not supported, only CTNorm"),
        ("normalization_schemes", ["CTNormalization"] * 2, "2 normalization_schemes for 1 channels"),
        ("patch_size", [64, 64], "do not have 2 or 3 axes each"),
        ("patch_size", [64.5, 64, 64], r"patch_size\[0\]: expected an integer, found 64.5"),
        ("batch_size", None, "'batch_size' is missing"),
        ("architecture/network_class_name", "dynamic.PrimusM", "network class 'dynamic.PrimusM' is not supported"),
        ("architecture/arch_kwargs/norm_op", "torch.nn.BatchNorm3d", "norm_op 'torch.nn.BatchNorm3d' is not supported"),
        ("architecture/arch_kwargs/nonlin", "torch.nn.GELU", "nonlin 'torch.nn.GELU' is not supported"),
        ("architecture/arch_kwargs/conv_op", "torch.nn.Conv2d", "conv_op 'torch.nn.Conv2d' is not supported"),
        ("architecture/arch_kwargs/conv_bias", False, "conv_bias False is not supported"),
        ("architecture/arch_kwargs/stem_channels", 16, "option 'stem_channels' is not supported"),
        ("architecture/arch_kwargs/strides", [[1, 1, 1]], "strides: expected 6 entries, found 1"),
        ("architecture/arch_kwargs/kernel_sizes", [[3, 3]] * 6, "kernel_sizes: expected 3 entries, found 2"),
        ("architecture/arch_kwargs/n_conv_per_stage", None, "'n_conv_per_stage' is missing"),
    ],
)
def test_what_would_be_done_differently_is_refused_by_name(path, value, message):
    plans = changed(plans_document(), f"configurations/3d_fullres/{path}", value)
    with pytest.raises(DocumentError, match=f"plans.json: configurations.3d_.*{message}"):
        from_nnunet(plans, DATASET)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("label_manager", "OwnLabelManager", "label_manager 'OwnLabelManager' is not supported"),
        ("image_reader_writer", "OwnReader", "image_reader_writer 'OwnReader' is not supported"),
        ("transpose_forward", [0, 1, 1], "expected an order of the axes"),
        ("foreground_intensity_properties_per_channel/0", None, "'0' is missing"),
        ("configurations", None, "'configurations' is missing"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(path, value, message):
    with pytest.raises(DocumentError, match=message):
        from_nnunet(changed(plans_document(), path, value), DATASET)


@pytest.mark.parametrize(
    ("ending", "orientation", "reader"),
    [
        (".nii.gz", "stored", "SimpleITKIO"),
        (".nii", "stored", "NibabelIO"),
        (".png", "stored", "NaturalImage2DIO"),
        (".PNG", "RAS", "NaturalImage2DIO"),
        (".nii.gz", "RAS", "NibabelIOWithReorient"),
        (".mha", "RAS", "SimpleITKIOWithReorient"),
    ],
)
def test_the_reader_follows_files_and_orientation(ending, orientation, reader):
    dataset = {**DATASET, "file_ending": ending}
    plan = plan_from_documents(dataset, FINGERPRINT)
    plan = type(plan)(**{**plan.__dict__, "orientation": orientation})
    written = to_nnunet(plan, dataset)
    assert written["image_reader_writer"] == reader
    turns = reader.endswith("WithReorient")
    assert from_nnunet(written, dataset).orientation == ("RAS" if turns else "stored")


def test_readers_that_nnunet_does_not_have_are_refused():
    plan = plan_from_documents(DATASET, FINGERPRINT)
    with pytest.raises(DocumentError, match=r"reads no '\.dcm' files"):
        to_nnunet(plan, {**DATASET, "file_ending": ".dcm"})
    with pytest.raises(DocumentError, match="to LPS, only to RAS"):
        to_nnunet(type(plan)(**{**plan.__dict__, "orientation": "LPS"}), DATASET)


def test_a_reader_of_the_dataset_s_choice_is_kept():
    dataset = {**DATASET, "overwrite_image_reader_writer": "NibabelIO"}
    assert plan_from_fingerprint(dataset, FINGERPRINT, "default")["image_reader_writer"] == "NibabelIO"


def test_regions_and_the_ignore_label_count_as_entries():
    regions = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    dataset = {**DATASET, "labels": regions, "regions_class_order": [1, 2]}
    plain = {**DATASET, "labels": {"background": 0, "a": 1, "b": 2, "c": 3}}
    first, second = (plan_from_fingerprint(one, FINGERPRINT, "default") for one in (dataset, plain))
    assert first["configurations"] == second["configurations"]
    assert plan_from_documents(dataset, FINGERPRINT).labels.has_regions


def test_memory_is_a_dial_and_presets_are_checked():
    small, large = (plan_from_fingerprint(DATASET, FINGERPRINT, "resenc-l", memory_gb) for memory_gb in (12, 48))
    patches = [math.prod(plans["configurations"]["3d_fullres"]["patch_size"]) for plans in (small, large)]
    assert patches[0] < patches[1]
    assert plan_from_fingerprint(DATASET, FINGERPRINT, "resenc-l", 24) == plans_document("resenc-l")
    with pytest.raises(UsageError, match="choose one of"):
        plan_from_fingerprint(DATASET, FINGERPRINT, "nnUNetPlans")


@pytest.mark.parametrize("name", ["channel_names", "labels", "numTraining", "file_ending"])
def test_an_incomplete_dataset_json_is_refused(name):
    with pytest.raises(DocumentError, match=f"dataset.json: entry {name!r} is missing"):
        plan_from_fingerprint(changed(DATASET, name, None), FINGERPRINT, "default")


@pytest.mark.parametrize("name", sorted(FINGERPRINT))
def test_an_incomplete_fingerprint_is_refused(name):
    with pytest.raises(DocumentError, match=f"dataset_fingerprint.json: entry {name!r} is missing"):
        plan_from_fingerprint(DATASET, changed(FINGERPRINT, name, None), "default")
