"""A small SAM 3 with random weights as the Hugging Face folder that Meta publishes; its tokenizer knows few words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

PEER_ANSWERS = Path(__file__).with_name("sam3_small_answers.npz")
SIZE = 56  # of the network's square: 4 x 4 patches
# What the original and its port are asked, in pixels of the square: x0, y0, x1, y1; x, y, inside; a mask to correct.
BOX = (14.0, 7.0, 42.0, 35.0)
POINTS = ((20.0, 16.0, 1), (50.0, 45.0, 0))
BEGUN = np.pad(np.ones((6, 7), bool), ((2, 8), (4, 5)))
WORDS, TOKENS = "live", (56, 11, 8, 21, 30, 57, 0, 0, 0, 0, 0, 0)
MERGES = ("l i", "li v", "liv e", "live r</w>")
CHANNELS = 32
_PART = {"hidden_size": CHANNELS, "num_attention_heads": 2}
_DEEP = {**_PART, "intermediate_size": 48, "num_layers": 1}
_VISION = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": CHANNELS,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    },
    "fpn_hidden_size": CHANNELS,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}
# Added to random values, so that there are scores on both sides of one half.
_MORE = {"presence_head.layer3.bias": 5.0, "scoring.text_proj.bias": 1.0}


def vocabulary() -> list[str]:
    """Letters, the parts of "liver", and the ends of a text."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merged = [merge.replace(" ", "") for merge in MERGES]
    return [*letters, *(f"{letter}</w>" for letter in letters), *merged, "<|startoftext|>", "<|endoftext|>"]


def detector_configuration() -> dict[str, Any]:
    """``config.json`` of the part that finds concepts."""
    return {
        "model_type": "sam3",
        "vision_config": _VISION,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": len(vocabulary()),
            "bos_token_id": len(vocabulary()) - 2,
            "eos_token_id": len(vocabulary()) - 1,
            "pad_token_id": len(vocabulary()) - 1,
            "hidden_size": CHANNELS,
            "intermediate_size": 4 * CHANNELS,
            "projection_dim": 512,
            "num_hidden_layers": 1,
            "hidden_act": "gelu",
            "num_attention_heads": 2,
            "max_position_embeddings": 12,
        },
        "geometry_encoder_config": {**_DEEP, "roi_size": 2},
        "detr_encoder_config": _DEEP,
        "detr_decoder_config": {**_DEEP, "num_queries": 6},
        "mask_decoder_config": _PART,
    }


def configuration() -> dict[str, Any]:
    """``config.json`` of the whole."""
    return {
        "model_type": "sam3_video",
        "detector_config": detector_configuration(),
        "tracker_config": {
            "model_type": "sam3_tracker_video",
            "image_size": SIZE,
            "vision_config": _VISION,
            "prompt_encoder_config": {"hidden_size": CHANNELS, "image_size": SIZE},
            "mask_decoder_config": {"hidden_size": CHANNELS},
            "memory_attention_hidden_size": CHANNELS,
            "memory_attention_num_layers": 1,
            "memory_attention_feed_forward_hidden_size": 48,
            "memory_encoder_hidden_size": CHANNELS,
            "memory_encoder_output_channels": 64,
            "mask_downsampler_embed_dim": CHANNELS,
            "memory_fuser_embed_dim": CHANNELS,
            "memory_fuser_intermediate_dim": 4 * CHANNELS,
            "memory_fuser_num_layers": 1,
        },
        "low_res_mask_size": 16,
    }


def square_values() -> np.ndarray:
    """(1, 3, SIZE, SIZE) float32 from -1 to 1."""
    return np.random.default_rng(7).uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)


def random_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Values for tensors of these names; norms stay near one."""
    tensors = {}
    for index, (name, shape) in enumerate(shapes.items()):
        drawn = np.random.default_rng(index).normal(0, 0.2, shape).astype(np.float32)
        is_norm = name.endswith("weight") and len(shape) == 1
        tensors[name] = drawn + 1 if is_norm else drawn
    return tensors


def peer_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the small network's tensors in sam3."""
    with np.load(PEER_ANSWERS) as stored:
        return {
            str(name): tuple(int(size) for size in shape if size >= 0)
            for name, shape in zip(stored["names"], stored["shapes"], strict=True)
        }


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Values for every tensor of a network, by NumPy; concepts are there, and some of their instances count."""
    drawn = random_tensors({name: tuple(value.shape) for name, value in network.state_dict().items()})
    tensors = {name: torch.from_numpy(value) for name, value in drawn.items()}
    for name in tensors:
        for ending, more in _MORE.items():
            if name.endswith(ending):
                tensors[name] += more
    return tensors


def write_tokenizer(folder: Path) -> None:
    """The tokenizer's files in their older form."""
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary())}))
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *MERGES, "")))


def write_folder(folder: Path, kind: str = "sam3_video") -> Path:
    """The folder of the whole, or of its detector (``sam3``)."""
    from transformers import Sam3Config, Sam3Model, Sam3VideoConfig, Sam3VideoModel

    content = configuration() if kind == "sam3_video" else detector_configuration()
    config = (Sam3VideoConfig if kind == "sam3_video" else Sam3Config).from_dict(content)
    with torch.device("meta"):
        network = (Sam3VideoModel if kind == "sam3_video" else Sam3Model)(config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(network), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(content))
    write_tokenizer(folder)
    return folder
