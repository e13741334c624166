"""Which processor computes, and in which precision."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from medseg.errors import UsageError

Precision = Literal["fp32", "bf16", "fp16"]


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: the name is unknown, or the machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: this machine has no MPS device; use --device cpu")
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision of that name; ``auto`` takes bf16 where it is faster, else fp16 on CUDA, else fp32.

    On a CPU whose instructions promise bf16, both are timed first (a tenth of a second, once per process): a library
    or a virtual machine may still emulate it, and then float32 is faster and exact.

    Raises:
        UsageError: the name is unknown, or the device cannot compute in it.
    """
    if name == "auto":
        if _computes_bf16(device):
            return "bf16"
        return "fp16" if device.type == "cuda" else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    match name:
        case "fp32" | "bf16" | "fp16":
            return name
    raise UsageError(f"--precision {name}: expected auto, fp32, bf16 or fp16")


def prediction_precision(name: str, device: torch.device, trained_in: Precision) -> Precision:
    """The precision to predict in: as :func:`choose_precision`, but ``auto`` is never coarser than the training was.

    A network that has learned with the rounding of half precision does not mind it; one that has not may.

    Raises:
        UsageError: the name is unknown, or the device cannot compute in it.
    """
    best = choose_precision(name, device)
    if name != "auto" or best == trained_in:
        return best
    return "fp16" if trained_in == "fp16" and device.type == "cuda" else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which a network computes in the precision; weights stay float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """While inside, a GPU computes the same bits each time, or says which operation cannot. A CPU always does."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def machine_name(device: torch.device) -> str:
    """The processor or GPU as its maker calls it, with the threads that compute; equal names compute equally fast."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f"{torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "1 thread"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")  # kept from some of its instructions, it is another machine
    return f"{_processor()}, {threads}" + (f", {limit} at most" if limit else "")


def _processor() -> str:
    """From the system; platform.processor() is empty or says x86_64 on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def describe(device: torch.device, precision: Precision) -> str:
    """Device and precision as a person reads them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device.type} ({name}), {precision}"


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_computes_bf16()


def _cpu_computes_bf16() -> bool:
    """Whether the CPU claims instructions for bf16 products and computes with them faster than in float32."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.6 cannot tell; fp32 is always right
    claimed = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return claimed and _onednn_computes_bf16() and bf16_speedup() > WORTHWHILE_SPEEDUP


def _onednn_computes_bf16() -> bool:
    """Whether the library of convolutions has a way to bf16 other than its reference code, which takes seconds a layer.

    It may be told to leave instructions alone that the processor has (ONEDNN_MAX_CPU_ISA).
    """
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is None or bool(asked())


@cache
def bf16_speedup() -> float:
    """How many times faster this CPU computes a convolution and its gradient in bf16 than in float32, measured.

    The layer is one of a 3D U-Net's middle: 32 channels, 12x12x12 voxels. One thread's own processor time counts, and
    the fastest of a few repetitions, so that other work on the machine does not decide.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layer = torch.nn.Conv3d(32, 32, 3, padding=1).to(memory_format=torch.channels_last_3d)  # pyright: ignore
        x = torch.ones(1, 32, 12, 12, 12).contiguous(memory_format=torch.channels_last_3d)
        fastest = dict.fromkeys((False, True), float("inf"))
        for _ in range(_PROBE_REPETITIONS):
            for half in fastest:
                began = time.thread_time()
                with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                    torch.autograd.grad(layer(x).float().sum(), (layer.weight,))
                fastest[half] = min(fastest[half], time.thread_time() - began)
    finally:
        torch.set_num_threads(threads)
    return fastest[False] / fastest[True]


# Below this, rounding to bf16 buys too little.
WORTHWHILE_SPEEDUP = 1.1
_PROBE_REPETITIONS = 4
