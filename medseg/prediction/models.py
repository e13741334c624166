"""A model by its path, whoever has made it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from medseg.interop.opening import ModelPath, open_model
from medseg.prediction.predictor import Predictor
from medseg.prediction.settings import DEFAULT_SETTINGS, PredictionSettings


def load_predictor(
    models: ModelPath | Sequence[ModelPath],
    folds: Sequence[int | str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    settings: PredictionSettings = DEFAULT_SETTINGS,
) -> Predictor:
    """A model, or several to be averaged, on a device, ready to predict.

    Args:
        models: folders or zips, medseg's or nnU-Net's.
        folds: of each model; by default all that are trained.
        device, precision, settings: as of :class:`Predictor`.

    Raises:
        ModelError: as for :func:`open_model`.
        UsageError: the machine has no such device or precision, or the models have different channels or labels.
    """
    paths = [models] if isinstance(models, str | os.PathLike) else models
    return Predictor([open_model(path, folds) for path in paths], device, precision, settings)
