"""SAM, what of it learns, one step of that, and how good it is on slices that nobody showed it.

After MedSAM (Ma et al., Nature Communications 2024): the mask decoder learns whole, and the image encoder whole
(``all``), by a low-rank update (``lora``) or not at all (``decoder``); the prompt encoder stays as it is. Loss: soft
Dice and cross-entropy; AdamW at a constant rate.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from medseg.labels import LabelSet
from medseg.prompting.grid import tight_box
from medseg.prompting.sam.lora import add_low_rank, merge_low_rank
from medseg.prompting.sam.network import Style, embed, low_resolution_logits, pixels, slice_logits
from medseg.prompting.sam.samples import Sample, SliceCase, batch_of, draw, mask_of, picture_of
from medseg.prompting.slices.prompts import SlicePrompts

Learn = Literal["all", "lora", "decoder"]
LEARN: tuple[Learn, ...] = ("all", "lora", "decoder")
WEIGHT_DECAY = 0.01
MOST_VALIDATION_SLICES = 100


@dataclass(frozen=True)
class SamRun:
    """The course of a fine-tuning, fixed at its start.

    Attributes:
        weights_sha256: of the checkpoint that it began with.
        learn: what of the network.
    """

    version: Literal[2]
    weights_sha256: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    style: Style
    learn: Learn
    iterations: int
    batch_size: int
    learning_rate: float
    seed: int


class SamTrainer:
    """A SAM that learns.

    Args:
        network: ``transformers``' SamModel, frozen, on the device where it is to learn.
    """

    def __init__(self, network: Any, run: SamRun, labels: LabelSet) -> None:
        self.network, self.run, self.labels = network, run, labels
        # One module under two names would be one tensor under two names, which no safetensors file holds.
        network.prompt_encoder.shared_embedding = copy.deepcopy(network.prompt_encoder.shared_embedding)
        self.size = int(network.config.vision_config.image_size)
        network.mask_decoder.requires_grad_(True)
        if run.learn == "all":
            network.vision_encoder.requires_grad_(True)
        elif run.learn == "lora":
            add_low_rank(network.vision_encoder, torch.Generator().manual_seed(run.seed))
        parameters = [value for value in network.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=run.learning_rate, weight_decay=WEIGHT_DECAY)

    def step(self, cases: Sequence[SliceCase], iteration: int) -> float:
        """One step on the batch of an iteration, which depends on nothing else; its loss."""
        random = np.random.default_rng((self.run.seed, iteration))
        samples = [draw(cases, random) for _ in range(self.run.batch_size)]
        images, boxes, masks = (
            value.to(self.network.device)
            for value in batch_of(cases, samples, self.labels, self.size, self.run.style, random)
        )
        answer = self.network(pixel_values=images, input_boxes=boxes, multimask_output=False).pred_masks[:, 0]
        logits = functional.interpolate(answer, (self.size, self.size), mode="bilinear", align_corners=False)
        loss = mask_loss(logits, masks)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def measure(self, cases: Sequence[SliceCase]) -> tuple[float, dict[str, float]]:
        """Loss, and Dice of each class, on held-out slices from exact boxes, through the engine's own functions."""
        random = np.random.default_rng(0)
        samples = [
            Sample(i, name, int(s)) for i, c in enumerate(cases) for name, all_ in c.slices.items() for s in all_
        ]
        chosen = [samples[i] for i in random.permutation(len(samples))[:MOST_VALIDATION_SLICES]]
        losses: list[float] = []
        dice: dict[str, list[float]] = {name: [] for name in self.labels.names}
        for sample in chosen:
            mask = mask_of(cases[sample.case], sample, self.labels)
            (y0, x0), (y1, x1) = tight_box(mask)
            shape = (mask.shape[0], mask.shape[1])
            picture = pixels(picture_of(cases[sample.case], sample.index), self.size, self.run.style)
            embedding = embed(self.network, picture)
            low = low_resolution_logits(self.network, embedding, SlicePrompts((y0, x0, y1, x1)), shape, self.run.style)
            logits = slice_logits(low, shape, self.size, self.run.style)
            found = logits > 0
            losses.append(float(mask_loss(torch.from_numpy(logits)[None, None], torch.from_numpy(mask)[None, None])))
            dice[sample.label].append(2 * float((found & mask).sum()) / float(found.sum() + mask.sum()))
        return float(np.mean(losses)), {name: float(np.mean(values)) for name, values in dice.items() if values}

    def save(self, weights: Path, folder: Path) -> None:
        """Write weights under a path, and the configuration into a folder; low-rank updates are merged for good."""
        from safetensors.torch import save_file

        merge_low_rank(self.network.vision_encoder)
        self.network.config.save_pretrained(folder)
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.network.state_dict().items()}
        save_file(tensors, weights, metadata={"format": "pt"})


def mask_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Soft Dice with squares in its denominator and mean cross-entropy, summed; (B, 1, Y, X) both."""
    truth = masks.float()
    found = torch.sigmoid(logits)
    shared = (found * truth).sum((1, 2, 3))
    total = found.square().sum((1, 2, 3)) + truth.square().sum((1, 2, 3))
    dice = 1 - (2 * shared + 1e-5) / (total + 1e-5)
    return dice.mean() + functional.binary_cross_entropy_with_logits(logits, truth)
