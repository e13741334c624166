"""A session from a checkpoint, whatever promptable model it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from medseg.device import choose_device
from medseg.errors import UsageError
from medseg.model import MODEL_FILE, load_model
from medseg.prompting.engine import Engine
from medseg.prompting.published import located
from medseg.prompting.sam.engine import SamEngine
from medseg.prompting.sam2.engine import Sam2Engine
from medseg.prompting.sam2.weights import is_sam2
from medseg.prompting.sam3.engine import Sam3Engine
from medseg.prompting.sam3.weights import is_sam3
from medseg.prompting.session import Session
from medseg.prompting.slices.windows import Window
from medseg.prompting.unet.engine import UNetEngine


def _open_unet(path: Path, device: torch.device, **_: object) -> Engine:
    return UNetEngine(load_model(path), device)


OPENERS: Mapping[str, Callable[..., Engine]] = {
    "unet": _open_unet,
    "medsam": partial(SamEngine.open, style="medsam"),
    "sam": partial(SamEngine.open, style="sam"),
    "medsam2": partial(Sam2Engine.open, style="medsam2"),
    "sam2": partial(Sam2Engine.open, style="sam2"),
    "sam3": Sam3Engine.open,
}
ENGINES = ("auto", *OPENERS)


def load(
    checkpoint: str | os.PathLike[str],
    device: str = "auto",
    *,
    engine: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    window: tuple[float, float] | None = None,
) -> Session:
    """Open a promptable model; nothing is downloaded.

    Args:
        checkpoint: the folder of a promptable network, or SAM or SAM 2: a file in its original form
            (``medsam_vit_b.pth``, ``sam_vit_b_01ec64.pth``, ``MedSAM2_latest.pt``, ``sam2.1_hiera_tiny.pt``) or a
            Hugging Face folder (``config.json`` and ``model.safetensors``); SAM 3 either way, with its tokenizer's
            files. Or a name of :mod:`medseg.prompting.published`, which then lies in ``medseg-weights``.
        engine: ``unet``, ``medsam``, ``sam``, ``medsam2``, ``sam2``, ``sam3``, or ``auto``: what the checkpoint is. The
            medical ones have the weights of the others; ``auto`` goes by the name, which holds medsam.
        cache: folder in which embeddings of slices are kept; else they are kept in memory only.
        window: the values that are seen as black and white, except by ``unet``; by default chosen by the scan as
            MedSAM's authors did.

    Raises:
        ModelError: the checkpoint is missing, damaged, of another architecture, or asks for code to be run.
        UsageError: an unknown engine or device, or a package is missing.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    path = located(checkpoint)
    opened = OPENERS[_engine_of(path) if engine == "auto" else engine](
        path,
        choose_device(device),
        cache=None if cache is None else Path(cache),
        window=None if window is None else Window(*window),
    )
    return Session(opened)


def _engine_of(path: Path) -> str:
    """Which engine a checkpoint is for."""
    if (path / MODEL_FILE).is_file():
        return "unet"
    if is_sam3(path):
        return "sam3"
    family = "sam2" if is_sam2(path) else "sam"
    return f"med{family}" if "medsam" in path.name.lower() else family
