"""How fast a network computes on a CPU, and what makes it so: precision, layout, operations, memory, compilation.

    python -m benchmarks.network [--threads 1] [--batch 2] [--rounds 4] [--residual] [--compile]

The network is nnU-Net's plan for MSD Hippocampus: patches of 40x56x40, four stages of 32 to 256 features. Every way is
run once a round, in turn, and its fastest round counts; CPU seconds are those of this process, so that other work on
the machine shows least in them. A training step is forward, deep supervision, backward, without an optimiser.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from medseg import networks
from medseg.architecture import NetworkSpec
from medseg.networks import operations
from medseg.networks.memory import freed_memory_kept

PATCH = (40, 56, 40)
CHANNELS_LAST = torch.channels_last_3d


@dataclass(frozen=True)
class Way:
    """One way to compute the same network."""

    name: str
    autocast: bool = True
    bf16_weights: bool = False
    own_operations: bool = True
    channels_last: bool = False
    keep_memory: bool = False
    compiled: bool = False


@dataclass
class Times:
    """Seconds a sample: CPU time, the system's part of it, and wall time."""

    rounds: list[tuple[float, float, float]] = field(default_factory=list)

    def best(self) -> tuple[float, float, float]:
        return min(self.rounds)


WAYS = (
    Way("nnU-Net's: PyTorch's operations, contiguous, fp32", autocast=False, own_operations=False),
    Way("the same, bf16 autocast", own_operations=False),
    Way("the same, bf16 autocast, channels last", own_operations=False, channels_last=True),
    Way("own operations, fp32", autocast=False),
    Way("own operations, bf16 autocast"),
    Way("own operations, bf16 weights", autocast=False, bf16_weights=True),
    Way("own operations, bf16 autocast, memory kept", keep_memory=True),
)
COMPILED = Way("compiled: PyTorch's operations, bf16 autocast, memory kept", keep_memory=True, compiled=True)


def hippocampus_spec(residual: bool) -> NetworkSpec:
    """The plan's network, or the residual one of the same size."""
    return NetworkSpec(
        family="residual_unet" if residual else "plain_unet",
        features=(32, 64, 128, 256),
        kernel_sizes=((3, 3, 3),) * 4,
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        encoder_blocks=(1, 3, 4, 6) if residual else (2, 2, 2, 2),
        decoder_blocks=(1, 1, 1) if residual else (2, 2, 2),
    )


def prepared(way: Way, spec: NetworkSpec, batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Functions that run a forward pass and a training step."""
    network = networks.build(spec, 1, 3)
    x = torch.randn(batch, 1, *PATCH, generator=torch.Generator().manual_seed(0))
    if way.bf16_weights:
        network, x = network.bfloat16(), x.bfloat16()
    if way.channels_last:
        network, x = network.to(memory_format=CHANNELS_LAST), x.to(memory_format=CHANNELS_LAST)
    forward = torch.compile(network.forward) if way.compiled else network.forward
    forward_scales = torch.compile(network.forward_scales) if way.compiled else network.forward_scales

    def context() -> AbstractContextManager[object]:
        stack = contextlib.ExitStack()
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=way.autocast))
        if not way.own_operations:
            stack.enter_context(patch.object(operations, "_own_form", return_value=False))
        return stack

    @torch.inference_mode()
    def predict() -> None:
        with context():
            forward(x)

    def step() -> None:
        with context():
            loss = torch.stack([logits.float().square().mean() for logits in forward_scales(x)]).sum()
            loss.backward()
        network.zero_grad()

    return predict, step


def timed(function: Callable[[], object], samples: int) -> tuple[float, float, float]:
    """CPU, system and wall seconds a sample."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    function()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return (after.ru_utime - before.ru_utime + system) / samples, system / samples, wall / samples


def compare_ways(ways: tuple[Way, ...], spec: NetworkSpec, batch: int, rounds: int) -> None:
    """Print a table of the ways."""
    functions = [prepared(way, spec, batch) for way in ways]
    times = [(Times(), Times()) for _ in ways]
    for _ in range(rounds):
        for way, pair, results in zip(ways, functions, times, strict=True):
            with freed_memory_kept() if way.keep_memory else contextlib.nullcontext():
                for function, result in zip(pair, results, strict=True):
                    function()  # so that memory is where this way has it
                    result.rounds.append(timed(function, batch))
    print("| way | forward CPU s | wall s | step CPU s | of it system s | wall s | step against the first |")
    print("|---|---|---|---|---|---|---|")
    first = times[0][1].best()[0]
    for way, (forward, step) in zip(ways, times, strict=True):
        (cpu, _, wall), (step_cpu, system, step_wall) = forward.best(), step.best()
        cells = f"{cpu:.3f} | {wall:.3f} | {step_cpu:.3f} | {system:.3f} | {step_wall:.3f} | {first / step_cpu:.1f}x"
        print(f"| {way.name} | {cells} |")


def compare_normalizations(batch: int, rounds: int) -> None:
    """Print a table of ways to normalise and activate feature maps of 32 channels at full resolution."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.ones(32, requires_grad=True), torch.zeros(32, requires_grad=True)

    def instance_norm(x: Tensor) -> Tensor:
        return functional.leaky_relu(functional.instance_norm(x, weight=weight, bias=bias), 0.01, inplace=True)

    def group_norm(x: Tensor) -> Tensor:
        return functional.leaky_relu(functional.group_norm(x, 32, weight, bias), 0.01, inplace=True)

    def by_hand(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x.float(), (2, 3, 4), correction=0, keepdim=True)
        scale = weight.view(1, -1, 1, 1, 1) * torch.rsqrt(variance + 1e-5)
        shift = bias.view(1, -1, 1, 1, 1) - mean * scale
        return functional.leaky_relu(x * scale.to(x.dtype) + shift.to(x.dtype), 0.01, inplace=True)

    def own(x: Tensor) -> Tensor:
        return operations.normalize(x, weight, bias, activate=True)

    print("\n| normalisation and activation, bf16 | layout | forward CPU ms | backward CPU ms |\n|---|---|---|---|")
    for function in (instance_norm, group_norm, by_hand, own):
        for layout in (torch.contiguous_format, CHANNELS_LAST):
            x, gradient = (
                torch.randn(batch, 32, *PATCH, generator=generator).bfloat16().to(memory_format=layout)
                for _ in range(2)
            )
            x.requires_grad_()
            forward, backward = [], []
            for _ in range(rounds + 1):
                out: list[Tensor] = []
                forward.append(timed(lambda f=function, x=x, out=out: out.append(f(x)), batch)[0])
                backward.append(timed(lambda out=out, gradient=gradient: out[0].backward(gradient), batch)[0])
            name = "channels last" if layout == CHANNELS_LAST else "contiguous"
            cells = f"{1000 * min(forward[1:]):.1f} | {1000 * min(backward[1:]):.1f}"
            print(f"| {function.__name__.replace('_', ' ')} | {name} | {cells} |", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--residual", action="store_true", help="the residual encoder")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, batch {arguments.batch}, seconds a sample\n")
    ways = (*WAYS, COMPILED) if arguments.compile else WAYS
    compare_ways(ways, hippocampus_spec(arguments.residual), arguments.batch, arguments.rounds)
    compare_normalizations(arguments.batch, arguments.rounds)


if __name__ == "__main__":
    main()
