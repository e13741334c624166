"""What computes networks in prediction. A further engine is one file and one line of the table."""

from __future__ import annotations

import torch

from medseg.device import Precision
from medseg.engines.engine import Engine, EngineNetwork
from medseg.engines.openvino import OpenVino
from medseg.engines.probing import fastest
from medseg.engines.pytorch import PyTorch
from medseg.errors import UsageError

TORCH: Engine = PyTorch()
ENGINES: dict[str, Engine] = {engine.name: engine for engine in (TORCH, OpenVino())}


def require_engine(name: str) -> None:
    """See that there is an engine of that name, or ``auto``.

    Raises:
        UsageError: there is none, or what it needs is not installed; says how to install it.
    """
    if name == "auto":
        return
    if name not in ENGINES:
        raise UsageError(f"--engine {name}: expected auto, {' or '.join(ENGINES)}")
    if not ENGINES[name].installed():
        raise UsageError(f"--engine {name} is not installed: pip install {ENGINES[name].package}")


def candidates(name: str, device: torch.device, precision: Precision) -> tuple[Engine, ...]:
    """The engines of which the fastest is to be used, PyTorch first; the one that is named alone.

    Raises:
        UsageError: the engine that is named does not compute on that device in that precision.
    """
    if name == "auto":
        return tuple(each for each in ENGINES.values() if each.installed() and each.computes(device, precision))
    engine = ENGINES[name]
    if not engine.computes(device, precision):
        raise UsageError(
            f"--engine {name} computes in fp32 on a CPU, found {precision} on {device.type};"
            f" give --device cpu --precision fp32, or --engine torch"
        )
    return (engine,)


__all__ = ["ENGINES", "TORCH", "Engine", "EngineNetwork", "candidates", "fastest", "require_engine"]
