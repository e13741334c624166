"""Runs PyPI's sam3 in an environment of its own: a small network with random weights, and its answers to a text, a box
beside it, and boxes, points and a mask without text.

    PYTHONPATH=SAM3_SOURCES python tests/peer_sam3.py FILE.npz

Kernels for GPUs that sam3 imports, and does not need here, have empty modules in their place.
"""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

for missing, names in {
    "sam3.model.edt": ("edt_triton",),
    "sam3.perflib.nms": ("nms_masks",),
    "sam3.perflib.connected_components": ("connected_components",),
}.items():
    sys.modules[missing] = types.ModuleType(missing)
    for name in names:
        setattr(sys.modules[missing], name, mock.MagicMock())

warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from sam3 import model_builder as parts  # noqa: E402
from sam3.model.data_misc import FindStage  # noqa: E402
from sam3_examples import (  # noqa: E402
    BEGUN,
    BOX,
    CHANNELS,
    POINTS,
    SIZE,
    TOKENS,
    WORDS,
    random_tensors,
    square_values,
    vocabulary,
)

WIDE, MEMORY = 48, 64
torch.Tensor.pin_memory = lambda self: self  # type: ignore[method-assign]


def attention(first: bool) -> Any:
    return parts.MultiheadAttention(num_heads=2, dropout=0.0, embed_dim=CHANNELS, batch_first=first)


def layer(kind: Any, first: bool, **options: Any) -> Any:
    """A layer of a transformer, as ``sam3.model_builder`` makes it but for its sizes."""
    options |= {"cross_attention": attention(first)}
    return kind(activation="relu", d_model=CHANNELS, dim_feedforward=WIDE, dropout=0.0, **options)


def encoding(channels: int) -> Any:
    return parts.PositionEmbeddingSine(num_pos_feats=channels, normalize=True, scale=None, temperature=10000)


def build_detector() -> Any:
    trunk = parts.ViT(
        img_size=SIZE,
        pretrain_img_size=28,
        patch_size=14,
        embed_dim=CHANNELS,
        depth=2,
        num_heads=2,
        mlp_ratio=WIDE / CHANNELS,
        use_abs_pos=True,
        tile_abs_pos=True,
        global_att_blocks=(1,),
        rel_pos_blocks=(),
        use_rope=True,
        use_interp_rope=True,
        window_size=2,
        retain_cls_token=False,
        ln_pre=True,
        bias_patch_embed=False,
    )
    neck = parts.Sam3DualViTDetNeck(
        position_encoding=encoding(CHANNELS),
        d_model=CHANNELS,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        trunk=trunk,
        add_sam2_neck=True,
    )
    text = parts.VETextEncoder(
        CHANNELS, lambda *_, **__: torch.tensor([TOKENS]), CHANNELS, 2, 1, len(TOKENS), len(vocabulary())
    )
    encoder = parts.TransformerEncoderFusion(
        layer=layer(
            parts.TransformerEncoderLayer,
            True,
            self_attention=attention(True),
            pos_enc_at_attn=True,
            pos_enc_at_cross_attn_keys=False,
            pos_enc_at_cross_attn_queries=False,
            pre_norm=True,
        ),
        num_layers=1,
        d_model=CHANNELS,
        num_feature_levels=1,
        frozen=False,
        use_act_checkpoint=True,
        add_pooled_text_to_img_feat=False,
        pool_text_with_mask=True,
    )
    decoder = parts.TransformerDecoder(
        layer=layer(parts.TransformerDecoderLayer, False, n_heads=2, use_text_cross_attention=True),
        num_layers=1,
        num_queries=6,
        return_intermediate=True,
        box_refine=True,
        dac=True,
        boxRPB="log",
        d_model=CHANNELS,
        frozen=False,
        interaction_layer=None,
        use_act_checkpoint=True,
        presence_token=True,
    )
    geometry = parts.SequenceGeometryEncoder(
        pos_enc=encoding(CHANNELS),
        encode_boxes_as_points=False,
        points_direct_project=True,
        points_pool=True,
        points_pos_enc=True,
        boxes_direct_project=True,
        boxes_pool=True,
        boxes_pos_enc=True,
        d_model=CHANNELS,
        num_layers=1,
        layer=layer(
            parts.TransformerEncoderLayer,
            False,
            self_attention=attention(False),
            pos_enc_at_attn=False,
            pos_enc_at_cross_attn_queries=False,
            pos_enc_at_cross_attn_keys=True,
            pre_norm=True,
        ),
        roi_size=2,
        use_act_ckpt=True,
    )
    head = parts.UniversalSegmentationHead(
        hidden_dim=CHANNELS,
        upsampling_stages=3,
        aux_masks=False,
        presence_head=False,
        dot_product_scorer=None,
        act_ckpt=True,
        cross_attend_prompt=parts.MultiheadAttention(num_heads=2, dropout=0, embed_dim=CHANNELS),
        pixel_decoder=parts.PixelDecoder(
            num_upsampling_stages=3, interpolation_mode="nearest", hidden_dim=CHANNELS, compile_mode=None
        ),
    )
    scoring = parts.DotProductScoring(
        d_model=CHANNELS,
        d_proj=CHANNELS,
        prompt_mlp=parts.MLP(
            CHANNELS, WIDE, CHANNELS, 2, dropout=0.0, residual=True, out_norm=torch.nn.LayerNorm(CHANNELS)
        ),
    )
    backbone = parts.SAM3VLBackbone(visual=neck, text=text, scalp=1)
    transformer = parts.TransformerWrapper(encoder=encoder, decoder=decoder, d_model=CHANNELS)
    return parts._create_sam3_model(backbone, transformer, geometry, head, scoring, None, True)


