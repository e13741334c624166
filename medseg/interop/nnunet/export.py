"""A model of ours as a trained-model folder that nnU-Net v2 loads and predicts with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from medseg import atomic
from medseg.errors import ModelError, UsageError
from medseg.interop.nnunet import weights
from medseg.interop.nnunet.models import CHECKPOINT_FILE, DATASET_FILE, PLANS_FILE
from medseg.interop.nnunet.plans import dataset_document, exported_values, to_nnunet
from medseg.model import PREVIOUS_FOLDER, Model, fold_folder, load_model

TRAINER = "nnUNetTrainer"
PLANS = "nnUNetPlans"


def export_model(
    model_folder: str | os.PathLike[str],
    target_folder: str | os.PathLike[str],
    folds: Sequence[int | str] | None = None,
) -> dict[str, int | list[int]]:
    """Write a model folder of ours as one of nnU-Net v2, whole or not at all; by default all its folds.

    nnU-Net predicts with it as this package does, with these differences:

    - It reads ``.nii.gz`` files only. A model that turns scans to RAS names nnU-Net's reader that does so too; scans
      more than 40 degrees from every orientation, which are left as they are stored here, are turned by that reader.
    - nnU-Net's label values are consecutive: its masks hold the indices 1..n of the values in ascending order, and
      ``dataset.json`` declares them so.
    - It computes in half precision on GPUs, whatever the model was trained in.

    Of a cascade both stages are written, each in a folder of its own within the target, named as nnU-Net names them: it
    predicts with the first, then with the second and ``-prev_stage_predictions``.

    The optimiser's state is not in a model: nnU-Net can fine-tune the networks, but not go on with their training.

    Returns:
        Each label's value (of a region, its values) in the masks that nnU-Net will write.

    Raises:
        ModelError: the model or a fold is missing or damaged, or nnU-Net cannot build the network.
        DocumentError: nnU-Net cannot turn scans to the orientation of the plan.
        UsageError: the target exists.
        StorageError: the target cannot be written.
    """
    target = Path(target_folder)
    if target.exists():
        raise UsageError(f"{target}: is there already; name a folder that is not")
    model = load_model(model_folder, folds)
    if model.previous is not None and model.previous.others:
        raise ModelError(
            f"{model_folder}: the folds of its {PREVIOUS_FOLDER} have different networks, and a model of nnU-Net has"
            " one; train both stages with --network plan"
        )
    if model.others:
        alike, other = ", ".join(model.weights), ", ".join(model.others[0].weights)
        raise ModelError(
            f"{model_folder}: folds {alike} and {other} have different networks, and a model of nnU-Net has one;"
            f" export them apart with --fold {alike.replace(', ', ',')}"
        )
    with atomic.replacing_folder(target) as temporary:
        if model.previous is None:
            _write(model, temporary)
        else:
            for stage in (model.previous, model):
                _write(stage, temporary / f"{TRAINER}__{PLANS}__{stage.configuration.name}")
    return exported_values(model.plan.labels)


def _write(model: Model, folder: Path) -> None:
    dataset_json = dataset_document(model.plan)
    plans = to_nnunet(model.plan, dataset_json)
    folder.mkdir(exist_ok=True)
    for name, document in ((PLANS_FILE, plans), (DATASET_FILE, dataset_json)):
        (folder / name).write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")
    for fold, tensors in model.weights.items():
        content = {
            "network_weights": weights.to_nnunet(tensors, model.configuration.network),
            "optimizer_state": None,
            "grad_scaler_state": None,
            "logging": {},
            "_best_ema": None,
            "current_epoch": 0,
            "init_args": {
                "plans": plans,
                "configuration": model.configuration.name,
                "fold": int(fold) if fold.isdecimal() else fold,
                "dataset_json": dataset_json,
                "device": torch.device("cpu"),
            },
            "trainer_name": TRAINER,
            # nnU-Net exchanges no labels when it mirrors.
            "inference_allowed_mirroring_axes": tuple(a for a in model.mirror_axes if a != model.swap_axis) or None,
        }
        fold_folder(folder, fold).mkdir()
        torch.save(content, fold_folder(folder, fold) / CHECKPOINT_FILE)
