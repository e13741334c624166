"""Whether ``medseg finetune-sam`` learns: Dice of a small SAM before and after, and its course.

    python -m benchmarks.finetune_sam DATASET -w FOLDER [--splits FILE] [--checkpoint WEIGHTS] [--learn all]
                                      [--iterations 300] [--batch 4] [--learning-rate 0.0005] [--device cpu]

Without a checkpoint a small SAM with random weights is trained from scratch: 128 pixels square, four blocks of 64
features. Dice is that of up to 100 slices of fold 0's held-out cases, each from the exact box of one class. The result
lies in FOLDER/tuned; given as a checkpoint with another dataset, ways to fine-tune it (``--learn``) can be compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from medseg.dataset import Dataset
from medseg.prompting.sam.trainer import LEARN
from medseg.prompting.sam.training import finetune_sam
from medseg.splits import load_splits, make_splits


def small_sam(size: int, features: int, blocks: int, seed: int) -> Any:
    """A SAM of ``transformers`` with random weights for pictures of ``size`` pixels, in patches of 8."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(seed)
    config = SamConfig(
        vision_config={
            "hidden_size": features,
            "output_channels": features,
            "num_hidden_layers": blocks,
            "num_attention_heads": 2,
            "image_size": size,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [blocks - 1],
            "num_pos_feats": features // 2,
            "mlp_dim": 2 * features,
            "initializer_range": 0.02,  # of itself 1e-10, of which nothing comes out
        },
        prompt_encoder_config={"hidden_size": features, "image_size": size, "patch_size": 8},
        mask_decoder_config={"hidden_size": features, "mlp_dim": 2 * features, "num_attention_heads": 2},
    )
    return SamModel(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-w", "--folder", type=Path, required=True)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--learn", choices=LEARN, default="all")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dataset = Dataset.open(given.dataset)
    folds = load_splits(given.splits) if given.splits else make_splits(case.name for case in dataset.cases)
    checkpoint = given.checkpoint or given.folder / "untrained"
    if given.checkpoint is None and not checkpoint.is_dir():
        small_sam(128, 64, 4, seed=0).save_pretrained(checkpoint)
    history = finetune_sam(
        dataset,
        folds[0],
        checkpoint,
        given.folder / "tuned",
        iterations=given.iterations,
        batch_size=given.batch,
        learning_rate=given.learning_rate,
        learn=given.learn,
        device=given.device,
    )
    assert history is not None
    print(f"{'iteration':>9}{'seconds':>9}{'loss':>9}{'Dice':>9}  {'  '.join(dataset.labels.names)}")
    for row in history:
        classes = "  ".join(f"{value:.4f}" for value in row.class_dice)
        print(f"{row.iteration:>9}{row.seconds:>9.0f}{row.validation_loss:>9.4f}{row.mean_dice:>9.4f}  {classes}")


if __name__ == "__main__":
    main()
