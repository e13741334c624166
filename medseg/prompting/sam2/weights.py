"""SAM 2's and MedSAM2's weights, original or from a Hugging Face folder, as ``transformers``' Sam2VideoModel.

The image encoder is one of four published sizes, which its width and depth tell; what SAM 2.1 added to SAM 2 is there
or is not (Ravi et al., SAM 2: Segment Anything in Images and Videos, 2024; MedSAM2: Ma et al., Segment Anything in 3D
Medical Images and Videos, 2025). The square that the network sees is no tensor's size: see ``engine.SIZES``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    model_type,
    open_folder,
    open_state_dict,
    require_transformers,
    tensor_names,
)

WHAT = "SAM 2"
KINDS = ("sam2_video", "sam2")  # values of model_type
_TRUNK = "image_encoder.trunk."
_PROJECTION, _BACKGROUND = f"{_TRUNK}patch_embed.proj.weight", f"{_TRUNK}pos_embed"
_POINTS = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_POINT_KINDS = tuple(f"sam_prompt_encoder.point_embeddings.{kind}.weight" for kind in range(4))
_CLOSEST_MEMORY = "memory_temporal_positional_encoding"  # which only a network for videos has
# From an original name to that in transformers: all that fit, one after the other.
_RENAMED = (
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^sam_mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^sam_mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.12\.", "memory_encoder.mask_downsampler.final_conv."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv([12])\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"\.norm(\d?)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.out_proj\.", ".o_proj."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^maskmem_tpos_enc$", _CLOSEST_MEMORY),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    # Perceptrons: two layers within blocks, three in heads.
    (r"(\.\d+\.mlp)\.layers\.0\.", r"\1.proj_in."),
    (r"(\.\d+\.mlp)\.layers\.1\.", r"\1.proj_out."),
    (r"((?:_head|_mlps\.\d+|^object_pointer_proj))\.layers\.0\.", r"\1.proj_in."),
    (r"((?:_head|_mlps\.\d+|^object_pointer_proj))\.layers\.1\.", r"\1.layers.0."),
    (r"((?:_head|_mlps\.\d+|^object_pointer_proj))\.layers\.2\.", r"\1.proj_out."),
)
_DOWNSAMPLER = re.compile(r"^memory_encoder\.mask_downsampler\.encoder\.(\d+)\.")


@dataclass(frozen=True)
class _Hiera:
    """What no tensor's shape tells of an image encoder."""

    blocks: tuple[int, int, int, int]
    global_blocks: tuple[int, int, int]
    heads: int
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)


# By the width of the first stage and the number of blocks: tiny, small, base_plus, large.
_PUBLISHED = {
    (96, 12): _Hiera((1, 2, 7, 2), (5, 7, 9), heads=1),
    (96, 16): _Hiera((1, 2, 11, 2), (7, 10, 13), heads=1),
    (112, 24): _Hiera((2, 3, 16, 3), (12, 16, 20), heads=2),
    (144, 48): _Hiera((2, 6, 36, 4), (23, 33, 43), heads=2, windows=(8, 4, 16, 8)),
}


def is_sam2(path: Path) -> bool:
    """Whether a checkpoint, original or folder, holds SAM 2 as far as its names tell.

    Raises:
        ModelError: it cannot be read.
    """
    if path.is_dir():
        return model_type(path) in KINDS
    return any(name.startswith(_TRUNK) for name in tensor_names(path))


def load_sam2(path: Path, size: int) -> tuple[Any, str]:
    """SAM 2 in evaluation mode on the CPU, and a digest of its weights.

    Args:
        path: a checkpoint in the original form, or a Hugging Face folder.
        size: of the square that the network sees, in pixels, a multiple of 32; a folder says its own.

    Raises:
        ModelError: missing, damaged, of another architecture, or it asks for code to be run.
        UsageError: the package ``transformers`` is missing.
    """
    require_transformers()
    network = _from_folder(path) if path.is_dir() else from_original(open_state_dict(path), str(path), size)
    return network, digest_of(path)


