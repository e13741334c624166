"""One training run, killed again and again, against the same run left alone.

    python -m benchmarks.kills [--kills 20] [--iterations 400] [--interval 2] [--seed 0] [--folder DIR]

Both runs are processes that train fold 0 on small phantoms on the CPU, with checkpoints every ``interval`` seconds. One
gets SIGKILL at random moments, from its start (imports, reading the checkpoint) to its end, and is started again each
time. Shown are the moments, how many iterations and seconds of work each kill cost, and whether the final weights are
the same bit for bit. The exit code is 1 if they are not.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from medseg.crossvalidation import train
from medseg.dataset import Dataset
from medseg.model import WEIGHTS_FILE, fold_folder
from medseg.phantoms import PhantomKind, write_dataset
from medseg.training import loop
from medseg.workspace import Workspace, plan_workspace, preprocess

SMALL = PhantomKind(extent_mm=(64.0, 80.0, 92.0), finest_mm=(6.0, 5.0, 5.0), coarsest_mm=(7.0, 6.0, 6.0))


@dataclass(frozen=True)
class Life:
    """One process of a run: when it was started and ended, and when it had done which iteration.

    Attributes:
        steps: (iterations done, moment), the first as it was found in the checkpoint; empty if it did not come so far.
    """

    started: float
    ended: float
    killed: bool
    steps: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Moment:
    """When to kill: seconds after the process was started, or after it was found to train."""

    seconds: float
    in_training: bool


@dataclass(frozen=True)
class Loss:
    """What a kill cost: work done since the checkpoint that the next life went on from."""

    after_seconds: float
    iteration: int
    iterations_repeated: int
    seconds_repeated: float


def worker(workspace: Path, iterations: int, interval: float, trace: Path) -> None:
    """Train fold 0, writing down when which iteration was done."""
    loop.CHECKPOINT_SECONDS = interval  # in a run of minutes, not hours
    with open(trace, "a", buffering=1) as lines:

        def note(done: int, _total: int, what: str) -> None:
            if what.startswith("training"):
                lines.write(f"{done} {time.monotonic()}\n")

        train(workspace, iterations=iterations, device="cpu", precision="fp32", progress=note)


def live(workspace: Path, options: argparse.Namespace, trace: Path, moment: Moment | None) -> Life:
    """Start the run, and kill it at a moment if it has not ended by then."""
    trace.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.kills", "--worker", workspace, "--trace", trace]
    command += ["--iterations", options.iterations, "--interval", options.interval]
    started = time.monotonic()
    process = subprocess.Popen(list(map(str, command)))
    while moment is not None and moment.in_training and process.poll() is None and not trace.exists():
        time.sleep(0.05)
    try:
        code = process.wait(None if moment is None else moment.seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    ended, killed = time.monotonic(), code == -signal.SIGKILL
    if code and not killed:
        raise SystemExit(f"the run ended with exit code {code}")
    written = trace.read_text().splitlines() if trace.exists() else []
    whole = [line.split() for line in written if line.count(" ") == 1]
    return Life(started, ended, killed, tuple((int(done), float(moment)) for done, moment in whole))


def losses(lives: list[Life]) -> list[Loss]:
    """What each kill cost. A life that was killed before it had read the checkpoint cost nothing but its start."""
    found = []
    for index, life in enumerate(lives[:-1]):
        went_on_from = next((later.steps[0][0] for later in lives[index + 1 :] if later.steps), None)
        moments = dict(life.steps)
        last = max(moments, default=0)
        repeated, seconds = 0, 0.0
        if went_on_from in moments:
            repeated, seconds = last - went_on_from, life.ended - moments[went_on_from]
        found.append(Loss(life.ended - life.started, last, repeated, seconds))
    return found


def moments(options: argparse.Namespace, start_up: float, training: float) -> list[Moment]:
    """Every fifth kill comes before training has begun again; the others find it anywhere.

    On average a life does its part of the run, after what the life before had lost.
    """
    chance = random.Random(options.seed)
    mean = training / options.kills + options.interval / 2
    return [
        Moment(chance.uniform(0, start_up), False) if number % 5 == 4 else Moment(chance.uniform(0, 2 * mean), True)
        for number in range(options.kills)
    ]


def prepared_workspace(folder: Path) -> Workspace:
    """A workspace of phantoms with everything prepared."""
    data = write_dataset(folder / "dataset", training=8, test=0, seed=0, kind=SMALL)
    workspace = plan_workspace(Dataset.open(data), folder / "workspace")
    preprocess(workspace, workspace.plan.configuration())
    return workspace


def weights_of(workspace: Workspace) -> Path:
    """Where the weights of fold 0 lie."""
    return fold_folder(workspace.model_folder(workspace.plan.configuration().name), 0) / WEIGHTS_FILE


def digest_of_tensors(path: Path) -> str:
    """Of a file of weights without its header, which says how long the training took."""
    content = path.read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def compare(options: argparse.Namespace, folder: Path) -> bool:
    """Do both runs and print what happened; whether the weights are the same."""
    workspace = prepared_workspace(folder)
    trace = folder / "trace.txt"
    whole = live(workspace.root, options, trace, None)
    expected = digest_of_tensors(weights_of(workspace))
    start_up = whole.steps[0][1] - whole.started
    training = whole.steps[-1][1] - whole.steps[0][1]
    print(f"left alone: {options.iterations} iterations in {training:.1f} s, {start_up:.1f} s from start to first step")
    shutil.rmtree(weights_of(workspace).parent)
    lives: list[Life] = []
    for moment in moments(options, start_up, training):
        lives.append(live(workspace.root, options, trace, moment))
        if not lives[-1].killed:
            break
    if not lives or lives[-1].killed:
        lives.append(live(workspace.root, options, trace, None))
    cost = losses(lives)
    print("| kill | after s | at iteration | iterations repeated | seconds repeated |\n|---|---|---|---|---|")
    for number, loss in enumerate(cost, 1):
        cells = (loss.iteration or "before the first", loss.iterations_repeated, f"{loss.seconds_repeated:.2f}")
        print(f"| {number} | {loss.after_seconds:.1f} | {' | '.join(map(str, cells))} |")
    same = digest_of_tensors(weights_of(workspace)) == expected
    most = max((loss.seconds_repeated for loss in cost), default=0.0)
    print(f"{len(cost)} kills; at most {most:.2f} s repeated with a checkpoint every {options.interval:g} s;", end=" ")
    print("final weights bit-identical" if same else "FINAL WEIGHTS DIFFER")
    return same


def main() -> None:
    """Compare, or be one of the processes."""
    parser = argparse.ArgumentParser(description="A killed run ends as an unbroken one does.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--interval", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.worker, options.iterations, options.interval, options.trace)
        return
    context = tempfile.TemporaryDirectory() if options.folder is None else nullcontext(str(options.folder))
    with context as name:
        raise SystemExit(0 if compare(options, Path(name)) else 1)


if __name__ == "__main__":
    main()