def build_tracker() -> Any:
    def roped(keys: int | None = None) -> Any:
        return parts.RoPEAttention(
            embedding_dim=CHANNELS,
            num_heads=1,
            downsample_rate=1,
            dropout=0.0,
            kv_in_dim=keys,
            rope_theta=10000.0,
            feat_sizes=[4, 4],
            rope_k_repeat=keys is not None,
            use_fa3=False,
            use_rope_real=False,
        )

    memory = parts.TransformerEncoderCrossAttention(
        remove_cross_attention_layers=[],
        batch_first=True,
        d_model=CHANNELS,
        frozen=False,
        pos_enc_at_input=True,
        num_layers=1,
        layer=parts.TransformerDecoderLayerv2(
            cross_attention_first=False,
            activation="relu",
            dim_feedforward=WIDE,
            dropout=0.0,
            pos_enc_at_attn=False,
            pre_norm=True,
            self_attention=roped(),
            d_model=CHANNELS,
            pos_enc_at_cross_attn_keys=True,
            pos_enc_at_cross_attn_queries=False,
            cross_attention=roped(MEMORY),
        ),
    )
    block = parts.CXBlock(dim=CHANNELS, kernel_size=7, padding=3, layer_scale_init_value=1.0e-06, use_dwconv=True)
    remembered = parts.SimpleMaskEncoder(
        in_dim=CHANNELS,
        out_dim=MEMORY,
        position_encoding=encoding(MEMORY),
        mask_downsampler=parts.SimpleMaskDownSampler(
            embed_dim=CHANNELS, kernel_size=3, stride=2, padding=1, interpol_size=[64, 64]
        ),
        fuser=parts.SimpleFuser(layer=block, num_layers=1),
    )
    extra = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    return parts.Sam3TrackerPredictor(
        image_size=SIZE,
        num_maskmem=7,
        backbone=None,
        backbone_stride=14,
        transformer=parts.TransformerWrapper(encoder=memory, decoder=None, d_model=CHANNELS),
        maskmem_backbone=remembered,
        multimask_output_in_sam=True,
        sam_mask_decoder_extra_args=extra,
    )


