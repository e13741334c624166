"""A model by its path, whoever has made it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from medseg.interop.nnunet import archives
from medseg.interop.nnunet import models as nnunet_models
from medseg.model import Model, load_model
from medseg.prediction.predictor import Predictor
from medseg.prediction.settings import DEFAULT_SETTINGS, PredictionSettings

ModelPath = str | os.PathLike[str]


def open_model(path: ModelPath, folds: Sequence[int | str] | None = None) -> Model:
    """A model folder, ours or nnU-Net v2's, or a zip that holds one model of nnU-Net v2; by default all its folds.

    Raises:
        ModelError: the folder or a fold is missing, damaged, or does not fit its plan; a zip holds several models.
    """
    if archives.is_archive(path):
        return archives.load_archive(path, folds)
    if nnunet_models.is_model_folder(path):
        return nnunet_models.load_model(path, folds)
    return load_model(path, folds)


def load_predictor(
    models: ModelPath | Sequence[ModelPath],
    folds: Sequence[int | str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    settings: PredictionSettings = DEFAULT_SETTINGS,
) -> Predictor:
    """A model, or several to be averaged, on a device, ready to predict; by default all folds.

    Raises:
        ModelError: as for :func:`open_model`.
        UsageError: the machine has no such device or precision, or the models have different channels or labels.
    """
    paths = [models] if isinstance(models, str | os.PathLike) else models
    return Predictor([open_model(path, folds) for path in paths], device, precision, settings)
