"""Runs PyPI's segment-anything in an environment of its own: a network with the random weights of ``sam_examples``, its
checkpoint in the original form, and the logits that it gives for a box, points, and both.

    python tests/peer_sam.py small|vit_b FOLDER

segment_anything imports torchvision for resizing, which this does not need; an empty module stands in for it.
"""

from __future__ import annotations

import sys
import types
from functools import partial
from pathlib import Path

for missing in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[missing] = types.ModuleType(missing)
sys.modules["torchvision.transforms.functional"].resize = None
sys.modules["torchvision.transforms.functional"].to_pil_image = None
sys.modules["torchvision.ops"] = types.ModuleType("torchvision.ops")
sys.modules["torchvision.ops.boxes"] = types.ModuleType("torchvision.ops.boxes")
sys.modules["torchvision.ops.boxes"].batched_nms = None
sys.modules["torchvision.ops.boxes"].box_area = None

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sam_examples import BOX, POINTS, picture_values, random_tensors  # noqa: E402
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer  # noqa: E402

SIZES = {
    "small": {"dim": 32, "depth": 3, "heads": 2, "size": 256, "window": 6, "global_": (2,)},
    "vit_b": {"dim": 768, "depth": 12, "heads": 12, "size": 1024, "window": 14, "global_": (2, 5, 8, 11)},
}


def build(dim: int, depth: int, heads: int, size: int, window: int, global_: tuple[int, ...]) -> Sam:
    grid = size // 16
    sam = Sam(
        image_encoder=ImageEncoderViT(
            depth=depth,
            embed_dim=dim,
            img_size=size,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=heads,
            patch_size=16,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=global_,
            window_size=window,
            out_chans=256,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=256, image_embedding_size=(grid, grid), input_image_size=(size, size), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    tensors = random_tensors({name: tuple(value.shape) for name, value in sam.state_dict().items()})
    sam.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return sam.eval()


@torch.no_grad()
def main(kind: str, folder: Path) -> None:
    sam = build(**SIZES[kind])
    size = SIZES[kind]["size"]
    torch.save(sam.state_dict(), folder / f"{kind}.pth")
    embedding = sam.image_encoder(torch.from_numpy(picture_values(size)))
    answers = {}
    points = torch.tensor([[[x, y] for x, y, _ in POINTS]])
    labels = torch.tensor([[inside for *_, inside in POINTS]])
    for name, given in {
        "box": {"points": None, "boxes": torch.tensor([BOX])},
        "points": {"points": (points, labels), "boxes": None},
        "both": {"points": (points, labels), "boxes": torch.tensor([BOX])},
    }.items():
        sparse, dense = sam.prompt_encoder(masks=None, **given)
        answers[name], _ = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    state = sam.state_dict()
    np.savez_compressed(
        folder / f"sam_{kind}_logits.npz",
        names=np.array(list(state)),
        shapes=np.array([[*value.shape, *(-1,) * (4 - value.ndim)] for value in state.values()]),
        **{name: value.numpy() for name, value in answers.items()},
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
