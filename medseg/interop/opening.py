"""A trained model from any of the forms that there are: our folder or nnU-Net v2's, or a zip of one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from medseg import model
from medseg.interop.nnunet import archives, models
from medseg.interop.zips import load_zip
from medseg.model import Model

ModelPath = str | os.PathLike[str]


def open_model(folder: ModelPath, folds: Sequence[int | str] | None = None) -> Model:
    """Read a model; by default all folds in it.

    Args:
        folder: a model folder, ours or nnU-Net v2's, or a zip that holds one.

    Raises:
        ModelError: the folder or a fold is missing, damaged, or does not fit its plan; a zip holds several models.
        DocumentError: its documents do not parse.
    """
    if archives.is_archive(folder):
        return load_zip(folder, folds)
    if models.is_model_folder(folder):
        return models.load_model(folder, folds)
    return model.load_model(folder, folds)
