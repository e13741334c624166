"""Network weights under nnU-Net's names and under ours.

nnU-Net's state dict holds most tensors under several names: every convolution and normalisation a second time in
``all_modules``, and the whole encoder a second time inside the decoder. All are written; any is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from medseg import networks
from medseg.architecture import NetworkSpec
from medseg.errors import ModelError

WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def from_nnunet(state: Mapping[str, Tensor], spec: NetworkSpec) -> dict[str, Tensor]:
    """The tensors of an nnU-Net network under our names.

    Raises:
        ModelError: a tensor is missing, has no place in the network, or the wrong shape; names the first such.
    """
    given = {_unwrapped(name): tensor for name, tensor in state.items()}
    found: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for theirs, ours in _names(spec):
        aliases.setdefault(ours, theirs)
        if theirs not in given:
            continue
        tensor = given.pop(theirs)
        if not torch.equal(found.setdefault(ours, tensor), tensor):
            raise ModelError(f"nnU-Net weights: {theirs} differs from {aliases[ours]}, which should be the same tensor")
    if given:
        raise ModelError(f"nnU-Net weights: {min(given)} has no place in the network of the plans")
    for ours, theirs in aliases.items():
        if ours not in found:
            raise ModelError(f"nnU-Net weights: {theirs} is missing; the checkpoint does not belong to these plans")
    _check_shapes(found, spec, aliases)
    return found


def to_nnunet(state: Mapping[str, Tensor], spec: NetworkSpec) -> dict[str, Tensor]:
    """The tensors of our network under all of nnU-Net's names, in its order; aliases share memory.

    Raises:
        ModelError: a tensor is missing or left over, or nnU-Net cannot build the network.
    """
    if spec.stages == 1:
        raise ModelError("nnU-Net weights: nnU-Net cannot build a network of a single resolution")
    names = tuple(_names(spec))
    strange = set(state).symmetric_difference(ours for _, ours in names)
    if strange:
        raise ModelError(f"nnU-Net weights: {min(strange)} is in only one of the network and its weights")
    return {theirs: state[ours] for theirs, ours in names}


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _names(spec: NetworkSpec) -> Iterator[tuple[str, str]]:
    """Every name of nnU-Net's with ours, in the order of its state dict."""
    for prefix in ("encoder.", "decoder.encoder."):
        for theirs, ours in _encoder_names(spec):
            yield prefix + theirs, ours
    lowest_first = tuple(reversed(range(spec.stages - 1)))
    for theirs, stage in enumerate(lowest_first):
        for block in range(spec.decoder_blocks[stage]):
            yield from _block_names(f"decoder.stages.{theirs}.convs.{block}", f"decoder.{stage}.blocks.{block}")
    for theirs, stage in enumerate(lowest_first):
        yield from _layer_names(f"decoder.transpconvs.{theirs}", f"decoder.{stage}.up")
    for theirs, stage in enumerate(lowest_first):
        yield from _layer_names(f"decoder.seg_layers.{theirs}", f"heads.{stage}")


def _encoder_names(spec: NetworkSpec) -> Iterator[tuple[str, str]]:
    if spec.family == "plain_unet":
        for stage, blocks in enumerate(spec.encoder_blocks):
            for block in range(blocks):
                yield from _block_names(f"stages.{stage}.0.convs.{block}", f"encoder.{stage}.{block}")
        return
    yield from _block_names("stem.convs.0", "stem")
    incoming = spec.features[0]
    for stage, blocks in enumerate(spec.encoder_blocks):
        for block in range(blocks):
            theirs, ours = f"stages.{stage}.blocks.{block}", f"encoder.{stage}.{block}"
            yield from _block_names(f"{theirs}.conv1", f"{ours}.first")
            yield from _block_names(f"{theirs}.conv2", f"{ours}.second")
            if incoming != spec.features[stage]:
                # a strided block pools first, which is number 0 of nnU-Net's shortcut
                place = int(any(step > 1 for step in spec.strides[stage]))
                yield from _block_names(f"{theirs}.skip.{place}", f"{ours}.shortcut", bias=False)
            incoming = spec.features[stage]


def _block_names(theirs: str, ours: str, bias: bool = True) -> Iterator[tuple[str, str]]:
    for convolution, normalization in (("conv", "norm"), ("all_modules.0", "all_modules.1")):
        yield from _layer_names(f"{theirs}.{convolution}", f"{ours}.conv", bias)
        yield from _layer_names(f"{theirs}.{normalization}", f"{ours}.norm")


def _layer_names(theirs: str, ours: str, bias: bool = True) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.weight", f"{ours}.weight"
    if bias:
        yield f"{theirs}.bias", f"{ours}.bias"


def _check_shapes(found: Mapping[str, Tensor], spec: NetworkSpec, aliases: Mapping[str, str]) -> None:
    """Compare with the network that the plans describe; only the numbers of input and output channels are free."""
    first = found["encoder.0.0.conv.weight" if spec.family == "plain_unet" else "stem.conv.weight"]
    in_channels = max(first.shape[1], 1) if first.ndim > 1 else 1
    out_channels = max(found["heads.0.bias"].numel(), 1)
    for ours, expected in networks.tensor_shapes(spec, in_channels, out_channels).items():
        shape = tuple(found[ours].shape)
        if shape != expected:
            raise ModelError(f"nnU-Net weights: {aliases[ours]} has shape {shape}, but the plans make it {expected}")
