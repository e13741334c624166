"""A session from a checkpoint, whatever promptable model it holds."""

from __future__ import annotations

import os
from pathlib import Path

from medseg.device import choose_device
from medseg.errors import UsageError
from medseg.model import MODEL_FILE, load_model
from medseg.prompting.engine import Engine
from medseg.prompting.published import located
from medseg.prompting.sam.engine import SamEngine
from medseg.prompting.session import Session
from medseg.prompting.slices.windows import Window
from medseg.prompting.unet.engine import UNetEngine

ENGINES = ("auto", "unet", "medsam", "sam")


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
        checkpoint: the folder of a promptable network, or SAM: a file in its original form (``medsam_vit_b.pth``,
            ``sam_vit_b_01ec64.pth``) or a Hugging Face folder (``config.json`` and ``model.safetensors``). Or a name of
            :mod:`medseg.prompting.published`, which then lies in ``medseg-weights``.
        engine: ``unet``, ``medsam``, ``sam``, or ``auto``: what the checkpoint is. MedSAM's weights look like SAM's;
            ``auto`` goes by the name, which holds medsam.
        cache: folder in which SAM keeps the embeddings of slices; else they are kept in memory only.
        window: the values that SAM sees as black and white; by default chosen by the scan as MedSAM's authors did.

    Raises:
        ModelError: the checkpoint is missing, damaged, of another architecture, or asks for code to be run.
        UsageError: an unknown engine or device, or a package is missing.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    path = located(checkpoint)
    if engine == "auto":
        engine = "unet" if (path / MODEL_FILE).is_file() else "sam"
        if engine == "sam" and "medsam" in path.name.lower():
            engine = "medsam"
    where = choose_device(device)
    opened: Engine
    if engine == "unet":
        opened = UNetEngine(load_model(path), where)
    else:
        opened = SamEngine.open(
            path,
            where,
            style=engine,
            cache=None if cache is None else Path(cache),
            window=None if window is None else Window(*window),
        )
    return Session(opened)
