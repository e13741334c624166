"""Which label wins: votes of channels, or of the corners of a cell, over arrays of any form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from medseg.errors import UsageError

Pair = tuple[Tensor, Tensor]


def argmax(channels: Iterable[Tensor], lead: float, code: torch.dtype) -> Tensor:
    """The first of the largest channels; to be larger is to lead all channels before by more than ``lead``."""
    channels = iter(channels)
    best = next(channels).clone()
    winner = torch.zeros_like(best, dtype=code)
    for number, channel in enumerate(channels, 1):
        ahead = channel > (best + lead if lead else best)
        torch.maximum(winner, ahead.to(code).mul_(number), out=winner)
        torch.maximum(best, channel, out=best)
    return winner


def last_positive(channels: Iterable[Tensor], lead: float, code: torch.dtype) -> Tensor:
    """1 + the last channel above ``lead``, or 0."""
    channels = iter(channels)
    last = (next(channels) > lead).to(code)
    for number, channel in enumerate(channels, 2):
        torch.maximum(last, (channel > lead).to(code).mul_(number), out=last)
    return last


def majority(sources: Tensor, corners: list[Tensor], weights: list[Pair]) -> Tensor:
    """The highest label whose corners weigh at least 0.5 together, or 0; sums as scipy's, to the last bit."""
    labels = [sources[0].index_select(0, corner) for corner in corners]
    shares = [torch.ones(len(corners[0]), dtype=torch.float64, device=sources.device)]
    for pair in weights:
        shares = [share * weight for share in shares for weight in pair]
    highest = torch.full_like(labels[0], torch.iinfo(sources.dtype).min)
    found = torch.zeros_like(highest, dtype=torch.bool)
    for label in labels:
        total = torch.zeros_like(shares[0])
        for other, share in zip(labels, shares, strict=True):
            total += share * (other == label)
        enough = total >= 0.5
        highest = torch.maximum(highest, label.masked_fill(~enough, torch.iinfo(sources.dtype).min))
        found |= enough
    return highest.masked_fill_(~found, 0)


def smallest_type(lowest: int, highest: int) -> torch.dtype:
    """The smallest of uint8, int16 and int32 that holds two values and all between them.

    Raises:
        UsageError: none of them does.
    """
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= lowest and highest <= torch.iinfo(dtype).max:
            return dtype
    raise UsageError(f"values: expected integers of at most 32 bits, found {lowest} to {highest}")
