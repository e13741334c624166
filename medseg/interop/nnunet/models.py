"""nnU-Net v2's trained-model folders as models of ours, opened without running code from them.

TRAINER__PLANS__CONFIGURATION/{plans.json, dataset.json, fold_0/checkpoint_final.pth, ...}
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medseg import documents
from medseg.errors import ModelError
from medseg.interop.nnunet import weights
from medseg.interop.nnunet.checkpoint import read_checkpoint
from medseg.interop.nnunet.reading import from_nnunet
from medseg.model import Model

PLANS_FILE = "plans.json"
DATASET_FILE = "dataset.json"
CHECKPOINT_FILE = "checkpoint_final.pth"


def is_model_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like a trained model of nnU-Net v2."""
    root = Path(folder)
    return (root / PLANS_FILE).is_file() and (root / DATASET_FILE).is_file()


def load_model(folder: str | os.PathLike[str], folds: Sequence[int | str] | None = None) -> Model:
    """Read a trained-model folder; by default all folds in it.

    Raises:
        ModelError: no such fold, folds of different configurations, a checkpoint that is damaged, holds code, or does
            not fit its plan; a cascade without its first stage beside it.
        DocumentError: plans or dataset do not parse, or ask for something that this package does not do.
    """
    root = Path(folder)
    present = sorted(path.parent.name.removeprefix("fold_") for path in root.glob(f"fold_*/{CHECKPOINT_FILE}"))
    wanted = present if folds is None else [str(fold) for fold in folds]
    missing = [fold for fold in wanted if fold not in present]
    if missing or not wanted:
        found = f"found {', '.join(present)}" if present else "found none"
        raise ModelError(f"{root}: no {CHECKPOINT_FILE} of fold {', '.join(missing) or 'any'} ({found})")
    checkpoints = {fold: read_checkpoint(root / f"fold_{fold}" / CHECKPOINT_FILE) for fold in wanted}
    names = {checkpoint.configuration for checkpoint in checkpoints.values()}
    if len(names) > 1:
        raise ModelError(f"{root}: its folds are of different configurations: {', '.join(sorted(names))}")
    (name,) = names
    documents_read = [documents.read_json(root / file) for file in (PLANS_FILE, DATASET_FILE)]
    plan = from_nnunet(*documents_read, only=(name,))
    configuration = plan.configuration(name)
    tensors = {
        fold: weights.from_nnunet(checkpoint.weights, configuration.network) for fold, checkpoint in checkpoints.items()
    }
    mirror_axes = checkpoints[wanted[0]].mirror_axes
    previous = None
    if configuration.previous_stage is not None:
        previous = _previous_stage(root, configuration.previous_stage)
    # its trainer casts to half precision on GPUs
    return Model(plan, configuration, mirror_axes, "fp16", tensors, previous=previous)


def _previous_stage(root: Path, stage: str) -> Model:
    """The first stage of a cascade, which nnU-Net keeps in a folder beside: TRAINER__PLANS__CONFIGURATION."""
    trainer_and_plans = root.resolve().name.rpartition("__")[0]
    folder = root.resolve().parent / f"{trainer_and_plans}__{stage}"
    if not is_model_folder(folder):
        raise ModelError(f"{root}: the second stage of a cascade; expected the model of {stage} beside it in {folder}")
    return load_model(folder)
