"""What several folds and models say of a scan: mean probabilities, and each one's own word where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from medseg.prediction.member import Member, Placement
from medseg.preprocessing import PreparedPlanes, decide, logit_planes, probabilities
from medseg.progress import Progress


@dataclass(frozen=True, eq=False)
class Opinion:
    """Of some planes: probabilities (K, n, Y, X), and of each voter the indices inside (V, n, Y, X) that it would give
    and its logits (K, n, Y, X); none of these where they are not asked for."""

    probabilities: torch.Tensor
    votes: torch.Tensor
    voices: tuple[torch.Tensor, ...] = ()

    @property
    def planes(self) -> int:
        """How many planes n it is of."""
        return self.probabilities.shape[1]

    def part(self, start: int, stop: int) -> Opinion:
        """Of some of its planes."""
        return Opinion(
            self.probabilities[:, start:stop],
            self.votes[:, start:stop],
            tuple(voice[:, start:stop] for voice in self.voices),
        )


def opinions_of(
    members: Sequence[Member],
    placements: Sequence[Placement],
    scans: Sequence[PreparedPlanes],
    votes: bool,
    voices: bool,
    progress: Progress,
) -> Iterator[Opinion]:
    """Mean probabilities and each voter's labels, consecutive planes of the cropped box.

    Args:
        members, placements, scans: one of each for every model, of one scan.
        votes, voices: whether the labels and the logits of each voter are wanted.
    """
    streams = [
        _member_opinions(member, scan, placement, votes, voices, progress)
        for member, scan, placement in zip(members, scans, placements, strict=True)
    ]
    waiting: list[Opinion | None] = [None] * len(streams)
    while True:
        for index, stream in enumerate(streams):
            if waiting[index] is None:
                waiting[index] = next(stream, None)
        ready = [opinion for opinion in waiting if opinion is not None]
        if len(ready) < len(streams):
            return
        planes = min(opinion.planes for opinion in ready)
        parts = [opinion.part(0, planes) for opinion in ready]
        likely = parts[0].probabilities
        if len(parts) > 1:
            shares = likely.new_tensor([member.share for member in members])
            likely = torch.tensordot(shares, torch.stack([part.probabilities for part in parts]), 1)
        yield Opinion(
            likely,
            torch.cat([part.votes for part in parts]),
            tuple(voice for part in parts for voice in part.voices),
        )
        waiting = [None if opinion.planes == planes else opinion.part(planes, opinion.planes) for opinion in ready]


def _member_opinions(
    member: Member, scan: PreparedPlanes, placement: Placement, votes: bool, voices: bool, progress: Progress
) -> Iterator[Opinion]:
    labels, apart = member.model.plan.labels, votes or voices
    slabs = member.slabs(scan, placement, apart=apart, progress=progress)
    for logits in logit_planes(slabs, scan.trace):
        folds = logits.unflatten(0, (-1, member.outputs))
        voters = [decide(probabilities(fold, labels), labels) for fold in folds] if votes else []
        yield Opinion(
            probabilities(folds.mean(0) if apart else logits, labels),
            torch.stack(voters) if votes else logits.new_empty(0, *logits.shape[1:]),
            tuple(folds) if voices else (),
        )
