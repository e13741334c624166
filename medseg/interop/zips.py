"""Models as zips: a model folder of ours, or what nnU-Net v2 exports."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from zipfile import ZipInfo

from medseg import model
from medseg.errors import ModelError
from medseg.interop.nnunet import archives
from medseg.model import FOLD_PLAN_FILE, MODEL_FILE, PREVIOUS_FOLDER, WEIGHTS_FILE, Model


def load_zip(path: str | os.PathLike[str], folds: Sequence[int | str] | None = None) -> Model:
    """Read the only model in a zip; by default all its folds. Nothing stays on the disk.

    Raises:
        ModelError: the file is no zip, is damaged, holds no model or several, or has a member that would lie elsewhere.
    """
    with archives.reading(path) as archive:
        own = _own_models(archives.safe_members(archive, Path(path)))
        if not own:
            return archives.load_archive(path, folds)
        if len(own) > 1:
            listed = ", ".join(map(str, own))
            raise ModelError(f"{path}: holds {len(own)} models: {listed}; extract it and name the folder of one")
        with tempfile.TemporaryDirectory(prefix="medseg-") as temporary:
            target = Path(temporary) / "models"
            archives.extract(archive, own, target)
            with archives.speaking_of(path, target):
                return model.load_model(target / next(iter(own)), folds)


def _own_models(members: Mapping[PurePosixPath, ZipInfo]) -> dict[PurePosixPath, list[ZipInfo]]:
    """For each of our model folders its documents and weights, those of a cascade's previous stage included."""
    folders = [
        name.parent for name in sorted(members) if name.name == MODEL_FILE and name.parent.name != PREVIOUS_FOLDER
    ]
    return {
        folder: [
            member
            for name, member in members.items()
            if name.name in (MODEL_FILE, WEIGHTS_FILE, FOLD_PLAN_FILE) and name.is_relative_to(folder)
        ]
        for folder in folders
    }
