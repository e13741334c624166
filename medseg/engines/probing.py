"""Which engine is the fastest here, by a short measurement on one window."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from medseg.engines.engine import Engine, EngineNetwork
from medseg.errors import UsageError
from medseg.networks.memory import freed_memory_kept

# Another engine has to be so much faster than the first, or what it gains is within noise.
LEAST_GAIN = 1.05
MOST_TURNS = 4
MOST_SECONDS = 1.0


def fastest(
    engines: Sequence[Engine], network: nn.Module, window: tuple[int, ...], threads: int
) -> tuple[Engine, EngineNetwork]:
    """The fastest of several engines for windows (C, ...) of one shape, and the network in it.

    The first, unless another is clearly faster. They compute the same window in turns, for about a second, or once each
    where that takes longer; the least time of each counts.
    """
    opened: list[tuple[Engine, EngineNetwork]] = []
    for engine in engines:
        try:
            opened.append((engine, engine.open(network, window, threads)))
        except UsageError:
            continue  # it does not know this kind of network
    if len(opened) == 1:
        return opened[0]
    seconds = [float("inf")] * len(opened)
    batch = torch.randn(1, *window, generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    with torch.inference_mode(), freed_memory_kept():
        for _ in range(MOST_TURNS):
            for index, (_, form) in enumerate(opened):
                start = time.perf_counter()
                form(batch)
                seconds[index] = min(seconds[index], time.perf_counter() - start)
            if time.perf_counter() - began > MOST_SECONDS:
                break
    for _, form in opened:
        form.release()
    best = 0
    for index in range(1, len(opened)):
        if seconds[index] * LEAST_GAIN < min(seconds[best], seconds[0]):
            best = index
    return opened[best]