@torch.no_grad()
def of_detector(detector: Any, box: tuple[float, ...] | None) -> dict[str, np.ndarray]:
    """What ``Sam3Processor`` asks for: scores and logits of the masks."""
    seen = detector.backbone.forward_image(torch.from_numpy(square_values()))
    seen.update(detector.backbone.forward_text([WORDS], device="cpu"))
    prompt = detector._get_dummy_prompt()
    if box is not None:
        x0, y0, x1, y1 = (value / SIZE for value in box)
        middle = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
        prompt.append_boxes(middle.view(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
    zero = torch.tensor([0])
    none: dict[str, Any] = dict.fromkeys(
        ("input_boxes", "input_boxes_mask", "input_boxes_label", "input_points", "input_points_mask")
    )
    out = detector.forward_grounding(
        backbone_out=seen,
        find_input=FindStage(img_ids=zero, text_ids=zero, **none),
        geometric_prompt=prompt,
        find_target=None,
    )
    scores = out["pred_logits"].sigmoid()[..., 0] * out["presence_logit_dec"].sigmoid()
    return {"scores": scores[0].numpy(), "masks": out["pred_masks"][0].numpy()}


@torch.no_grad()
def of_tracker(detector: Any, tracker: Any, box: bool = False, points: bool = False, mask: bool = False) -> np.ndarray:
    """What ``SAM3InteractiveImagePredictor`` asks for: logits of one mask."""
    tracker.backbone = detector.backbone
    seen = tracker.forward_image(torch.from_numpy(square_values()))
    tracker.backbone = None
    maps = tracker._prepare_backbone_features(seen)[1]
    maps[-1] = maps[-1] + tracker.no_mem_embed
    maps = [values.permute(1, 2, 0).view(1, -1, side, side) for values, side in zip(maps, (16, 8, 4), strict=True)]
    at, labels = [], []
    if box:
        at, labels = [[BOX[0], BOX[1]], [BOX[2], BOX[3]]], [2, 3]
    if points:
        at, labels = at + [[x, y] for x, y, _ in POINTS], labels + [inside for *_, inside in POINTS]
    given = torch.from_numpy(np.where(BEGUN, 10.0, -10.0).astype(np.float32))[None, None] if mask else None
    sparse, dense = tracker.sam_prompt_encoder(
        points=(torch.tensor([at]), torch.tensor([labels], dtype=torch.int32)), boxes=None, masks=given
    )
    logits = tracker.sam_mask_decoder(
        image_embeddings=maps[-1],
        image_pe=tracker.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        repeat_image=False,
        high_res_features=maps[:-1],
    )[0]
    return logits[0, 0].numpy()


def main(path: Path) -> None:
    detector, tracker = build_detector().eval(), build_tracker().eval()
    networks = {"detector.": detector, "tracker.": tracker}
    drawn_of = {
        prefix + name: tuple(value.shape)
        for prefix, network in networks.items()
        for name, value in network.state_dict().items()
        if not name.endswith("freqs_cis")
    }
    drawn = random_tensors(drawn_of)
    for prefix, network in networks.items():
        own = {
            name.removeprefix(prefix): torch.from_numpy(value)
            for name, value in drawn.items()
            if name.startswith(prefix)
        }
        network.load_state_dict(network.state_dict() | own)
    answers = {
        "box": of_tracker(detector, tracker, box=True),
        "points": of_tracker(detector, tracker, points=True),
        "both": of_tracker(detector, tracker, box=True, points=True),
        "mask": of_tracker(detector, tracker, points=True, mask=True),
    }
    for given, box in (("text", None), ("example", BOX)):
        answers |= {f"{given}_{part}": value for part, value in of_detector(detector, box).items()}
    shapes = np.full((len(drawn_of), 4), -1, np.int32)
    for row, shape in zip(shapes, drawn_of.values(), strict=True):
        row[: len(shape)] = shape
    np.savez_compressed(path, names=np.array(list(drawn_of)), shapes=shapes, **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
