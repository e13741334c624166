"""First weights from another model: the body as it is, of the heads the classes that both know by name."""

from __future__ import annotations

from pathlib import Path

import torch

from medseg.errors import ModelError
from medseg.labels import BACKGROUND_NAME, LabelSet
from medseg.model import load_model
from medseg.planning.plan import Plan

HEADS = "heads."


def load_pretrained(network: torch.nn.Module, plan: Plan, folder: Path) -> None:
    """Take over the weights of the first fold of a model.

    Outputs that the other model does not have keep their random start.

    Raises:
        ModelError: the other network has another topology or other input channels; names the first tensor that differs.
    """
    model = load_model(folder)
    source = next(iter(model.weights.values()))
    rows = _shared_outputs(plan.labels, model.plan.labels)
    merged = {}
    for name, own in network.state_dict().items():
        other = source.get(name)
        if (
            other is None
            or other.shape[1:] != own.shape[1:]
            or (not name.startswith(HEADS) and other.shape != own.shape)
        ):
            found = "nothing" if other is None else str(tuple(other.shape))
            raise ModelError(
                f"--pretrained {folder}: its network has another topology: {name} expected {tuple(own.shape)},"
                f" found {found}; train from scratch, or plan with the preset it was trained with"
            )
        if name.startswith(HEADS):
            other = own.clone().index_copy_(0, torch.tensor([r for r, _ in rows]), other[[r for _, r in rows]])
        merged[name] = other
    network.load_state_dict(merged)


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
