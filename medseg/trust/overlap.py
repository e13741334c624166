"""The Dice that probabilities promise, summed plane by plane while a scan is predicted.

Were the probabilities right, the reference would hold each voxel with its probability; the ratio of the expected parts
of Dice is then, for a mask M and probabilities p, 2 sum_M p / (|M| + sum p). Of several folds logits are averaged, as
for the mask: where they disagree p is near one half, and the promise falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medseg.labels import LabelSet
from medseg.preprocessing import decide, probabilities


@dataclass(frozen=True)
class LabelOverlap:
    """One label of one mask.

    Attributes:
        voxels: of the mask.
        expected: Dice that the probabilities promise; None for an empty mask.
        agreement: mean Dice of each fold's own mask with the mask; None for one fold, or an empty mask.
    """

    label: str
    voxels: int
    expected: float | None
    agreement: float | None


class OverlapSums:
    """Adds up what :class:`LabelOverlap` needs.

    Args:
        temperatures: of each fold; its logits are divided by it first (Guo et al. 2017, arXiv 1706.04599).
    """

    def __init__(self, labels: LabelSet, temperatures: Sequence[float]) -> None:
        self._labels = labels
        self._temperatures = tuple(temperatures)
        classes = labels.class_indices
        self._outputs = range(len(classes)) if labels.has_regions else [indices[0] for indices in classes]
        self._covers = torch.zeros(len(labels.values) + 1, len(classes), dtype=torch.bool)
        for number, indices in enumerate(classes):
            self._covers[list(indices), number] = True
        self._inside, self._total = torch.zeros(2, len(classes), dtype=torch.float64)
        self._voxels = torch.zeros(len(classes), dtype=torch.int64)
        self._both, self._votes = [], []  # voxels of each voter's mask in the mask, and of its own

    def hear(self, voices: Sequence[torch.Tensor], indices: torch.Tensor) -> None:
        """Take some planes: logits (K, n, Y, X) of each fold, and the mask (n, Y, X) as indices inside."""
        covers = self._covers.to(indices.device)
        masks = [covers[:, number][indices] for number in range(covers.shape[1])]
        self._voxels += torch.stack([mask.sum() for mask in masks]).cpu()
        if not self._both:
            self._both = [torch.zeros(len(masks), dtype=torch.int64) for _ in voices]
            self._votes = [torch.zeros(len(masks), dtype=torch.int64) for _ in voices]
        together = torch.zeros_like(voices[0], dtype=torch.float32)
        for logits, temperature in zip(voices, self._temperatures, strict=True):
            together.add_(logits.float(), alpha=1 / (temperature * len(voices)))
        likely = probabilities(together, self._labels)
        for number, (output, mask) in enumerate(zip(self._outputs, masks, strict=True)):
            self._total[number] += likely[output].sum(dtype=torch.float64).cpu()
            self._inside[number] += likely[output][mask].sum(dtype=torch.float64).cpu()
        for logits, both, votes in zip(voices, self._both, self._votes, strict=True):
            if len(voices) > 1:
                own = decide(probabilities(logits.float(), self._labels), self._labels)
                for number, mask in enumerate(masks):
                    vote = covers[:, number][own]
                    votes[number] += vote.sum().cpu()
                    both[number] += (vote & mask).sum().cpu()

    def found(self) -> tuple[LabelOverlap, ...]:
        """What all planes together say of each label, in declared order."""
        overlaps = []
        for number, name in enumerate(self._labels.names):
            voxels = int(self._voxels[number])
            expected = agreement = None
            if voxels:
                expected = float(2 * self._inside[number] / (voxels + self._total[number]))
                if len(self._both) > 1:
                    pairs = zip(self._both, self._votes, strict=True)
                    each = [2 * int(both[number]) / (voxels + int(votes[number])) for both, votes in pairs]
                    agreement = sum(each) / len(each)
            overlaps.append(LabelOverlap(name, voxels, expected, agreement))
        return tuple(overlaps)
