"""nnU-Net's weights and checkpoints: names both ways, its own predictions, and files that should not be opened."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from examples import every_tile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg import networks
from medseg.architecture import NetworkSpec
from medseg.errors import ModelError
from medseg.interop.nnunet import from_nnunet as plan_from_nnunet
from medseg.interop.nnunet.checkpoint import NnunetCheckpoint, read_checkpoint
from medseg.interop.nnunet.weights import from_nnunet, to_nnunet
from medseg.patches import gaussian_weights, padding

State = dict[str, torch.Tensor]

PLAIN = NetworkSpec(
    family="plain_unet",
    features=(2, 4),
    kernel_sizes=((1, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2)),
    encoder_blocks=(1, 2),
    decoder_blocks=(1,),
)
RESIDUAL = replace(PLAIN, family="residual_unet")
MODELS = {"nnunet_model_tiny": 6, "nnunet_model_tiny_resenc": 3, "nnunet_model_tiny_2d": 3}


@pytest.fixture
def state() -> State:
    return to_nnunet(networks.build(PLAIN, 1, 3).state_dict(), PLAIN)


@pytest.fixture
def content(state: State) -> dict[str, Any]:
    """What nnU-Net writes during training: weights, optimiser, gradient scaler, a log of NumPy numbers."""
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in state.values()]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "network_weights": state,
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "growth_interval": 2000, "_growth_tracker": 5},
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.float32(0.25)],
            "dice_per_class_or_region": [[np.float64(0.1), np.float32(0.2)], [np.int64(0), np.bool_(True)]],
            "train_losses": np.arange(3, dtype=np.float32),
            "lrs": [0.01, 0.009],
        },
        "_best_ema": np.float64(0.7),
        "current_epoch": 2,
        "init_args": {
            "plans": {"plans_name": "nnUNetPlans"},
            "configuration": "3d_fullres",
            "fold": 3,
            "dataset_json": {"labels": {"background": 0, "tumour": 1}},
            "unpack_dataset": True,
            "device": torch.device("cuda"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def test_every_tensor_has_all_its_names() -> None:
    names = list(to_nnunet(networks.build(PLAIN, 1, 3).state_dict(), PLAIN))
    block = ["conv.weight", "conv.bias", "norm.weight", "norm.bias"]
    block += [f"all_modules.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")]
    encoder = [f"stages.{place}.{name}" for place in ("0.0.convs.0", "1.0.convs.0", "1.0.convs.1") for name in block]
    assert names == [
        *(f"encoder.{name}" for name in encoder),
        *(f"decoder.encoder.{name}" for name in encoder),
        *(f"decoder.stages.0.convs.0.{name}" for name in block),
        *(f"decoder.{layer}.0.{name}" for layer in ("transpconvs", "seg_layers") for name in ("weight", "bias")),
    ]


def test_nnunet_counts_decoder_stages_from_the_lowest() -> None:
    spec = NetworkSpec("plain_unet", (2, 3, 4), ((3, 3),) * 3, ((1, 1), (2, 2), (2, 2)), (1, 1, 1), (1, 2))
    ours = networks.build(spec, 1, 3).state_dict()
    theirs = to_nnunet(ours, spec)
    for number, stage in ((0, 1), (1, 0)):
        assert theirs[f"decoder.seg_layers.{number}.weight"] is ours[f"heads.{stage}.weight"]
        assert theirs[f"decoder.transpconvs.{number}.bias"] is ours[f"decoder.{stage}.up.bias"]
    assert theirs["decoder.stages.0.convs.1.conv.weight"] is ours["decoder.1.blocks.1.conv.weight"]


def test_names_of_a_residual_encoder() -> None:
    state = to_nnunet(networks.build(RESIDUAL, 1, 3).state_dict(), RESIDUAL)
    shortcut = {name for name in state if name.startswith("encoder.stages.1.blocks.0.skip.")}
    place = "encoder.stages.1.blocks.0.skip.1"  # the pooling is number 0
    layers = [f"{place}.{name}" for name in ("conv.weight", "norm.weight", "norm.bias")]
    layers += [f"{place}.all_modules.{name}" for name in ("0.weight", "1.weight", "1.bias")]
    assert shortcut == set(layers)
    assert "encoder.stem.convs.0.conv.bias" in state
    assert "decoder.encoder.stages.0.blocks.0.conv2.all_modules.1.bias" in state


@pytest.mark.parametrize("keep", ["conv/norm", "all_modules", "inside the decoder"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_any_one_name_is_enough(state: State, keep: str, prefix: str) -> None:
    dropped: dict[str, Callable[[str], bool]] = {
        "conv/norm": lambda name: "all_modules" in name,
        "all_modules": lambda name: ".conv." in name or ".norm." in name,
        "inside the decoder": lambda name: name.startswith("encoder."),
    }
    some = {prefix + name: tensor for name, tensor in state.items() if not dropped[keep](name)}
    assert len(some) < len(state)
    read = from_nnunet(some, PLAIN)
    expected = networks.build(PLAIN, 1, 3).state_dict()
    assert set(read) == set(expected)
    assert all(torch.equal(read[name], expected[name]) for name in expected)


def test_weights_that_do_not_fit_are_refused(state: State) -> None:
    head, first = "decoder.seg_layers.0.weight", "encoder.stages.0.0.convs.0.conv.weight"
    without = {name: tensor for name, tensor in state.items() if name != head}
    for changed, message in (
        (without, f"{head} is missing"),
        ({}, f"{first} is missing"),
        (state | {"decoder.extra": torch.ones(1)}, "decoder.extra has no place"),
        (
            state | {head: torch.ones(3, 5, 1, 1, 1)},
            r"shape \(3, 5, 1, 1, 1\), but the plans make it \(3, 2, 1, 1, 1\)",
        ),
        (state | {first: 2 * state[first]}, f"differs from {first}"),
        (dict.fromkeys(state, torch.ones(())), r"has shape \(\), but"),
    ):
        with pytest.raises(ModelError, match=message):
            from_nnunet(changed, PLAIN)
    with pytest.raises(ModelError, match="no place"):
        from_nnunet(state, replace(PLAIN, encoder_blocks=(1, 1)))


def test_what_nnunet_cannot_hold_is_not_written() -> None:
    single = NetworkSpec("plain_unet", (2,), ((3, 3),), ((1, 1),), (1,), ())
    with pytest.raises(ModelError, match="single resolution"):
        to_nnunet(networks.build(single, 1, 2).state_dict(), single)
    with pytest.raises(ModelError, match=r"heads\.0\.bias"):
        to_nnunet({n: t for n, t in networks.build(PLAIN, 1, 2).state_dict().items() if n != "heads.0.bias"}, PLAIN)


@pytest.mark.parametrize("numpy_name", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize("zipped", [True, False])
def test_full_checkpoints_of_both_formats(
    tmp_path: Path, content: dict[str, Any], state: State, zipped: bool, numpy_name: str
) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    _rename_in_pickle(path, b"cnumpy._core.", f"c{numpy_name}.".encode())
    checkpoint = read_checkpoint(path)
    assert list(checkpoint.weights) == list(state)
    assert all(torch.equal(checkpoint.weights[name], state[name]) for name in state)
    assert replace(checkpoint, weights={}) != checkpoint
    assert (checkpoint.configuration, checkpoint.trainer_name) == ("3d_fullres", "nnUNetTrainer")
    assert (checkpoint.mirror_axes, checkpoint.fold, checkpoint.epoch) == ((0, 1, 2), 3, 2)
    assert checkpoint.plans == {"plans_name": "nnUNetPlans"}
    assert checkpoint.dataset_json["labels"]["tumour"] == 1


def test_a_trainer_that_does_not_mirror(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content | {"inference_allowed_mirroring_axes": None}, path)
    assert read_checkpoint(path).mirror_axes == ()
    del content["inference_allowed_mirroring_axes"]
    torch.save(content, path)
    assert read_checkpoint(path).mirror_axes == ()


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path, content: dict[str, Any], zipped: bool) -> None:
    sentinel, path = tmp_path / "sentinel", tmp_path / "checkpoint.pth"
    content["logging"]["extra"] = Malice(f"touch {sentinel}")
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert "asks to run posix.system" in refusal(path)
    assert not sentinel.exists()
    torch.load(path, weights_only=False)  # the file is indeed malicious
    assert sentinel.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(tmp_path: Path, content: dict[str, Any], zipped: bool) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        assert "damaged" in refusal(path)
    path.write_bytes(b"not a checkpoint at all")
    assert "damaged" in refusal(path)


def test_a_changed_byte_in_a_weight_is_noticed(tmp_path: Path, content: dict[str, Any], state: State) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    whole = path.read_bytes()
    place = whole.index(state["decoder.transpconvs.0.weight"].numpy().tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert "damaged" in refusal(path)


def test_files_of_another_kind(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "checkpoint.pth"
    assert "No such file" in refusal(path)
    torch.save([1, 2], path)
    assert "found a pickled list" in refusal(path)
    for name in ("network_weights", "init_args", "trainer_name", "current_epoch"):
        torch.save({key: value for key, value in content.items() if key != name}, path)
        assert repr(name) in refusal(path)
    torch.save(content | {"network_weights": {"a": 1}}, path)
    assert "something else than tensors" in refusal(path)


@pytest.mark.parametrize("name", MODELS)
def test_nnunets_own_files_survive_the_round_trip(shared: Path, name: str) -> None:
    checkpoint, spec = _model(shared / name)
    theirs = checkpoint.weights
    ours = from_nnunet(theirs, spec)
    back = to_nnunet(ours, spec)
    assert list(back) == list(theirs)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", MODELS)
def test_nnunets_own_predictions(shared: Path, name: str) -> None:
    checkpoint, spec = _model(shared / name)
    network = networks.build(spec, 1, 3).eval()
    network.load_state_dict(from_nnunet(checkpoint.weights, spec))
    patch_size = tuple(checkpoint.plans["configurations"][checkpoint.configuration]["patch_size"])
    case = sorted((shared / name / "predictions_notta").glob("*.npz"))[0]
    image = nibabel.load(shared / "nnunet_model_tiny" / "images" / f"{case.stem}_0000.nii.gz")  # pyright: ignore
    voxels = np.asarray(image.dataobj, dtype=np.float32).T  # pyright: ignore[reportAttributeAccessIssue]
    assert voxels.all(axis=None) or _touches_every_border(voxels)  # so there is nothing to crop
    scan = torch.from_numpy((voxels - voxels.mean()) / voxels.std())
    logits = (
        _sliding_window(network, scan[None, None], patch_size)
        if spec.dimensions == 3
        else torch.stack([_sliding_window(network, piece[None, None], patch_size) for piece in scan], dim=1)
    )
    with np.load(case) as file:
        expected = torch.from_numpy(file["probabilities"])
    agreement = (logits.argmax(0) == expected.argmax(0)).float().mean()
    assert agreement > 0.999
    # nnU-Net adds windows up in half precision, which shows most in the corners, where weights are smallest
    assert (logits.softmax(0) - expected).abs().mean() < 1e-3


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_same_numbers_as_nnunets_networks(data: st.DataObject) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    dimensions = data.draw(st.sampled_from((2, 3)))
    stages = data.draw(st.integers(2, 3))
    axes = st.tuples(*[st.sampled_from((1, 2, 3))] * dimensions)
    kernels = st.tuples(*[st.sampled_from((1, 3))] * dimensions)
    spec = NetworkSpec(
        family=data.draw(st.sampled_from(("plain_unet", "residual_unet"))),
        features=tuple(data.draw(st.sampled_from((4, 7))) for _ in range(stages)),
        kernel_sizes=tuple(data.draw(kernels) for _ in range(stages)),
        strides=((1,) * dimensions, *(data.draw(axes) for _ in range(stages - 1))),
        encoder_blocks=tuple(data.draw(st.integers(1, 2)) for _ in range(stages)),
        decoder_blocks=tuple(data.draw(st.integers(1, 2)) for _ in range(stages - 1)),
    )
    plain = spec.family == "plain_unet"
    theirs = (unet.PlainConvUNet if plain else unet.ResidualEncoderUNet)(
        input_channels=2,
        n_stages=stages,
        features_per_stage=spec.features,
        conv_op=torch.nn.Conv3d if dimensions == 3 else torch.nn.Conv2d,
        kernel_sizes=spec.kernel_sizes,
        strides=spec.strides,
        **{"n_conv_per_stage" if plain else "n_blocks_per_stage": spec.encoder_blocks},
        num_classes=3,
        n_conv_per_stage_decoder=spec.decoder_blocks[::-1],
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d if dimensions == 3 else torch.nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        deep_supervision=True,
    )
    ours = networks.build(spec, 2, 3)
    ours.load_state_dict(from_nnunet(theirs.state_dict(), spec))
    assert list(to_nnunet(ours.state_dict(), spec)) == list(theirs.state_dict())
    x = torch.randn(2, 2, *(2 * size for size in spec.divisor), generator=torch.Generator().manual_seed(0))
    for mine, reference in zip(ours.forward_scales(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


def _model(folder: Path) -> tuple[NnunetCheckpoint, NetworkSpec]:
    checkpoint = read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    plans = json.loads((folder / "plans.json").read_text())
    plan = plan_from_nnunet(plans, json.loads((folder / "dataset.json").read_text()))
    return checkpoint, plan.configuration(checkpoint.configuration).network


def _touches_every_border(voxels: np.ndarray) -> bool:
    nonzero = np.nonzero(voxels)
    return all(axis.min() == 0 and axis.max() == size - 1 for axis, size in zip(nonzero, voxels.shape, strict=True))


@torch.inference_mode()
def _sliding_window(network: torch.nn.Module, scan: torch.Tensor, patch_size: tuple[int, ...]) -> torch.Tensor:
    """Logits (K, ...) of a scan (1, 1, ...), tiles weighted as nnU-Net does."""
    pads = padding(scan.shape[2:], patch_size)
    padded = torch.nn.functional.pad(scan, [amount for pair in reversed(pads) for amount in pair])
    shape = padded.shape[2:]
    weights = torch.from_numpy(gaussian_weights(patch_size).copy())
    total, weight = torch.zeros(3, *shape), torch.zeros(shape)
    for start in every_tile(shape, patch_size, 0.5):
        window = tuple(slice(begin, begin + size) for begin, size in zip(start, patch_size, strict=True))
        total[(slice(None), *window)] += network(padded[(slice(None), slice(None), *window)])[0] * weights
        weight[window] += weights
    inside = tuple(slice(low, size - high) for (low, high), size in zip(pads, shape, strict=True))
    return (total / weight)[(slice(None), *inside)]


def _rename_in_pickle(path: Path, old: bytes, new: bytes) -> None:
    if not zipfile.is_zipfile(path):
        path.write_bytes(path.read_bytes().replace(old, new))
        return
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)
