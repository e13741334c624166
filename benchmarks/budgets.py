"""What a budget brings, and whether it is met: Dice and time of whole ``medseg train`` and ``medseg demo`` commands.

    python -m benchmarks.budgets train DATASET --name NAME --folder DIR [--splits FILE] [--budgets 3m,12m]
                                 [--seeds 0,1,2] [--old]
    python -m benchmarks.budgets demo --folder DIR [--old]
    python -m benchmarks.budgets show

Each run is a process of its own, started as a user would. All held-out cases are then predicted and measured, also
those for which the budget had no time; that is not part of the time. ``--old`` keeps oneDNN from instructions newer
than AVX2, and so from bf16: the speed of a processor of 2015. Results are added to ``benchmarks/results/budgets.json``;
runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from medseg import documents
from medseg.cli import parse
from medseg.device import machine_name
from medseg.planning.plan import Plan
from medseg.planning.wording import configuration_values

RESULTS = Path(__file__).with_name("results") / "budgets.json"
OLD = {"ONEDNN_MAX_CPU_ISA": "AVX2"}


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        wall_s: of the whole command, from starting Python to its end.
        steps, network: what was trained.
        dice: mean over labels; of all held-out cases, or of the demo's unseen ones.
    """

    name: str
    budget_s: float
    seed: int
    old: bool
    machine: str
    wall_s: float
    steps: int
    network: str
    dice: float


@dataclass(frozen=True)
class Rows:
    """What the file of results holds."""

    version: Literal[1]
    rows: tuple[Row, ...] = ()


def known() -> tuple[Row, ...]:
    """The runs made so far."""
    return documents.load(Rows, RESULTS).rows if RESULTS.is_file() else ()


def add(row: Row) -> None:
    """Keep a run, and print it."""
    RESULTS.parent.mkdir(exist_ok=True)
    documents.save(Rows(1, (*known(), row)), RESULTS)
    print(line(row), flush=True)


def line(row: Row) -> str:
    """A run for people."""
    return (
        f"{row.name:<16}{'old' if row.old else 'new':<5}{row.budget_s:6.0f} s  seed {row.seed}  took {row.wall_s:7.1f}"
        f" s ({row.wall_s / row.budget_s:5.3f})  {row.steps:6d} steps  Dice {row.dice:.4f}  {row.network}"
    )


def medseg(words: list[str], old: bool) -> float:
    """Run a command and return its wall-clock seconds."""
    began = time.monotonic()
    environment = {**os.environ, **(OLD if old else {})}
    done = subprocess.run([sys.executable, "-m", "medseg", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"medseg {' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.monotonic() - began


def trained(workspace: Path) -> tuple[int, str, float]:
    """Steps, network and mean Dice of a workspace's fold 0."""
    plan = Plan.load(workspace / "plan.json").configuration()
    folder = workspace / "models" / plan.name / "fold_0"
    outcome = documents.read_json(folder / "outcome.json")
    values = configuration_values(Plan.load(folder / "plan.json").configuration(plan.name))
    network = f"{values['network'].split(', kernels')[0]}; {values['patch_size']} at {values['spacing_mm']}"
    return outcome["steps"], network, outcome["mean_dice"]


def train(options: argparse.Namespace) -> None:
    """All budgets and seeds that are missing."""
    machine = machine_name(torch.device("cpu"))
    for budget in options.budgets.split(","):
        for seed in options.seeds:
            key = (options.name, parse.seconds(budget), seed, options.old, machine)
            if key in {(row.name, row.budget_s, row.seed, row.old, row.machine) for row in known()}:
                continue
            workspace = options.folder / f"{options.name}_{budget}_{seed}{'_old' if options.old else ''}"
            shutil.rmtree(workspace, ignore_errors=True)
            splits = ["--splits", str(options.splits)] if options.splits else []
            medseg(["plan", str(options.dataset), "-w", str(workspace), *splits], options.old)
            words = ["train", "-w", str(workspace), "--fold", "0"]
            wall = medseg([*words, "--budget", budget, "--seed", str(seed)], options.old)
            medseg(words, options.old)  # the held-out cases that are left
            steps, network, dice = trained(workspace)
            add(Row(options.name, parse.seconds(budget), seed, options.old, machine, wall, steps, network, dice))


def demo(options: argparse.Namespace) -> None:
    """The demo, quick and whole; the budgets are what is promised of it."""
    machine = machine_name(torch.device("cpu"))
    for name, promised, words in (("demo --quick", 75.0, ["--quick"]), ("demo", 240.0, [])):
        folder = options.folder / f"{name.replace(' ', '_')}{'_old' if options.old else ''}"
        shutil.rmtree(folder, ignore_errors=True)
        wall = medseg(["demo", "-w", str(folder), *words], options.old)
        steps, network, _ = trained(folder / "workspace")
        summary = json.loads((folder / "report" / "summary.json").read_text())
        add(Row(name, promised, 0, options.old, machine, wall, steps, network, mean_dice(summary)))


def mean_dice(summary: dict) -> float:
    """Mean over labels in an evaluation's summary."""
    return float(summary["foreground_mean"]["Dice"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("show")
    one, two = verbs.add_parser("train"), verbs.add_parser("demo")
    one.add_argument("dataset", type=Path)
    one.add_argument("--name", required=True)
    one.add_argument("--splits", type=Path)
    one.add_argument("--budgets", default="3m,12m")
    one.add_argument("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[0, 1, 2])
    for verb in (one, two):
        verb.add_argument("--folder", type=Path, required=True)
        verb.add_argument("--old", action="store_true")
    given = parser.parse_args()
    if given.verb == "show":
        print("\n".join(map(line, known())))
    else:
        {"train": train, "demo": demo}[given.verb](given)


if __name__ == "__main__":
    main()
