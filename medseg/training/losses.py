"""Dice plus cross-entropy at every scale of a deeply supervised network.

The loss is nnU-Net's: cross-entropy (for regions: binary cross-entropy) plus soft Dice without background, the scales
weighted 1, 1/2, 1/4 ... with the coarsest left out (Isensee et al., Nature Methods 2021). Computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

from medseg.labels import LabelSet

_SMOOTH = 1e-5


class DiceCrossEntropy(torch.nn.Module):
    """Dice plus cross-entropy of one scale.

    Args:
        labels: says whether outputs are exclusive classes or regions, and which index to ignore.
        batch_dice: pool voxels over the batch before taking Dice, instead of a Dice a sample.
        total: sum over the processes that share a batch, with its gradient.

    Where a sample is not annotated for every class, a background voxel may belong to any of the others: their
    probabilities count as background's (the marginal loss of Shi et al., Medical Image Analysis 70:101979, 2021), and
    Dice is taken over annotated classes only. Regions without annotation are left out.
    """

    def __init__(
        self, labels: LabelSet, batch_dice: bool, total: Callable[[torch.Tensor], torch.Tensor] = lambda own: own
    ) -> None:
        super().__init__()
        self._regions = labels.class_indices if labels.has_regions else None
        self._ignore = labels.ignore_index
        self._batch_dice = batch_dice
        self._total = total
        self._order = torch.tensor([indices[0] for indices in labels.class_indices]).argsort()

    def forward(
        self, logits: torch.Tensor, target: torch.Tensor, unannotated: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scalar loss of logits (B, K, ...) against label indices (B, ...).

        Args:
            unannotated: (B, classes) bool, classes in declared order, that a sample is not annotated for.
        """
        logits = logits.float()
        if unannotated is not None:
            return self._partial(logits, target, unannotated.to(logits.device, non_blocking=True))
        valid = None if self._ignore is None else target != self._ignore
        if self._regions is not None:
            wanted = region_targets(target, self._regions).to(logits.dtype)
            entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
            probabilities = logits.sigmoid()
        else:
            indices = target.long() if valid is None else torch.where(valid, target, 0).long()
            logarithms = logits.log_softmax(1)
            entropy = _entropy(logarithms, indices)
            wanted = _one_hot(indices, logits)
            probabilities = logarithms[:, 1:].exp()
        if valid is None:
            return entropy.mean() + self._dice(probabilities, wanted)
        mask = valid.unsqueeze(1).to(logits.dtype)
        return self._mean(entropy, mask[:, 0]) + self._dice(probabilities * mask, wanted * mask)

    def _partial(self, logits: torch.Tensor, target: torch.Tensor, unannotated: torch.Tensor) -> torch.Tensor:
        valid = torch.ones_like(target, dtype=torch.bool) if self._ignore is None else target != self._ignore
        ones = [1] * (logits.ndim - 2)
        if self._regions is not None:
            known = (~unannotated).to(logits.dtype).view(*unannotated.shape, *ones)
            wanted = region_targets(target, self._regions).to(logits.dtype)
            entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            entropy = (entropy * known).sum(1) / known.sum(1).clamp_min(1.0)
            probabilities = logits.sigmoid()
        else:
            order = self._order.to(logits.device, non_blocking=True)
            unknown = unannotated[:, order]  # by output channel, background left out
            known = (~unknown).to(logits.dtype).view(*unknown.shape, *ones)
            indices = torch.where(valid, target, 0).long()
            logarithms = logits.log_softmax(1)
            merged = F.pad(unknown, (1, 0)).view(*logits.shape[:2], *ones)
            merged = merged | (torch.arange(logits.shape[1], device=logits.device) == 0).view(1, -1, *ones)
            background = logarithms.masked_fill(~merged, -torch.inf).logsumexp(1, keepdim=True)
            entropy = _entropy(torch.cat([background, logarithms[:, 1:]], 1), indices)
            wanted = _one_hot(indices, logits)
            probabilities = logarithms[:, 1:].exp()
        mask = valid.unsqueeze(1).to(logits.dtype)
        dice = self._dice(probabilities * mask * known, wanted * mask * known, known.flatten(1))
        return self._mean(entropy, mask[:, 0]) + dice

    def _mean(self, values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """Over what is counted (1, else 0) in the whole batch."""
        return self._total((values * counted).sum()) / self._total(counted.sum()).clamp_min(1.0)

    def _dice(
        self, probabilities: torch.Tensor, wanted: torch.Tensor, counted: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One minus the mean soft Dice of classes (B, classes, ...), where (B, classes) are counted."""
        axes = tuple(range(2, wanted.ndim))
        sums = torch.stack([(probabilities * wanted).sum(axes), probabilities.sum(axes) + wanted.sum(axes)])
        if self._batch_dice:
            sums = self._total(sums.sum(1, keepdim=True))
        each = 1 - (2 * sums[0] + _SMOOTH) / (sums[1] + _SMOOTH)
        if counted is None:
            return each.mean()
        if self._batch_dice:
            counted = (self._total(counted.sum(0, keepdim=True)) > 0).to(each.dtype)
            return (each * counted).sum() / counted.sum().clamp_min(1.0)
        return self._mean(each, counted)


class DeepSupervision(torch.nn.Module):
    """Weighted sum of a loss over scales, finest first; the coarsest of several gets no weight."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self._loss = loss

    def forward(
        self, scales: Sequence[torch.Tensor], target: torch.Tensor, unannotated: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scalar loss of logits (B, K, ...) at each scale against label indices (B, ...) at the finest."""
        weights = scale_weights(len(scales))
        total = torch.zeros((), device=target.device)
        for logits, weight in zip(scales, weights, strict=True):
            if weight:
                total = total + weight * self._loss(logits, downsample_labels(target, logits.shape[2:]), unannotated)
        return total


def _entropy(logarithms: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Minus the logarithms (B, K, ...) at indices (B, ...). On a GPU ``nll_loss`` has no deterministic form."""
    return -logarithms.gather(1, indices.unsqueeze(1)).squeeze(1)


def _one_hot(indices: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Indices (B, ...) as (B, K - 1, ...) of the logits' type, without background."""
    classes = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
    return (indices.unsqueeze(1) == classes).to(logits.dtype)


def scale_weights(scales: int) -> tuple[float, ...]:
    """Weights of the scales, finest first, with sum 1."""
    raw = [0.5**scale for scale in range(scales)]
    if scales > 1:
        raw[-1] = 0.0
    return tuple(value / sum(raw) for value in raw)


def downsample_labels(target: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Label indices (B, ...) at a coarser size, taken at the nearest voxel centre."""
    for axis, (size, coarse) in enumerate(zip(target.shape[1:], shape, strict=True), start=1):
        if size != coarse:
            centres = (torch.arange(coarse, device=target.device, dtype=torch.float64) + 0.5) * (size / coarse)
            target = target.index_select(axis, centres.floor().long())
    return target


def region_targets(target: torch.Tensor, regions: Sequence[Sequence[int]]) -> torch.Tensor:
    """Whether each voxel of label indices (B, ...) belongs to each region: (B, R, ...) bool."""
    return torch.stack([reduce(torch.logical_or, [target == index for index in region]) for region in regions], dim=1)


def hard_dice_counts(
    logits: torch.Tensor, target: torch.Tensor, labels: LabelSet, unannotated: torch.Tensor | None = None
) -> torch.Tensor:
    """True positives, predicted and reference voxels of each class, pooled over a batch: (classes, 3) float64.

    Args:
        unannotated: (B, classes) bool, where nothing is counted.
    """
    valid = torch.ones_like(target, dtype=torch.bool)
    if labels.ignore_index is not None:
        valid = target != labels.ignore_index
    wanted = region_targets(target, labels.class_indices)
    found = logits > 0 if labels.has_regions else region_targets(logits.argmax(1), labels.class_indices)
    found, wanted = found & valid.unsqueeze(1), wanted & valid.unsqueeze(1)
    if unannotated is not None:
        known = ~unannotated.to(found.device).view(*unannotated.shape, *[1] * (found.ndim - 2))
        found, wanted = found & known, wanted & known
    axes = [0, *range(2, wanted.ndim)]
    counts = [(found & wanted).sum(axes), found.sum(axes), wanted.sum(axes)]
    return torch.stack(counts, dim=1).double()
