"""SAM 3's tensors in the form of Meta's own code (``sam3.pt``), under their names in ``transformers``.

What is left out are tables that follow from the sizes, and the detector's layers for points, which ``transformers``
has not. The tracker is SAM 2's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from medseg.prompting.sam2.weights import renamed_tensors as renamed_as_sam2

DETECTOR, TRACKER = "detector.", "tracker."
_LEFT_OUT = re.compile(r"\.freqs_cis$|geometry_encoder\.points_")
_BACKGROUND = "vision_encoder.backbone.embeddings.position_embeddings"
_PROJECTION = "text_encoder.text_projection.weight"
# Queries, keys and values in one tensor.
_JOINED = re.compile(r"(?:qkv\.|in_proj_)(weight|bias)$")
# From a name in the original to that in transformers: all that fit, one after the other.
_RENAMED = (
    (r"^backbone\.vision_backbone\.trunk\.pos_embed$", _BACKGROUND),
    (r"^backbone\.vision_backbone\.trunk\.patch_embed\.proj\.", "trunk.embeddings.patch_embeddings.projection."),
    (r"^backbone\.vision_backbone\.trunk\.ln_pre\.", "trunk.layer_norm."),
    (r"^backbone\.vision_backbone\.trunk\.blocks\.", "trunk.layers."),
    (r"^trunk\.", "vision_encoder.backbone."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"^backbone\.vision_backbone\.convs\.", "vision_encoder.neck.fpn_layers."),
    (r"^backbone\.vision_backbone\.sam2_convs\.", "tracker_neck.fpn_layers."),
    (r"\.dconv_2x2(?:_0)?\.", ".scale_layers.0."),
    (r"\.dconv_2x2_1\.", ".scale_layers.2."),
    (r"\.conv_1x1\.", ".proj1."),
    (r"\.conv_3x3\.", ".proj2."),
    (r"^backbone\.language_backbone\.resizer\.", "text_projection."),
    (r"^backbone\.language_backbone\.encoder\.text_projection$", _PROJECTION),
    (r"^backbone\.language_backbone\.encoder\.", "text_encoder.text_model."),
    (r"\.token_embedding\.", ".embeddings.token_embedding."),
    (r"\.positional_embedding$", ".embeddings.position_embedding.weight"),
    (r"\.ln_final\.", ".final_layer_norm."),
    (r"\.transformer\.resblocks\.(\d+)\.", r".encoder.layers.\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
    (r"^geometry_encoder\.img_pre_norm\.", "geometry_encoder.vision_layer_norm."),
    (r"^geometry_encoder\.norm\.", "geometry_encoder.prompt_layer_norm."),
    (r"^geometry_encoder\.encode_norm\.", "geometry_encoder.output_layer_norm."),
    (r"^geometry_encoder\.encode\.", "geometry_encoder.layers."),
    (r"^transformer\.encoder\.", "detr_encoder."),
    (r"^transformer\.decoder\.", "detr_decoder."),
    (r"^(detr_decoder\.layers\.\d+)\.cross_attn\.", r"\1.vision_cross_attn."),
    (r"^(detr_decoder\.layers\.\d+)\.ca_text\.", r"\1.text_cross_attn."),
    (r"^(detr_decoder\.layers\.\d+)\.norm1\.", r"\1.vision_cross_attn_layer_norm."),
    (r"^(detr_decoder\.layers\.\d+)\.catext_norm\.", r"\1.text_cross_attn_layer_norm."),
    (r"^(detr_decoder\.layers\.\d+)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"^(detr_decoder\.layers\.\d+)\.norm3\.", r"\1.mlp_layer_norm."),
    (r"^detr_decoder\.norm\.", "detr_decoder.output_layer_norm."),
    (r"^detr_decoder\.bbox_embed\.", "detr_decoder.box_head."),
    (r"^detr_decoder\.boxRPB_embed_", "detr_decoder.box_rpb_embed_"),
    (r"^detr_decoder\.presence_token_head\.", "detr_decoder.presence_head."),
    (r"^detr_decoder\.presence_token_out_norm\.", "detr_decoder.presence_layer_norm."),
    (r"^dot_prod_scoring\.prompt_mlp\.out_norm\.", "dot_product_scoring.text_mlp_out_norm."),
    (r"^dot_prod_scoring\.prompt_", "dot_product_scoring.text_"),
    (r"^dot_prod_scoring\.hs_proj\.", "dot_product_scoring.query_proj."),
    (r"^segmentation_head\.mask_predictor\.mask_embed\.", "mask_decoder.mask_embedder."),
    (r"^segmentation_head\.cross_attend_prompt\.", "mask_decoder.prompt_cross_attn."),
    (r"^segmentation_head\.cross_attn_norm\.", "mask_decoder.prompt_cross_attn_norm."),
    (r"^segmentation_head\.(semantic|instance)_seg_head\.", r"mask_decoder.\1_projection."),
    (r"^segmentation_head\.", "mask_decoder."),
    (r"\.cross_attn_image\.", ".cross_attn."),
    (r"\.norm([123])\.", r".layer_norm\1."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"((?:_head|_embed_[xy]|_mlp)\.layer)s\.0\.", r"\g<1>1."),
    (r"((?:_head|_embed_[xy]|_mlp)\.layer)s\.1\.", r"\g<1>2."),
    (r"((?:_head|_embed_[xy]|_mlp)\.layer)s\.2\.", r"\g<1>3."),
    (r"^((?!text_encoder).*)\.out_proj\.", r"\1.o_proj."),
)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of detector and tracker as a Sam3VideoModel names them."""
    found = {}
    for name, value in tensors.items():
        if name.startswith(DETECTOR) and not _LEFT_OUT.search(name):
            found |= _of_detector(name.removeprefix(DETECTOR), value)
    tracker = {_as_sam2(name): value for name, value in tensors.items() if name.startswith(TRACKER)}
    return found | {f"tracker_model.{name}": value for name, value in renamed_as_sam2(tracker).items()}


def _of_detector(name: str, value: Tensor) -> dict[str, Tensor]:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    if not name.startswith("tracker_neck."):
        name = f"detector_model.{name}"
    joined = _JOINED.search(name)
    if joined:
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{name[: joined.start()]}{part}_proj.{joined[1]}": of_part.clone() for part, of_part in parts}
    if name.endswith(_BACKGROUND):
        return {name: value[:, 1:].clone()}  # without that of a token for the whole picture, which SAM 3 has not
    if name.endswith(_PROJECTION):
        return {name: value.T.contiguous()}
    return {name: value}


def _as_sam2(name: str) -> str:
    """A tracker's tensor as SAM 2 calls it."""
    name = re.sub(r"^tracker\.transformer\.encoder\.", "memory_attention.", name)
    name = re.sub(r"^tracker\.maskmem_backbone\.", "memory_encoder.", name)
    name = re.sub(r"\.mlp\.lin1\.", ".mlp.layers.0.", name)
    return re.sub(r"\.mlp\.lin2\.", ".mlp.layers.1.", name).removeprefix(TRACKER)
