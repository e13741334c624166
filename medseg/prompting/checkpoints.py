"""Checkpoints that others published: pickled state dicts and Hugging Face folders, for networks of ``transformers``.

Nothing in them is run. A pickle goes through ``torch.load(weights_only=True)``, which builds tensors and plain values
only; of a folder, the configuration and the safetensors are read.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg import documents
from medseg.errors import DocumentError, ModelError, UsageError

CONFIG_FILE = "config.json"
SAFETENSORS_FILE = "model.safetensors"
# The positional encoding of points is one tensor in the original code, and has two names in transformers.
POINTS_ENCODING = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)


def require_transformers() -> None:
    """Raise where no published network can run.

    Raises:
        UsageError: says which command installs what is missing.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "SAM, MedSAM, SAM 2, MedSAM2 and SAM 3 need the package transformers; install it with:"
            " pip install 'medseg[prompting]'"
        ) from error


def open_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The named tensors of a pickle, wherever training has put them.

    Raises:
        ModelError: it cannot be read, is damaged, asks for code to be run, or holds something else.
    """
    return _unpickled(path, mapped=False)


def tensor_names(path: Path) -> frozenset[str]:
    """The names in a pickled state dict; where its form allows that, without reading the tensors.

    Raises:
        ModelError: as :func:`open_state_dict`.
    """
    return frozenset(_unpickled(path, mapped=True))


def model_type(folder: Path) -> str | None:
    """What a Hugging Face folder says that it is, or None where it says nothing.

    Raises:
        ModelError: its configuration cannot be read.
    """
    if not (folder / CONFIG_FILE).is_file():
        return None
    try:
        config = documents.read_json(folder / CONFIG_FILE)
    except DocumentError as error:
        raise ModelError(str(error)) from error
    return str(config.get("model_type")) if isinstance(config, dict) else None


def open_folder(folder: Path, kinds: tuple[str, ...], what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a Hugging Face folder.

    Args:
        kinds: the values of ``model_type`` that will do.
        what: the network in words, for errors.

    Raises:
        ModelError: files are missing or damaged, or it is another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / CONFIG_FILE).is_file() or not (folder / SAFETENSORS_FILE).is_file():
        raise ModelError(
            f"{folder}: no {CONFIG_FILE} with {SAFETENSORS_FILE} here; expected a Hugging Face folder of {what}, or a"
            " folder from medseg train --promptable"
        )
    kind = model_type(folder)
    if kind not in kinds:
        expected = " or ".join(kinds)
        raise ModelError(
            f"{folder}: another architecture: expected model_type {expected} in {CONFIG_FILE}, found {kind!r}"
        )
    try:
        tensors = load_file(folder / SAFETENSORS_FILE)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}: not read as {what} ({str(error).splitlines()[0]}); copy it again") from error
    first, second = POINTS_ENCODING
    if first in tensors:
        tensors.setdefault(second, tensors[first].clone())
    return documents.read_json(folder / CONFIG_FILE), tensors


def described(model: Any, config: Mapping[str, Any], folder: Path, what: str) -> Any:
    """An untrained network of a class of ``transformers``, as a folder's configuration describes it.

    Raises:
        ModelError: it describes none.
    """
    try:
        parsed = model.config_class.from_dict(dict(config))
        parsed._attn_implementation = "sdpa"  # a configuration may name a kernel that would be downloaded
        return model(parsed)
    except Exception as error:  # values of any kind may fail anywhere in the construction
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder}: {CONFIG_FILE} does not describe {what} ({line}); copy it again") from error


def fitted(network: Any, tensors: Mapping[str, Tensor], where: str, what: str) -> Any:
    """The network with these weights, in evaluation mode; parameters do not ask for gradients.

    Raises:
        ModelError: names the first tensor that is missing, has no place, or is of another shape.
    """
    own = network.state_dict()
    for name in (*own, *tensors):
        if name not in tensors:
            raise ModelError(f"{where}: not {what}'s architecture: {name} is missing")
        if name not in own:
            raise ModelError(f"{where}: not {what}'s architecture: {name} has no place in it")
        if own[name].shape != tensors[name].shape:
            expected, found = tuple(own[name].shape), tuple(tensors[name].shape)
            raise ModelError(f"{where}: not {what}'s architecture: {name} expected {expected}, found {found}")
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    return network.eval().requires_grad_(False)


def digest_of(path: Path) -> str:
    """SHA-256 of a checkpoint's weights, a file or those in a folder."""
    with open(path / SAFETENSORS_FILE if path.is_dir() else path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpickled(path: Path, mapped: bool) -> Mapping[str, Tensor]:
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped and not mapped:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # PyTorch would not notice a changed byte
                    raise zipfile.BadZipFile("checksum")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped and mapped)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}); expected a checkpoint") from error
    except Exception as error:  # damaged bytes may fail anywhere in the unpickler, and in any way
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = "it is damaged or no PyTorch file; copy it again"
        if refused:
            reason = f"it asks to run {refused[1]}, which no checkpoint needs; use a file from a source you trust"
        raise ModelError(f"{path}: not read as a checkpoint: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]  # as SAM 2 is published, and as MedSAM's training keeps it beside the optimiser
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: not read as a checkpoint: expected named tensors, found something else")
    return content
