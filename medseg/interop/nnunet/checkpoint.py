"""nnU-Net's checkpoints, read without running anything that is in them.

A checkpoint is a pickle. It is opened with ``torch.load(weights_only=True)``, which builds tensors and plain values
only, and the NumPy numbers of nnU-Net's training log besides.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.errors import ModelError


@dataclass(frozen=True, eq=False)
class NnunetCheckpoint:
    """What prediction and fine-tuning need from an nnU-Net checkpoint.

    Attributes:
        weights: the state dict, on the CPU, under nnU-Net's names.
        configuration: name of the configuration in the plans.
        trainer_name: the trainer's class, as a word.
        mirror_axes: axes of the patch along which predictions may be mirrored.
        fold: number of the fold, or ``"all"``.
        plans: ``plans.json`` as the training read it.
        dataset_json: ``dataset.json`` as the training read it.
        epoch: the epoch that would come next.
    """

    weights: Mapping[str, Tensor]
    configuration: str
    trainer_name: str
    mirror_axes: tuple[int, ...]
    fold: int | str
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    epoch: int


def read_checkpoint(path: str | os.PathLike[str]) -> NnunetCheckpoint:
    """Read a ``checkpoint_*.pth`` of nnU-Net v2, with or without the state of its training.

    Raises:
        ModelError: the file is missing, damaged, no such checkpoint, or asks for code to be run.
    """
    file = Path(path)
    content = _load(file)
    arguments = _entry(content, "init_args", Mapping, file)
    axes = content.get("inference_allowed_mirroring_axes")  # None where the trainer does not mirror
    weights = _entry(content, "network_weights", Mapping, file)
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{file}: network_weights holds something else than tensors; not a checkpoint of nnU-Net v2")
    return NnunetCheckpoint(
        weights=dict(weights),
        configuration=_entry(arguments, "configuration", str, file),
        trainer_name=_entry(content, "trainer_name", str, file),
        mirror_axes=() if axes is None else tuple(int(axis) for axis in axes),
        fold=_entry(arguments, "fold", (int, str), file),
        plans=_entry(arguments, "plans", Mapping, file),
        dataset_json=_entry(arguments, "dataset_json", Mapping, file),
        epoch=int(_entry(content, "current_epoch", int, file)),
    )


def _load(file: Path) -> Mapping[str, Any]:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if archive.testzip():  # PyTorch would not notice a changed byte
                    raise zipfile.BadZipFile("checksum")
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a pickle is unusual is said below, if it matters
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(
            f"{file}: cannot be read ({error.strerror or error}); expected an nnU-Net checkpoint"
        ) from error
    except Exception as error:  # damaged bytes may fail anywhere in the unpickler, and in any way
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            reason = (
                f"it asks to run {refused[1]}, which no nnU-Net checkpoint needs; use a file from a source you trust"
            )
        else:
            reason = "it is damaged or no PyTorch file; copy it again"
        raise ModelError(f"{file}: not read as an nnU-Net checkpoint: {reason}") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{file}: expected a checkpoint of nnU-Net v2, found a pickled {type(content).__name__}")
    return content


def _allowed() -> list[Any]:
    """What a pickled NumPy number is made of, under the module names of NumPy 1 and 2."""
    make_scalar = np.float64(0).__reduce__()[0]
    make_array = np.zeros(1).__reduce__()[0]
    allowed: list[Any] = [np.dtype, np.ndarray, *{type(np.dtype(code)) for code in "?bhilqBHILQefd"}]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(make_scalar, f"{module}.scalar"), (make_array, f"{module}._reconstruct")]
    return allowed


def _entry(content: Mapping[str, Any], name: str, kind: Any, file: Path) -> Any:
    if not isinstance(content.get(name), kind):
        raise ModelError(f"{file}: its entry {name!r} is missing or malformed; not a checkpoint of nnU-Net v2")
    return content[name]
