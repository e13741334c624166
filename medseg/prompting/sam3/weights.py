"""SAM 3's weights and tokenizer, original or from a Hugging Face folder.

SAM 3: Segment Anything with Concepts, Carion et al., 2025. Meta publishes one network for videos (``model_type``
sam3_video): a detector that finds concepts, a tracker that takes points and boxes as SAM 2 does, and one image encoder
for both. A folder of ``sam3`` holds the detector alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medseg.errors import ModelError
from medseg.prompting.checkpoints import (
    described,
    digest_of,
    fitted,
    model_type,
    open_folder,
    open_state_dict,
    require_transformers,
    tensor_names,
)
from medseg.prompting.sam3.original import DETECTOR, renamed

WHAT = "SAM 3"
KINDS = ("sam3", "sam3_video")
_TOKENIZER_FILE = "tokenizer.json"  # or, in an older form, both of these
_VOCABULARY_FILES = ("vocab.json", "merges.txt")
# transformers 5 puts the tracker's own name twice before its tensors when it saves the whole.
_TWICE, _ONCE = "tracker_model.tracker_model.", "tracker_model."


@dataclass(frozen=True, eq=False)
class Sam3:
    """Networks of ``transformers`` in evaluation mode, and what reads words for them.

    Attributes:
        detector: a Sam3Model.
        whole: the Sam3VideoModel that the detector is part of, where the checkpoint has a tracker.
        tokenizer: a CLIPTokenizer.
        digest: of the weights.
    """

    detector: Any
    whole: Any | None
    tokenizer: Any
    digest: str


def is_sam3(path: Path) -> bool:
    """Whether a checkpoint, original or folder, holds SAM 3 as far as its names tell.

    Raises:
        ModelError: it cannot be read.
    """
    if path.is_dir():
        return model_type(path) in KINDS
    return any(name.startswith(DETECTOR) for name in tensor_names(path))


def load_sam3(path: Path) -> Sam3:
    """SAM 3 on the CPU.

    Args:
        path: a Hugging Face folder with configuration, weights and tokenizer; or a checkpoint in the original form
            with the tokenizer's files beside it.

    Raises:
        ModelError: missing, damaged, of another architecture, or it asks for code to be run.
        UsageError: the package ``transformers`` is missing.
    """
    require_transformers()
    if path.is_dir():
        config, tensors = open_folder(path, KINDS, WHAT)
        tokenizer = _tokenizer(path)
        network = from_folder(config, tensors, path)
    else:
        tokenizer = _tokenizer(path.parent)
        network = from_original(open_state_dict(path), str(path))
    whole = network if hasattr(network, "detector_model") else None
    detector = network.detector_model if whole else network
    if not isinstance(detector.config.image_size, int):
        raise ModelError(f"{path}: expected an image_size for both sides, found {detector.config.image_size}")
    known = detector.config.text_config.vocab_size
    if len(tokenizer) > known:
        raise ModelError(
            f"{path}: the weights know {known} tokens, the tokenizer {len(tokenizer)}; copy the tokenizer's files again"
        )
    return Sam3(detector, whole, tokenizer, digest_of(path))


def from_folder(config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> Any:
    """A Sam3VideoModel, or a Sam3Model of a folder that holds the detector alone.

    Raises:
        ModelError: the configuration describes no such network, or names the first tensor that does not fit.
    """
    from transformers import Sam3Model, Sam3VideoModel
    from transformers.initialization import no_init_weights

    with no_init_weights():
        network = described(Sam3Model if config["model_type"] == "sam3" else Sam3VideoModel, config, folder, WHAT)
    named = {name.replace(_TWICE, _ONCE): value for name, value in tensors.items()}
    return fitted(network, named, str(folder), WHAT)


def from_original(tensors: Mapping[str, Tensor], where: str, config: Any = None) -> Any:
    """A Sam3VideoModel with the weights of a state dict under SAM 3's original names.

    Args:
        config: its Sam3VideoConfig; by default that of the only size that Meta has published.

    Raises:
        ModelError: another architecture; names the first tensor that does not fit.
    """
    from transformers import Sam3VideoConfig, Sam3VideoModel
    from transformers.initialization import no_init_weights

    if not any(name.startswith(DETECTOR) for name in tensors):
        raise ModelError(
            f"{where}: not {WHAT}'s architecture: no tensor of its {DETECTOR[:-1]} (the first is"
            f" {next(iter(tensors), 'nothing')}); expected sam3.pt or its Hugging Face folder"
        )
    with no_init_weights():
        network = Sam3VideoModel(config or Sam3VideoConfig())
    return fitted(network, renamed(tensors), where, WHAT)


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    missing = [name for name in _VOCABULARY_FILES if not (folder / name).is_file()]
    if not (folder / _TOKENIZER_FILE).is_file() and missing:
        raise ModelError(f"{folder}: no {_TOKENIZER_FILE} here, and no {missing[0]}; SAM 3 reads text with it")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files may fail anywhere in the parser, and in any way
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder}: its tokenizer cannot be read ({line}); copy {_TOKENIZER_FILE} again") from error
