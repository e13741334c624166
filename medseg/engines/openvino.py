"""OpenVINO as the engine: the network's blocks as operations of OpenVINO, compiled for this CPU.

The operations are put together from the modules themselves, not by OpenVINO's converter of PyTorch models: that one
takes seconds, and traces the forms that :mod:`medseg.networks.operations` has for PyTorch on a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import nn

from medseg.device import Precision
from medseg.engines.engine import EngineNetwork
from medseg.errors import UsageError
from medseg.networks.blocks import ConvNorm, DecoderStage, InstanceNorm, ResidualBlock
from medseg.networks.operations import EPSILON, LEAKY_SLOPE
from medseg.networks.unet import UNet

# OpenVINO has no types to check against.
Operation = Any

# Measured for U-Nets of 4 to 106 MB of weights: loading it takes 18 MB, compiling a network 50 MB and 2.1 times its
# weights, which it keeps in an order of its own.
_LOADED_BYTES = 80_000_000
_COPIES_OF_WEIGHTS = 2.5


class OpenVino:
    """The engine for float32 on a CPU. Nothing is cached on disk or sent over a network."""

    name = "openvino"
    package = "medseg[openvino]"

    def installed(self) -> bool:
        return find_spec("openvino") is not None

    def version(self) -> str:
        return f"openvino {version('openvino')}"

    def computes(self, device: torch.device, precision: Precision) -> bool:
        return device.type == "cpu" and precision == "fp32"

    def open(self, network: nn.Module, window: tuple[int, ...], threads: int) -> EngineNetwork:
        return OpenVinoNetwork(network, window, threads)

    def held_bytes(self, parameter_bytes: int) -> int:
        return int(_LOADED_BYTES + _COPIES_OF_WEIGHTS * parameter_bytes)

    def windows_at_once(self, together: int) -> int:  # noqa: ARG002
        return 1


class OpenVinoNetwork:
    """A network compiled for windows of one shape.

    Windows of a batch are computed one after the other: that is as fast as together, a batch of any size gives the same
    bits, and the memory is that of one window.
    """

    def __init__(self, network: nn.Module, window: tuple[int, ...], threads: int) -> None:
        openvino = _openvino()
        source = openvino.opset8.parameter([1, *window], openvino.Type.f32)
        model = openvino.Model([translate(network, source)], [source], "network")
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,  # other processes, and PyTorch's threads, compute on the same cores
        }
        self._compiled = openvino.Core().compile_model(model, "CPU", options)
        self._request = self._compiled.create_infer_request()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        outputs = []
        for window in batch.contiguous().split(1):
            self._request.infer([window.numpy()], share_inputs=True)
            outputs.append(torch.from_numpy(self._request.get_output_tensor(0).data).clone())
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def release(self) -> None:
        self._compiled.release_memory()


@cache
def _openvino() -> Any:
    """The package, without its telemetry: importing it would report that over the network."""
    with _as_if_missing("openvino_telemetry"):
        import openvino
        import openvino.opset8
    return openvino


@contextmanager
def _as_if_missing(package: str) -> Iterator[None]:
    """While inside, importing a package fails as if it were not installed."""
    before = sys.modules.get(package)
    sys.modules[package] = cast(Any, None)
    try:
        yield
    finally:
        del sys.modules[package]
        if before is not None:
            sys.modules[package] = before


def translate(module: nn.Module, x: Operation) -> Operation:
    """What a module in evaluation mode makes of ``x``, as an operation of OpenVINO.

    Raises:
        UsageError: a module of a kind that has no translation here.
    """
    translation = TRANSLATIONS.get(type(module))
    if translation is None:
        raise UsageError(f"--engine openvino does not know {type(module).__name__}; use --engine torch")
    return translation(module, x)


def _unet(network: UNet, x: Operation) -> Operation:
    x = translate(network.stem, x)
    skips = []
    for stage in network.encoder:
        x = translate(stage, x)
        skips.append(x)
    x = skips.pop()
    for stage in reversed(network.decoder):
        x = _decoder_stage(cast(DecoderStage, stage), x, skips.pop())
    return translate(network.heads[0], x)


def _sequential(modules: nn.Sequential, x: Operation) -> Operation:
    for module in modules:
        x = translate(module, x)
    return x


def _convolution(module: nn.Conv2d | nn.Conv3d, x: Operation) -> Operation:
    ops, padding = _openvino().opset8, list(cast("tuple[int, ...]", module.padding))
    out = ops.convolution(x, _values(module.weight), list(module.stride), padding, padding, list(module.dilation))
    return out if module.bias is None else ops.add(out, _channels(module.bias, module.weight.ndim))


def _conv_norm(module: ConvNorm, x: Operation, residual: Operation | None = None) -> Operation:
    return _normalize(module.norm, translate(module.conv, x), residual)


def _normalize(norm: InstanceNorm, x: Operation, residual: Operation | None) -> Operation:
    ops, dimensions = _openvino().opset8, len(x.get_output_partial_shape(0))
    out = ops.mvn(x, list(range(2, dimensions)), True, EPSILON, "inside_sqrt")
    out = ops.multiply(out, _channels(norm.weight, dimensions))
    out = ops.add(out, _channels(norm.bias, dimensions))
    if residual is not None:
        out = ops.add(out, residual)
    return ops.prelu(out, _values(torch.tensor([LEAKY_SLOPE]))) if norm.activate else out


def _residual_block(block: ResidualBlock, x: Operation) -> Operation:
    pooled = x
    if block.pooling is not None:
        steps, none = list(block.pooling), [0] * len(block.pooling)
        pooled = _openvino().opset8.avg_pool(x, steps, none, none, steps, exclude_pad=True)
    return _conv_norm(block.second, translate(block.first, x), translate(block.shortcut, pooled))


def _decoder_stage(stage: DecoderStage, below: Operation, skip: Operation) -> Operation:
    ops, up = _openvino().opset8, stage.up
    block = ops.convolution_backprop_data(below, _values(up.weight), list(up.weight.shape[2:]))
    block = ops.add(block, _channels(up.bias, up.weight.ndim))
    return translate(stage.blocks, ops.concat([block, skip], 1))


def _values(tensor: torch.Tensor) -> Operation:
    return _openvino().opset8.constant(tensor.detach().float().contiguous().numpy())


def _channels(tensor: torch.Tensor, dimensions: int) -> Operation:
    """A value for each channel, (1, C, 1, ...)."""
    return _values(tensor.detach().view(1, -1, *(1,) * (dimensions - 2)))


# What networks are made of.
TRANSLATIONS: dict[type[nn.Module], Callable[[Any, Operation], Operation]] = {
    UNet: _unet,
    nn.Identity: lambda _, x: x,
    nn.Sequential: _sequential,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    ConvNorm: _conv_norm,
    ResidualBlock: _residual_block,
}
