"""What networks of several sizes learn in so many steps: the runs behind the rule of expected Dice.

    python -m benchmarks.sizes run DATASET -w WORKSPACE [--width 0.25] [--factor 1.5] [--patch 32,48,48] [--steps 600]
                               [--at 150,300] [--batch 2] [--splits FILE] [--cases 5] [--threads 1] [--name NAME]
    python -m benchmarks.sizes fit

``run`` trains fold 0 once at a constant rate and measures the averaged weights on held-out cases after some of the
steps; what is averaged over the last eighth of so many steps is close to what a run of that length ends with. Results
are added to ``benchmarks/results/sizes.json``. ``fit`` prints the rule of ``medseg.planning.sizing`` beside them.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from math import prod, sqrt
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from medseg import documents
from medseg.coarse_grids import FACTORS
from medseg.dataset import Dataset, load_case
from medseg.device import choose_precision, machine_name
from medseg.model import Model
from medseg.networks.memory import freed_memory_kept
from medseg.planning import sizing
from medseg.prediction import Predictor
from medseg.training.cases import open_cases
from medseg.training.pace import Schedule
from medseg.training.recipe import Recipe, recipe_for_iterations
from medseg.training.run import Run
from medseg.training.trainer import Trainer
from medseg.workspace import Workspace, plan_workspace, preprocess

RESULTS = Path(__file__).with_name("results") / "sizes.json"


@dataclass(frozen=True)
class Point:
    """Mean Dice over classes of held-out cases after so many steps.

    Attributes:
        share: of the median scan that a patch shows.
        grid: the best Dice on the grid that was used.
        cpu_s: processor seconds of a step.
    """

    dataset: str
    width: float
    factor: float
    patch: tuple[int, ...]
    share: float
    grid: float
    batch: int
    steps: int
    cpu_s: float
    dice: float
    machine: str


@dataclass(frozen=True)
class Points:
    """What the file of results holds."""

    version: Literal[1]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class ConstantRate(Recipe):
    """A recipe whose rate does not fall after its warm-up."""

    def learning_rate_at(self, iteration: int, schedule: Schedule | None = None) -> float:  # noqa: ARG002
        return self.learning_rate * min(1.0, (iteration + 1) / self.warmup_iterations)


def run(options: argparse.Namespace) -> None:
    """One run, measured after some of its steps."""
    torch.set_num_threads(options.threads)
    if not (options.workspace / "plan.json").is_file():
        plan_workspace(Dataset.open(options.dataset), options.workspace, splits_file=options.splits)
    workspace = Workspace.open(options.workspace)
    planned = workspace.plan.configuration()
    view, start = sizing.coarse_view(planned, options.factor)
    patch = tuple(map(int, options.patch.split(","))) if options.patch else start
    patch = sizing.patch_within(view, patch, prod(patch))
    chosen = replace(sizing.resized(planned, view, patch, options.width), batch_size=options.batch)
    plan = workspace.plan.with_configuration(chosen)
    split = workspace.split(0)
    preprocess(workspace, chosen, cases=split.train)
    held_out = [case for case in workspace.dataset.cases if case.name in split.validation[: options.cases]]
    references = [load_case(case, plan.labels, plan.channels) for case in held_out]
    device = torch.device("cpu")
    recipe = ConstantRate(**vars(recipe_for_iterations(options.steps, options.batch)))
    precision = choose_precision("auto", device)
    record = Run(1, chosen.name, 0, options.seed, precision, replace(recipe, warmup_iterations=50))
    trainer = Trainer(plan, chosen, open_cases(workspace, chosen, split.train), (), record, device)
    coarse = documents.read_json(workspace.fingerprint_path).get("coarse_dice")
    used = 0.0
    with freed_memory_kept():
        for step in range(options.steps):
            began = time.process_time()
            float(trainer.step(step))
            used += time.process_time() - began
            if step + 1 in {*options.at, options.steps}:
                with trainer.averaged():
                    weights = {name: value.clone() for name, value in trainer.network.state_dict().items()}
                predictor = Predictor(Model(plan, chosen, (), precision, {"0": weights}), "cpu", precision)
                dice = mean_dice(predictor, references)
                add(
                    Point(
                        options.name or plan.dataset_name,
                        options.width,
                        options.factor,
                        patch,
                        prod(min(1.0, a / b) for a, b in zip(patch, view.median_shape, strict=True)),
                        1.0 if options.factor == 1 else coarse[FACTORS.index(options.factor)],
                        options.batch,
                        step + 1,
                        round(used / (step + 1), 4),
                        round(dice, 4),
                        machine_name(device),
                    )
                )


def mean_dice(predictor: Predictor, references: list) -> float:
    """Over classes, of their means over the cases that have them."""
    found: dict[str, list[float]] = {}
    for image, labels in references:
        mask = predictor.segment(image, case="held out").array
        for name, values in predictor.plan.labels.classes.items():
            one, two = np.isin(mask, values), np.isin(labels.array, values)
            if two.any():
                found.setdefault(name, []).append(2 * (one & two).sum() / (one.sum() + two.sum()))
    return float(np.mean([np.mean(dice) for dice in found.values()]))


def add(point: Point) -> None:
    """Append a point to the file of results, and print it."""
    print(json.dumps(documents.to_json(point)), flush=True)
    known = documents.load(Points, RESULTS).points if RESULTS.is_file() else ()
    documents.save(Points(1, (*known, point)), RESULTS)


def fit() -> None:
    """The rule beside the points: for each dataset its own error, and what the rule then misses.

    Runs that have hardly begun to find the classes (Dice below one half) are left out: the rule does not reach so far.
    """
    points = [point for point in documents.load(Points, RESULTS).points if point.dice > 0.5]
    for name in sorted({point.dataset for point in points}):
        own = [point for point in points if point.dataset == name]
        growths = [sizing.error_growth(p.width, p.share, p.steps, p.batch) for p in own]
        errors = [1 - p.dice / p.grid for p in own]
        error = float(np.median([e / g for e, g in zip(errors, growths, strict=True)]))
        missed = [p.dice - p.grid * (1 - min(1, error * g)) for p, g in zip(own, growths, strict=True)]
        root = sqrt(np.mean(np.square(missed)))
        print(f"{name}: least error {error:.3f}, root mean square of what the rule misses {root:.3f}")
        for point, off in zip(own, missed, strict=True):
            print(
                f"  width {point.width:<5g} grid x{point.factor:<4g} patch share {point.share:.2f} batch {point.batch}"
                f" steps {point.steps:5d}: Dice {point.dice:.3f}, rule {point.dice - off:.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("fit")
    one = verbs.add_parser("run")
    one.add_argument("dataset", type=Path)
    one.add_argument("-w", "--workspace", type=Path, required=True)
    one.add_argument("--splits", type=Path)
    one.add_argument("--width", type=float, default=1.0)
    one.add_argument("--factor", type=float, default=1.0)
    one.add_argument("--patch")
    one.add_argument("--batch", type=int, default=2)
    one.add_argument("--steps", type=int, default=600)
    one.add_argument("--at", type=lambda text: [int(word) for word in text.split(",")], default=[])
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--cases", type=int, default=40)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--name")
    given = parser.parse_args()
    if given.verb == "fit":
        fit()
    else:
        run(given)


if __name__ == "__main__":
    main()
