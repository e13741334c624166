"""The zips in which nnU-Net v2's trained models are shared.

Paths are relative to its results folder: DATASET/TRAINER__PLANS__CONFIGURATION/{plans.json, dataset.json, fold_0/...};
one zip may hold several models, and much that prediction does not need.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medseg import atomic
from medseg.errors import DocumentError, ModelError, UsageError
from medseg.interop.nnunet.models import CHECKPOINT_FILE, DATASET_FILE, PLANS_FILE, load_model
from medseg.model import Model

Members = Mapping[PurePosixPath, Sequence[zipfile.ZipInfo]]


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a zip file."""
    return Path(path).suffix.lower() == ".zip" and Path(path).is_file()


def open_archive(path: str | os.PathLike[str], target_folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Extract the models in a zip, without what prediction does not need, whole or not at all.

    Returns:
        The model folders, sorted; they lie in the target as they do in the zip.

    Raises:
        ModelError: the file is no zip, is damaged, holds no model, or has a member that would lie outside the target.
        UsageError: the target exists.
        StorageError: the target cannot be written.
    """
    target = Path(target_folder)
    if target.exists():
        raise UsageError(f"{target}: is there already; name a folder that is not")
    with reading(path) as archive:
        models = _models(archive, Path(path))
        extract(archive, models, target)
    return tuple(target / folder for folder in models)


def load_archive(path: str | os.PathLike[str], folds: Sequence[int | str] | None = None) -> Model:
    """Read the only model in a zip; by default all its folds. Nothing stays on the disk.

    Raises:
        ModelError: as for :func:`open_archive`, or the zip holds several models; names them.
    """
    with tempfile.TemporaryDirectory(prefix="medseg-") as temporary:
        target = Path(temporary) / "models"
        with reading(path) as archive:
            models = _models(archive, Path(path))
            if len(models) > 1:
                listed = ", ".join(map(str, models))
                raise ModelError(f"{path}: holds {len(models)} models: {listed}; extract it and name the folder of one")
            extract(archive, models, target)
        with speaking_of(path, target):
            return load_model(target / next(iter(models)), folds)


@contextmanager
def speaking_of(path: str | os.PathLike[str], extracted: Path) -> Iterator[None]:
    """Errors about what was extracted name the zip, which is what a person knows."""
    try:
        yield
    except (ModelError, DocumentError) as error:
        raise type(error)(str(error).replace(str(extracted), str(path))) from error


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """A zip that is open while inside.

    Raises:
        ModelError: the file is no zip, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(f"{path}: damaged or no zip file ({error}); copy it again") from error
    except RuntimeError as error:  # a compression that zipfile does not know, or a password
        raise ModelError(f"{path}: cannot be extracted ({error}); extract it with another program") from error


def safe_members(archive: zipfile.ZipFile, path: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """What is in a zip, by its place there.

    Raises:
        ModelError: a member would lie outside of the folder that it is extracted to, or is there twice.
    """
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = PurePosixPath(member.filename)
        reason = _danger(member) or ("is there twice" if name in members else None)
        if reason:
            raise ModelError(f"{path}: not extracted: its member {member.filename!r} {reason}; use a zip you trust")
        members[name] = member
    return members


def _models(archive: zipfile.ZipFile, path: Path) -> Members:
    """For each model folder in the zip its members that prediction needs."""
    documents: dict[PurePosixPath, list[zipfile.ZipInfo]] = {}
    checkpoints: dict[PurePosixPath, list[zipfile.ZipInfo]] = {}
    for name, member in safe_members(archive, path).items():
        if name.name in (PLANS_FILE, DATASET_FILE):
            documents.setdefault(name.parent, []).append(member)
        elif name.name == CHECKPOINT_FILE and name.parent.name.startswith("fold_"):
            checkpoints.setdefault(name.parent.parent, []).append(member)
    # the results of a cross-validation hold both documents too, but no checkpoint
    models = {
        folder: [*documents[folder], *checkpoints[folder]]
        for folder in sorted(documents.keys() & checkpoints.keys())
        if len(documents[folder]) == 2
    }
    if not models:
        raise ModelError(
            f"{path}: holds no model; expected a folder with {PLANS_FILE}, {DATASET_FILE} and fold_0/{CHECKPOINT_FILE}"
            " (nnU-Net v2), or with model.json and fold_0/weights.safetensors"
        )
    return models


def _danger(member: zipfile.ZipInfo) -> str | None:
    """Why extracting a member could write outside the target, if it could."""
    name = member.orig_filename.replace("\\", "/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "leads out of the folder"
    kind = stat.S_IFMT(member.external_attr >> 16)  # zero where the zip was not made on a Unix
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    return None


def extract(archive: zipfile.ZipFile, models: Members, target: Path) -> None:
    """Extract members of a zip to where they lie in it, below a folder that is not there yet."""
    with atomic.replacing_folder(target) as temporary:
        for member in (member for members in models.values() for member in members):
            file = temporary / PurePosixPath(member.filename)
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(file, "xb") as written:
                shutil.copyfileobj(source, written, 1 << 20)
