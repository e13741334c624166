"""The network compiled for its GPU, if that works in time."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable

import torch

from medseg.device import Precision, autocast
from medseg.networks.unet import UNet
from medseg.training.recipe import LONG_RUN_ITERATIONS
from medseg.training.run import Run

# How long compiling may take; it is done once a run, before the first step.
COMPILE_SECONDS = 300.0

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]

log = logging.getLogger(__name__)


def is_worth_compiling(run: Run, device: torch.device) -> bool:
    """Whether to try: on a GPU, in a run long enough to earn it back, whose bits and layers may differ a little.

    The CPU has operations of its own (:mod:`medseg.networks.operations`), which compiling would replace. A start that
    fell back would end with other bits than one that did not, and an encoder that is frozen and freed again would be
    compiled twice.
    """
    long = run.recipe.iterations >= LONG_RUN_ITERATIONS
    return device.type == "cuda" and long and not run.deterministic and run.recipe.frozen_iterations == 0


def compiled(
    network: UNet, example: torch.Tensor, precision: Precision, seconds: float = COMPILE_SECONDS
) -> tuple[UNet, Forward | None]:
    """A network of the same weights with its compiled ``forward_scales``, or the one given and None if that failed.

    A thread compiles a twin, forwards and backwards on an example (B, C, ...). Where it takes too long the twin is left
    to it, and nothing that is trained is touched.
    """
    twin = copy.deepcopy(network)
    found: list[Forward] = []
    problems: list[Exception] = []

    def attempt() -> None:
        try:
            forward = torch.compile(twin.forward_scales)
            with autocast(example.device, precision):
                scales = forward(example)
            torch.stack([scale.float().sum() for scale in scales]).sum().backward()
            twin.zero_grad(set_to_none=True)
            found.append(forward)
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=attempt, name="compiling", daemon=True)
    thread.start()
    thread.join(seconds)
    if found:
        return twin, found[0]
    if problems:
        reason = f"{type(problems[0]).__name__}: {problems[0]}".splitlines()[0]
    else:
        reason = f"not done after {seconds:.0f} s"
    log.info("torch.compile failed (%s); training goes on without it", reason)
    return network, None