def from_original(tensors: Mapping[str, Tensor], where: str, size: int) -> Any:
    """A Sam2VideoModel with the weights of a state dict under SAM 2's original names.

    Raises:
        ModelError: another architecture; names the first tensor that does not fit.
    """
    from transformers import Sam2VideoModel

    if "image_encoder.patch_embed.proj.weight" in tensors:
        raise ModelError(f"{where}: this is SAM, where {WHAT} is expected; use --engine sam or medsam")
    config = _config(tensors, where, size)
    return fitted(Sam2VideoModel(config), renamed_tensors(tensors), where, WHAT)


def renamed_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the original form under their names in ``transformers``."""
    renamed = {renamed_tensor(name): value for name, value in tensors.items()}
    if _POINTS in tensors:
        del renamed[renamed_tensor(_POINTS)]
        renamed |= {name: tensors[_POINTS].clone() for name in POINTS_ENCODING}
    if all(name in tensors for name in _POINT_KINDS):
        for name in _POINT_KINDS:
            del renamed[renamed_tensor(name)]
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([tensors[name] for name in _POINT_KINDS])
    return renamed


def renamed_tensor(name: str) -> str:
    """A tensor's name in ``transformers`` from its name in the original form."""
    layer = _DOWNSAMPLER.match(name)
    if layer and int(layer[1]) < 12:  # convolution, normalisation, activation, four times
        part = ("conv", "layer_norm")[int(layer[1]) % 3]
        return f"memory_encoder.mask_downsampler.layers.{int(layer[1]) // 3}.{part}.{name[layer.end() :]}"
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _config(tensors: Mapping[str, Tensor], where: str, size: int) -> Any:
    """What the tensors say about the network."""
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VisionConfig

    for name in (_PROJECTION, _BACKGROUND):
        if name not in tensors or tensors[name].ndim != 4:
            raise ModelError(
                f"{where}: not {WHAT}'s architecture: {name} is missing or malformed (its first tensor is"
                f" {next(iter(tensors), 'nothing')}); expected sam2.1_hiera_tiny.pt, MedSAM2_latest.pt or their kin"
            )
    width = tensors[_PROJECTION].shape[0]
    depth = len({name.split(".")[3] for name in tensors if name.startswith(f"{_TRUNK}blocks.")})
    if (width, depth) not in _PUBLISHED:
        sizes = ", ".join(f"{blocks} of {channels}" for channels, blocks in _PUBLISHED)
        raise ModelError(
            f"{where}: not {WHAT}'s architecture: expected an image encoder with as many blocks of as many channels as"
            f" one of the published ({sizes}), found {depth} of {width}"
        )
    hiera = _PUBLISHED[width, depth]
    channels = [width << stage for stage in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=width,
        num_attention_heads=hiera.heads,
        image_size=[size, size],
        window_positional_embedding_background_size=list(tensors[_BACKGROUND].shape[-2:]),
        blocks_per_stage=list(hiera.blocks),
        embed_dim_per_stage=channels,
        num_attention_heads_per_stage=[hiera.heads << stage for stage in range(4)],
        window_size_per_stage=list(hiera.windows),
        global_attention_blocks=list(hiera.global_blocks),
    )
    return Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=channels[::-1],
            backbone_feature_sizes=[[size // stride] * 2 for stride in (4, 8, 16)],
        ),
        prompt_encoder_config={"image_size": size},
        image_size=size,
        memory_attention_rope_feat_sizes=[size // 16] * 2,
        enable_temporal_pos_encoding_for_object_pointers="obj_ptr_tpos_proj.weight" in tensors,
        enable_occlusion_spatial_embedding="no_obj_embed_spatial" in tensors,
    )


def _from_folder(folder: Path) -> Any:
    from transformers import Sam2VideoModel

    config, tensors = open_folder(folder, KINDS, WHAT)
    if _CLOSEST_MEMORY not in tensors:
        raise ModelError(
            f"{folder}: {WHAT} for single pictures, saved without its memory; save it as Sam2VideoModel, or use the"
            " original form (sam2.1_hiera_tiny.pt)"
        )
    return fitted(described(Sam2VideoModel, config, folder, WHAT), tensors, str(folder), WHAT)
