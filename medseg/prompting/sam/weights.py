"""SAM's and MedSAM's weights, from their original form or a Hugging Face folder, as ``transformers``' SamModel.

The size of the network follows from the tensors' shapes (SAM: Kirillov et al., Segment Anything, 2023; MedSAM: Ma et
al., Nature Communications 2024).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.errors import ModelError
from medseg.prompting.checkpoints import (
    POINTS_ENCODING,
    described,
    digest_of,
    fitted,
    open_folder,
    open_state_dict,
    require_transformers,
)

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
    network = _from_folder(path) if path.is_dir() else from_original(open_state_dict(path), str(path))
    return network, digest_of(path)


def from_original(tensors: Mapping[str, Tensor], where: str) -> Any:
    """A SamModel with the weights of a state dict under SAM's original names.

    Raises:
        ModelError: another architecture; names the first tensor that does not fit.
    """
    from transformers import SamModel

    if any(name.startswith("image_encoder.trunk.") for name in tensors):
        raise ModelError(
            f"{where}: this is SAM 2, where SAM is expected; medseg prompt takes it with --engine sam2 or medsam2,"
            " medseg finetune-sam does not"
        )
    if "image_encoder.patch_embed.proj.weight" not in tensors or _SHARED not in tensors:
        found = next(iter(tensors), "nothing")
        raise ModelError(
            f"{where}: not SAM's architecture: image_encoder.patch_embed.proj.weight is missing (its first tensor is"
            f" {found}); expected medsam_vit_b.pth or sam_vit_b/l/h in their original form"
        )
    renamed = {renamed_tensor(name): value for name, value in tensors.items() if name != _SHARED}
    renamed |= dict.fromkeys(POINTS_ENCODING, tensors[_SHARED])
    try:
        config = _config(tensors)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ModelError(f"{where}: not SAM's architecture: its tensor {error} is missing or malformed") from error
    with torch.device("meta"):
        network = SamModel(config)
    return fitted(network, renamed, where, "SAM")


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


def _from_folder(folder: Path) -> Any:
    from transformers import SamModel

    config, tensors = open_folder(folder, ("sam",), "SAM")
    return fitted(described(SamModel, config, folder, "SAM"), tensors, str(folder), "SAM")
