"""SAM's and MedSAM's weights, from their original form or a Hugging Face folder, as ``transformers``' SamModel.

The original form is a pickled state dict. It is opened with ``torch.load(weights_only=True)``, which builds tensors and
plain values only; the size of the network follows from the tensors' shapes (SAM: Kirillov et al., Segment Anything,
2023; MedSAM: Ma et al., Nature Communications 2024).
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
_SHARED = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_WINDOW = 14  # of the image encoder's local attention, where no tensor tells it
# Original name -> name in transformers; the first pattern that fits.
_MLP_LAYERS = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}
_RENAMED = (
    (r"image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"image_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"image_encoder\.", "vision_encoder."),
    (r"prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"mask_decoder\.transformer\.layers\.(\d+)\.norm([1234])\.", r"mask_decoder.transformer.layers.\1.layer_norm\2."),
    (r"mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
)
_MLP = re.compile(r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.([012])\.")


def load_sam(path: Path) -> tuple[Any, str]:
    """SAM in evaluation mode on the CPU, and a digest of its weights.

    Args:
        path: a checkpoint in the original form, or a Hugging Face folder.

    Raises:
        ModelError: missing, damaged, of another architecture, or it asks for code to be run.
        UsageError: the package ``transformers`` is missing.
    """
    require_transformers()
    if path.is_dir():
        return _from_folder(path), _digest(path / SAFETENSORS_FILE)
    return from_original(_open_original(path), str(path)), _digest(path)


def require_transformers() -> None:
    """Raise where SAM cannot run.

    Raises:
        UsageError: says which command installs what is missing.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "SAM and MedSAM need the package transformers; install it with: pip install 'medseg[prompting]'"
        ) from error


def from_original(tensors: Mapping[str, Tensor], where: str) -> Any:
    """A SamModel with the weights of a state dict under SAM's original names.

    Raises:
        ModelError: another architecture; names the first tensor that does not fit.
    """
    from transformers import SamModel

    if "image_encoder.patch_embed.proj.weight" not in tensors or _SHARED not in tensors:
        found = next(iter(tensors), "nothing")
        raise ModelError(
            f"{where}: not SAM's architecture: image_encoder.patch_embed.proj.weight is missing (its first tensor is"
            f" {found}); expected medsam_vit_b.pth or sam_vit_b/l/h in their original form"
        )
    renamed = {renamed_tensor(name): value for name, value in tensors.items() if name != _SHARED}
    renamed["shared_image_embedding.positional_embedding"] = tensors[_SHARED]
    renamed["prompt_encoder.shared_embedding.positional_embedding"] = tensors[_SHARED]
    try:
        config = _config(tensors)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ModelError(f"{where}: not SAM's architecture: its tensor {error} is missing or malformed") from error
    with torch.device("meta"):
        network = SamModel(config)
    own = network.state_dict()
    for name in (*own, *renamed):
        if name not in renamed:
            raise ModelError(f"{where}: not SAM's architecture: {name} is missing")
        if name not in own:
            raise ModelError(f"{where}: not SAM's architecture: {name} has no place in it")
        if own[name].shape != renamed[name].shape:
            expected, found = tuple(own[name].shape), tuple(renamed[name].shape)
            raise ModelError(f"{where}: not SAM's architecture: {name} expected {expected}, found {found}")
    network.load_state_dict({name: value.float() for name, value in renamed.items()}, assign=True)
    return network.eval().requires_grad_(False)


def renamed_tensor(name: str) -> str:
    """A tensor's name in ``transformers`` from its name in the original form."""
    mlp = _MLP.match(name)
    if mlp:
        return f"{mlp[1]}.{_MLP_LAYERS[mlp[2]]}.{name[mlp.end() :]}"
    for pattern, replacement in _RENAMED:
        changed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return changed
    return name


def _config(tensors: Mapping[str, Tensor]) -> Any:
    """What the shapes say about the network."""
    from transformers import SamConfig

    blocks = 1 + max(int(m[1]) for m in (re.match(r"image_encoder\.blocks\.(\d+)\.", name) for name in tensors) if m)
    projection = tensors["image_encoder.patch_embed.proj.weight"]
    grid, hidden = tensors["image_encoder.pos_embed"].shape[1], projection.shape[0]
    head = tensors["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]
    reach = [(tensors[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape[0] + 1) // 2 for i in range(blocks)]
    local = [size for size in reach if size != grid]
    patch = projection.shape[-1]
    channels = tensors["image_encoder.neck.0.weight"].shape[0]
    decoder = tensors["mask_decoder.transformer.layers.0.mlp.lin1.weight"]
    return SamConfig(
        vision_config={
            "hidden_size": hidden,
            "output_channels": channels,
            "num_hidden_layers": blocks,
            "num_attention_heads": hidden // head,
            "image_size": grid * patch,
            "patch_size": patch,
            "window_size": local[0] if local else _WINDOW,
            "global_attn_indexes": [i for i, size in enumerate(reach) if size == grid],
            "num_pos_feats": tensors[_SHARED].shape[1],
            "mlp_dim": tensors["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        },
        prompt_encoder_config={"hidden_size": channels, "image_size": grid * patch, "patch_size": patch},
        mask_decoder_config={
            "hidden_size": decoder.shape[1],
            "mlp_dim": decoder.shape[0],
            # The original's normalisations have PyTorch's own constant here, and 1e-6 in the image encoder.
            "layer_norm_eps": 1e-5,
        },
    )


def _open_original(path: Path) -> Mapping[str, Tensor]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # PyTorch would not notice a changed byte
                    raise zipfile.BadZipFile("checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}); expected a checkpoint of SAM") from error
    except Exception as error:  # damaged bytes may fail anywhere in the unpickler, and in any way
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = "it is damaged or no PyTorch file; copy it again"
        if refused:
            reason = f"it asks to run {refused[1]}, which no SAM checkpoint needs; use a file from a source you trust"
        raise ModelError(f"{path}: not read as a checkpoint of SAM: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]  # MedSAM's training keeps the optimiser beside it
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: not SAM's architecture: expected named tensors, found something else")
    return content


def _from_folder(folder: Path) -> Any:
    from safetensors import SafetensorError
    from transformers import SamModel

    if not (folder / CONFIG_FILE).is_file() or not (folder / SAFETENSORS_FILE).is_file():
        raise ModelError(
            f"{folder}: no {CONFIG_FILE} with {SAFETENSORS_FILE} here; expected a Hugging Face folder of SAM, or a"
            " folder from medseg train --promptable"
        )
    try:
        config = documents.read_json(folder / CONFIG_FILE)
    except DocumentError as error:
        raise ModelError(str(error)) from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "sam":
        raise ModelError(f"{folder}: another architecture: expected model_type sam in {CONFIG_FILE}, found {kind!r}")
    try:
        loaded: Any = SamModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        network, report = loaded
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{folder}: not read as SAM ({line}); copy it again") from error
    missing = sorted(set(report["missing_keys"]) - {"prompt_encoder.shared_embedding.positional_embedding"})
    if missing:
        raise ModelError(f"{folder}: not SAM's architecture: {missing[0]} is missing")
    return network.eval().requires_grad_(False)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
