"""Seconds of a training iteration, with data and without, and Dice at equal wall-clock: medseg and nnU-Net v2.

    python -m benchmarks.training DATASET [--peer-python PY] [--splits FILE] [--steps 5] [--batch 7] [--threads 2]
                                  [--minutes 3] [--device cpu] [--folder DIR] [--json FILE]

Both train ``3d_fullres`` as nnU-Net plans it, or with ``--batch`` samples a batch: medseg in the precision it would
choose here and in fp32, with nnU-Net's own recipe (SGD, mirroring) so that both do the same work. "Fixed batch" is the
same step on one batch that is there already: the floor. With ``--minutes`` each also trains fold 0 for so long as
shipped, and the mean Dice over its held-out cases is shown; validation is not part of the time. PY is the Python of an
environment with nnunetv2. The folder keeps what was prepared for another time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import subprocess
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.nnunet_raw import write_raw
from medseg import crossvalidation
from medseg.dataset import Dataset
from medseg.device import choose_device, choose_precision
from medseg.evaluation import foreground_mean, summarize
from medseg.networks.memory import freed_memory_kept
from medseg.splits import load_splits
from medseg.training.cases import open_cases
from medseg.training.recipe import LONG_RUN_ITERATIONS, recipe_for_iterations
from medseg.training.run import Run
from medseg.training.trainer import Trainer
from medseg.workspace import Workspace, plan_workspace, preprocess

CONFIGURATION = "3d_fullres"
PEER_SCRIPT = Path(__file__).with_name("peer_training.py")


@dataclass(frozen=True)
class Row:
    """What was measured of one program.

    Attributes:
        seconds: of an iteration, data included.
        seconds_fixed_batch: of the same step on one batch.
        data_share: part of an iteration that goes into data.
        iterations, training_seconds, dice: of the whole training, if there was one.
    """

    program: str
    patch: tuple[int, ...]
    batch: int
    seconds: float
    seconds_fixed_batch: float
    data_share: float | None = None
    iterations: int | None = None
    training_seconds: float | None = None
    dice: float | None = None

    @property
    def above_floor(self) -> float:
        """An iteration as a multiple of the step on a fixed batch."""
        return self.seconds / self.seconds_fixed_batch


def own_rows(workspace: Workspace, options: argparse.Namespace) -> list[Row]:
    """medseg in its precision here, and in fp32."""
    configuration = workspace.plan.configuration(CONFIGURATION)
    configuration = dataclasses.replace(configuration, batch_size=options.batch or configuration.batch_size)
    device = choose_device(options.device)
    split = workspace.split(0)
    preprocess(workspace, configuration, cases=[*split.train, *split.validation])
    cases = open_cases(workspace, configuration, split.train, device=device)
    rows = []
    for precision in dict.fromkeys((choose_precision("auto", device), "fp32")):
        recipe = recipe_for_iterations(LONG_RUN_ITERATIONS, configuration.batch_size)
        run = Run(1, configuration.name, 0, 0, precision, recipe)
        trainer = Trainer(workspace.plan, configuration, cases, (), run, device)
        rows.append(timed(trainer, f"medseg {precision}", options.warmup, options.steps))
    if options.minutes:
        result = crossvalidation.train(
            workspace, CONFIGURATION, 0, budget_seconds=options.minutes * 60, device=options.device, restart=True
        )
        assert result is not None
        mean = foreground_mean(summarize(result.evaluation.table)).set_index("metric")["mean"]
        history = (result.folder / "progress.csv").read_text().splitlines()[-1].split(",")
        rows[0] = dataclasses.replace(
            rows[0], iterations=int(history[1]), training_seconds=float(history[2]), dice=float(mean["dice"])
        )
    return rows


def timed(trainer: Trainer, program: str, warmup: int, steps: int) -> Row:
    """Mean seconds of an iteration and of the step on a fixed batch, taken in turn so that both see one machine."""
    one = trainer.draw(0)
    seconds = {"iteration": 0.0, "fixed": 0.0}
    with freed_memory_kept():
        for iteration in range(warmup + steps):
            if iteration == warmup:
                seconds, trainer.drawing_seconds = {"iteration": 0.0, "fixed": 0.0}, 0.0
            start = time.perf_counter()
            float(trainer.step(iteration))
            middle = time.perf_counter()
            float(trainer.learn(*one, iteration))
            seconds["iteration"] += middle - start
            seconds["fixed"] += time.perf_counter() - middle
    return Row(
        program,
        trainer.configuration.patch_size,
        trainer.run.recipe.batch_size,
        seconds["iteration"] / steps,
        seconds["fixed"] / steps,
        trainer.drawing_seconds / seconds["iteration"],
    )


def peer_row(dataset: Dataset, folder: Path, options: argparse.Namespace) -> Row:
    """nnU-Net v2 in its own environment."""
    splits = () if options.splits is None else load_splits(options.splits)
    write_raw(dataset, folder / "raw" / "Dataset001_Benchmark", splits)
    arguments = ["--configuration", CONFIGURATION, "--steps", options.steps, "--warmup", options.warmup]
    for name in ("batch", "minutes", "threads"):
        if getattr(options, name) is not None:
            arguments += [f"--{name}", getattr(options, name)]
    command = [options.peer_python, PEER_SCRIPT, folder, "--device", options.device, *arguments]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return Row("nnU-Net v2", tuple(found.pop("patch")), found.pop("batch"), **found)


def table(rows: list[Row]) -> str:
    """The rows as a table for people."""
    lines = [
        "| program | patch | batch | s/iteration | s on a fixed batch | ratio | data | iterations | Dice |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = "" if row.data_share is None else f"{row.data_share:.1%}"
        course = (
            ("", "") if row.dice is None else (f"{row.iterations} in {row.training_seconds:.0f} s", f"{row.dice:.4f}")
        )
        cells = (
            row.program,
            "x".join(map(str, row.patch)),
            str(row.batch),
            f"{row.seconds:.3f}",
            f"{row.seconds_fixed_batch:.3f}",
            f"{row.above_floor:.2f}",
            share,
            *course,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="Training: medseg and nnU-Net v2, side by side.")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO if options.minutes else logging.WARNING, format="%(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    dataset = Dataset.open(options.dataset)
    context = tempfile.TemporaryDirectory() if options.folder is None else nullcontext(str(options.folder))
    with context as name:
        folder = Path(name)
        workspace = plan_workspace(dataset, folder / "workspace", splits_file=options.splits)
        rows = own_rows(workspace, options)
        print(table(rows), flush=True)
        if options.peer_python is not None:
            rows.append(peer_row(dataset, folder.resolve() / "peer", options))
            print("\n" + table(rows))
            print(f"\nmedseg takes {rows[0].seconds / rows[-1].seconds:.2f} of nnU-Net's time an iteration")
    if options.json is not None:
        text = [{**dataclasses.asdict(row), "above_floor": row.above_floor} for row in rows]
        options.json.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": text}, indent=1) + "\n")


if __name__ == "__main__":
    main()
