"""How well a promptable network answers boxes, points, lines and corrections, and how fast.

    python -m benchmarks.prompting DATASET -w WORKSPACE [--splits FILE] [--budget 15m] [--cases 20]

Plans the dataset and trains fold 0 of a promptable network, unless the workspace holds one already. Then every label of
held-out cases is an object, and prompts are drawn from its reference: the exact box; the box with each face moved by up
to 2 voxels; the box of the slice where it is largest; the longest diameter on that slice; the voxel furthest from its
border; and from there, and from the box, five clicks in the largest part that is wrong. Dice is the mean over objects.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.cli import parse
from medseg.dataset import CaseRef, Dataset, load_case
from medseg.prompting import Box, Point, Prompt, Scribble, Session, load
from medseg.prompting.grid import tight_box
from medseg.prompting.simulation import JITTER_VOXELS, central_point, correction, jittered_box, longest_diameter
from medseg.prompting.unet.promptable import SUFFIX
from medseg.prompting.unet.training import train_promptable
from medseg.workspace import Workspace, plan_workspace

CLICKS = 5


@dataclass
class Scores:
    """Dice of each way to prompt, one number an object, and CPU seconds a response."""

    dice: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def add(self, way: str, found: np.ndarray, reference: np.ndarray) -> None:
        overlap = 2 * float((found & reference).sum()) / float(found.sum() + reference.sum())
        self.dice.setdefault(way, []).append(overlap)

    def lines(self) -> list[str]:
        rows = [f"{way:<32}{np.mean(values):8.4f}{np.std(values):8.4f}" for way, values in self.dice.items()]
        return [f"{'':<32}{'Dice':>8}{'std':>8}", *rows]


def respond(session: Session, scores: Scores, prompts: Sequence[Prompt]) -> np.ndarray:
    """The mask after these prompts, timed."""
    began = time.process_time()
    mask = session.add(*prompts).array > 0
    scores.seconds.append(time.process_time() - began)
    return mask


def measure(session: Session, scores: Scores, reference: np.ndarray, random: np.random.Generator) -> None:
    """All ways to prompt for one object; the session has no prompts before and after."""
    box = tight_box(reference)
    slab = np.zeros_like(reference)
    largest = int(reference.sum((1, 2)).argmax())
    slab[largest] = reference[largest]
    exact, point = Box(*_three(box)), Point(_three((central_point(reference),))[0])
    ways: dict[str, Prompt] = {
        "exact box": exact,
        f"box, faces moved by up to {JITTER_VOXELS}": Box(
            *_three(jittered_box(box, reference.shape, JITTER_VOXELS, random))
        ),
        "box on one slice": Box(*_three(tight_box(slab))),
        "longest diameter on one slice": Scribble(_three(longest_diameter(reference))),
        "one point": point,
    }
    for way, prompt in ways.items():
        scores.add(way, respond(session, scores, [prompt]), reference)
        session.undo()
    for way, prompt in (("one point", point), ("exact box", exact)):
        found = respond(session, scores, [prompt])
        for number in range(1, CLICKS + 1):
            click = correction(reference, found)
            if click is not None:
                found = respond(session, scores, [Point(_three((click[0],))[0], positive=click[1])])
            scores.add(f"{way} and {number} corrections", found, reference)
        while session.steps:
            session.undo()


def _three(positions: Sequence[Sequence[float]]) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(z), float(y), float(x)) for z, y, x in positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if not (given.workspace / "plan.json").is_file():
        plan_workspace(Dataset.open(given.dataset), given.workspace, splits_file=given.splits)
    workspace = Workspace.open(given.workspace)
    configuration = workspace.plan.configuration()
    train_promptable(workspace, fold=0, budget_seconds=_budget_if_new(workspace, given.budget), device=given.device)
    session = load(workspace.model_folder(configuration.name + SUFFIX), given.device)
    names = workspace.split(0).validation[: given.cases]
    cases: list[CaseRef] = [case for case in workspace.dataset.cases if case.name in set(names)]
    scores, random, preparing = Scores(), np.random.default_rng(0), []
    for case in cases:
        image, labels = load_case(case, workspace.plan.labels, workspace.plan.channels)
        began = time.process_time()
        session.set_image(image, case=case.name)
        preparing.append(time.process_time() - began)
        for values in workspace.plan.labels.classes.values():
            reference = np.isin(labels.array, values)
            if reference.any():
                measure(session, scores, reference, random)
    objects = len(scores.dice["exact box"])
    print(f"{len(cases)} held-out cases, {objects} objects")
    print("\n".join(scores.lines()))
    print(f"CPU seconds: an image {np.median(preparing):.3f}, a response {np.median(scores.seconds):.3f} (medians)")


def _budget_if_new(workspace: Workspace, text: str) -> float | None:
    """A run that was begun keeps its length."""
    begun = workspace.model_folder(workspace.plan.configuration().name + SUFFIX) / "fold_0" / "run.json"
    return None if begun.is_file() else parse.seconds(text)


if __name__ == "__main__":
    main()
