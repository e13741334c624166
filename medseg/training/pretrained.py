"""First weights from another model, ours or nnU-Net's: the body as it is, of channels and classes those of one name."""

from __future__ import annotations

from pathlib import Path

import torch

from medseg.errors import ModelError
from medseg.interop.opening import open_model
from medseg.labels import BACKGROUND_NAME, LabelSet
from medseg.planning.plan import Plan
from medseg.planning.transfer import matching_channels

HEADS = "heads."


def load_pretrained(network: torch.nn.Module, plan: Plan, folder: Path) -> None:
    """Take over the weights of the first fold of a model.

    Outputs that the other model does not have keep their random start. A channel that it has not seen starts with the
    mean of its kernels, and so looks at first for what any channel shows; the masks of a cascade start at random.

    Raises:
        ModelError: the other network has another topology; names the first tensor that differs.
    """
    model = open_model(folder)
    source = next(iter(model.weights.values()))
    rows = _shared_outputs(plan.labels, model.plan.labels)
    channels = matching_channels(plan.channels, model.plan.channels)
    target, merged = network.state_dict(), {}
    (entrance,) = [name for name in ("stem.conv.weight", "encoder.0.0.conv.weight") if name in target][:1]
    for name, own in target.items():
        other = source.get(name)
        if other is None or not _fits(own, other, head=name.startswith(HEADS), entrance=name == entrance):
            found = "nothing" if other is None else str(tuple(other.shape))
            raise ModelError(
                f"--pretrained {folder}: its network has another topology: {name} expected {tuple(own.shape)},"
                f" found {found}; train from scratch, or plan for it with: medseg plan DATASET --pretrained {folder}"
            )
        if name.startswith(HEADS):
            other = own.clone().index_copy_(0, torch.tensor([r for r, _ in rows]), other[[r for _, r in rows]])
        elif name == entrance:
            other = _entrance(own, other[:, : len(model.plan.channels)], channels)
        merged[name] = other
    network.load_state_dict(merged)


def freeze_encoder(network: torch.nn.Module, frozen: bool) -> None:
    """Leave the weights on the way down as they are, or let them learn again."""
    for name, parameter in network.named_parameters():
        if name.startswith(("stem.", "encoder.")):
            parameter.requires_grad_(not frozen)


def _fits(own: torch.Tensor, other: torch.Tensor, *, head: bool, entrance: bool) -> bool:
    """Whether shapes agree; heads may differ in outputs, the first convolution in the channels of the scan."""
    if head:
        return own.shape[1:] == other.shape[1:]
    if entrance and own.ndim == other.ndim:
        return own.shape[0] == other.shape[0] and own.shape[2:] == other.shape[2:]
    return own.shape == other.shape


def _entrance(own: torch.Tensor, other: torch.Tensor, channels: tuple[int | None, ...]) -> torch.Tensor:
    """The first convolution's kernels (O, C, ...), each channel of the scan with those of its match."""
    kernels = own.clone()
    for index, match in enumerate(channels):
        kernels[:, index] = other.mean(1) if match is None else other[:, match]
    return kernels


def _shared_outputs(own: LabelSet, other: LabelSet) -> list[tuple[int, int]]:
    """Pairs of output channels, ours and the other model's, that stand for classes of the same name."""
    theirs = {name: channel for channel, name in enumerate(_output_names(other))}
    return [(channel, theirs[name]) for channel, name in enumerate(_output_names(own)) if name in theirs]


def _output_names(labels: LabelSet) -> list[str]:
    """What each output channel of a network stands for."""
    if labels.has_regions:
        return list(labels.names)
    by_index = {indices[0]: name for name, indices in zip(labels.names, labels.class_indices, strict=True)}
    return [BACKGROUND_NAME, *(by_index[index] for index in range(1, labels.output_count))]
