"""What medseg and nnU-Net v2 make of the same minutes on the same cores: Dice and surface Dice on held-out cases.

    python -m benchmarks.ladder --peer-python PY --folder DIR --results FILE [--minutes 10] [--seed 0] [--old]
                                [--datasets hippocampus,...] [--programs medseg,nnunet,nnunet-kind] [--show]

Each program trains fold 0 of the same splits and predicts all held-out cases, and the same code measures them: the
mean over cases of each label, then over labels; surfaces may lie 1 mm apart (in pictures one pixel).

- ``medseg``: ``medseg plan``, ``medseg train --fold 0 --budget``, then ``medseg predict``, as a user would.
- ``nnunet``: nnU-Net's trainer as shipped, stopped at the time limit.
- ``nnunet-kind``: its trainer with Adam, batch 2 in 3D and about 2 x 256 x 256 pixels in 2D, the learning rate falling
  to zero at the time limit.

Of nnU-Net only training counts, not planning, preparing, starting or predicting. Its held-out cases are predicted with
mirroring, as it does by itself, unless this would take more than ``--prediction-minutes``; tables say so.

A part (dataset, program, seed, minutes, processor) that is done is in the results file and not run again. ``--old``
keeps oneDNN from AVX-512 and bf16, as on an older processor. PY is the Python of an environment with nnunetv2, best
with the same torch. The data are those of ``../shared``, or of ``--shared``. ``--show`` prints the tables and runs
nothing.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import medseg
from benchmarks.ladder_table import OWN, PROGRAMS, Part, load_parts, save_part, tables
from benchmarks.nnunet_raw import is_pictures, read_back, write_raw
from medseg import io
from medseg.dataset import CaseRef, Dataset
from medseg.evaluation import Pair, Pairing, evaluate_pairs, foreground_mean, summarize
from medseg.splits import Split, load_splits, make_splits, save_splits

ROOT = Path(__file__).resolve().parents[1]
PEER_SCRIPT = Path(__file__).with_name("peer_ladder.py")


@dataclass(frozen=True)
class Row:
    """A dataset: its manifest, the folder of its files and a file of splits, both below the shared folder."""

    manifest: str
    folder: str
    splits: str | None = None


ROWS = {
    "hippocampus": Row("hippocampus_dev", "data/hippocampus", "hippocampus_splits.json"),
    "openkbp": Row("openkbp_ct_oar", "data/openkbp_ct_oar"),
    "sts": Row("sts_mr_ct", "data/sts_mr_ct"),
    "cord": Row("spinal_cord_two_volunteers", "data"),
    "nuclei": Row("dsb2018_nuclei", "data/dsb2018_nuclei"),
    "cells": Row("wbc_cells", "data/wbc_cells"),
    "retina": Row("retina_vessels", "data/retina_vessels"),
}


@dataclass(frozen=True)
class Task:
    """One part to be measured.

    Attributes:
        home: folder of the dataset, which its parts share.
        folder: of this part.
    """

    name: str
    row: Row
    program: str
    dataset: Dataset
    splits: tuple[Split, ...]
    home: Path
    folder: Path
    options: argparse.Namespace

    @property
    def held_out(self) -> list[CaseRef]:
        """The cases to be measured."""
        names = set(self.splits[0].validation)
        return [case for case in self.dataset.cases if case.name in names]

    def run(self, command: list[object], *, own: bool) -> float:
        """Run a program with its output in ``log.txt``; seconds that it took."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.options.threads)}
        environment |= {"PYTHONPATH": str(ROOT)} if own else {}
        environment |= {"ONEDNN_MAX_CPU_ISA": "AVX2"} if self.options.old else {}
        began = time.perf_counter()
        with open(self.folder / "log.txt", "a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n")
            log.flush()
            subprocess.run(list(map(str, command)), stdout=log, stderr=log, env=environment, check=True)
        return time.perf_counter() - began


@dataclass(frozen=True)
class Trained:
    """What a program says of itself, and where its masks of the held-out cases lie."""

    version: str
    torch: str
    iterations: int
    batch: int
    patch: tuple[int, ...]
    seconds: dict[str, float]
    mirroring: bool | None
    masks: Path


def main() -> None:
    """Measure what is missing, then print the tables; the exit code is 1 where a part failed."""
    options = _options()
    failed = []
    if not options.show:
        for name in options.datasets:
            failed += _measure_dataset(name, options)
    print(tables(load_parts(options.results), list(ROWS)))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _measure_dataset(name: str, options: argparse.Namespace) -> list[str]:
    """Measure the parts of a dataset that are not recorded; names of those that failed."""
    done = {part.key for part in load_parts(options.results)}
    keys = {program: (name, program, options.seed, options.old, options.minutes, processor()) for program in PROGRAMS}
    missing = [program for program in options.programs if keys[program] not in done]
    if not missing:
        return []
    row, home = ROWS[name], options.folder / name
    dataset = Dataset.open(ROOT / "data_manifests" / f"{row.manifest}.yaml", root=options.shared / row.folder)
    splits = splits_of(dataset, None if row.splits is None else options.shared / row.splits)
    home.mkdir(parents=True, exist_ok=True)
    save_splits(splits, home / "splits.json")
    failed = []
    for program in missing:
        folder = home / f"{program}_seed{options.seed}{'_old' if options.old else ''}_{options.minutes:g}min"
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted part has left
        folder.mkdir()
        task = Task(name, row, program, dataset, splits, home, folder, options)
        print(f"{name} {program} seed {options.seed}: {time.strftime('%H:%M:%S')}", flush=True)
        try:
            trained = train_own(task) if program == OWN else train_peer(task)
            part = measured(task, trained)
        except (subprocess.CalledProcessError, RuntimeError) as error:
            print(f"{name} {program}: {error}; see {folder / 'log.txt'}", file=sys.stderr, flush=True)
            failed.append(f"{name} {program}")
            continue
        save_part(options.results, part)
        spent = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in part.seconds.items())
        print(
            f"  Dice {part.mean_dice:.3f}, surface Dice {part.mean_surface_dice:.3f}, {part.cases} cases,"
            f" {part.iterations} iterations of batch {part.batch}; {spent}",
            flush=True,
        )
    return failed


def splits_of(dataset: Dataset, file: Path | None) -> tuple[Split, ...]:
    """The folds in the file, or those that ``medseg plan`` makes."""
    if file is not None:
        return load_splits(file)
    groups = {case.name: case.group for case in dataset.cases if case.group is not None}
    return make_splits([case.name for case in dataset.cases], groups)


def train_own(task: Task) -> Trained:
    """``medseg plan``, ``train`` and ``predict``."""
    workspace, masks, options = task.folder / "workspace", task.folder / "masks", task.options
    command = [sys.executable, "-m", "medseg"]
    manifest = ROOT / "data_manifests" / f"{task.row.manifest}.yaml"
    precision = ["--precision", "fp32"] if options.old else []
    data = ["--root", options.shared / task.row.folder, "--splits", task.home / "splits.json"]
    seconds = {"planning": task.run([*command, "plan", manifest, "-w", workspace, *data], own=True)}
    length = ["--fold", "0", "--budget", f"{options.minutes * 60:g}s", "--seed", options.seed]
    seconds["training"] = task.run([*command, "train", "-w", workspace, *length, *precision], own=True)
    scans = _link_scans(task)
    seconds["prediction"] = task.run(
        [*command, "predict", scans, "-o", masks, "-w", workspace, "--fold", "0", *precision], own=True
    )
    (fold,) = workspace.glob("models/*/fold_0")
    with open(fold / "progress.csv") as file:
        *_, last = csv.DictReader(file)
    run = json.loads((fold / "run.json").read_text())
    configuration = medseg.Plan.load(workspace / "plan.json").configuration(fold.parent.name)
    return Trained(
        version=f"medseg {medseg.__version__}",
        torch=importlib.metadata.version("torch"),
        iterations=int(last["iteration"]),
        batch=run["recipe"]["batch_size"],
        patch=configuration.patch_size,
        seconds=seconds,
        mirroring=None,
        masks=masks,
    )


def train_peer(task: Task) -> Trained:
    """nnU-Net in its own environment; what it has prepared serves all parts of the dataset."""
    options, peer, answer = task.options, task.home / "peer", task.folder / "answer.json"
    write_raw(task.dataset, peer / "raw" / "Dataset001_Benchmark", task.splits)
    arguments: list[object] = ["--minutes", options.minutes, "--threads", options.threads, "--seed", options.seed]
    arguments += ["--configuration", "2d" if is_pictures(task.dataset) else "3d_fullres"]
    arguments += ["--prediction-minutes", options.prediction_minutes]
    arguments += ["--kind"] if task.program == "nnunet-kind" else []
    task.run([options.peer_python, PEER_SCRIPT, peer, task.folder / "results", answer, *arguments], own=False)
    said = json.loads(answer.read_text())
    masks = read_back(task.dataset, Path(said.pop("masks")), task.folder / "masks")
    return Trained(**{**said, "patch": tuple(said["patch"])}, masks=masks)


def measured(task: Task, trained: Trained) -> Part:
    """The held-out masks against their references.

    Raises:
        RuntimeError: a held-out case has no mask, or cannot be compared.
    """
    pairs = {}
    for case in task.held_out:
        assert case.label is not None
        ending = ".png" if is_pictures(task.dataset) else io.mask_ending(case.images[0])
        pairs[case.name] = Pair(trained.masks / f"{case.name}{ending}", case.label)
    evaluation = evaluate_pairs(Pairing(pairs, {}, ()), task.dataset.labels, tolerance_mm=1.0)
    if evaluation.failures:
        case, reason = next(iter(evaluation.failures.items()))
        raise RuntimeError(f"{len(evaluation.failures)} of {len(pairs)} cases failed: {case}: {reason}")
    summary = summarize(evaluation.table)
    by_label = summary.pivot(index="label", columns="metric", values="mean")
    means = foreground_mean(summary).set_index("metric")["mean"]
    options = task.options
    return Part(
        dataset=task.name,
        program=task.program,
        seed=options.seed,
        old=options.old,
        minutes=options.minutes,
        processor=processor(),
        version=trained.version,
        torch=trained.torch,
        threads=options.threads,
        training_cases=len(task.splits[0].train),
        cases=len(pairs),
        iterations=trained.iterations,
        batch=trained.batch,
        patch=trained.patch,
        seconds={what: round(seconds, 1) for what, seconds in trained.seconds.items()},
        mirroring=trained.mirroring,
        dice=_defined(by_label["dice"].to_dict()),
        surface_dice=_defined(by_label["surface_dice"].to_dict()),
        mean_dice=float(means["dice"]),
        mean_surface_dice=float(means["surface_dice"]),
    )


def processor() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    if "model name" not in named:
        return platform.processor() or platform.machine()
    # Virtual machines hide the name; family and model tell generations apart.
    return f"{named['model name']} (family {named.get('cpu family')}, model {named.get('model')})"


def _link_scans(task: Task) -> Path:
    """A folder with links to the scans of the held-out cases, for ``medseg predict``."""
    folder = task.folder / "scans"
    folder.mkdir()
    for case in task.held_out:
        for index, image in enumerate(case.images):
            channel = f"_{index:04d}" if len(case.images) > 1 else ""
            (folder / f"{case.name}{channel}{io.ending_of(image)}").symlink_to(image.resolve())
    return folder


def _defined(values: dict[str, float]) -> dict[str, float | None]:
    return {str(name): None if math.isnan(value) else float(value) for name, value in values.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="medseg and nnU-Net v2 trained for the same minutes.")
    parser.add_argument("--peer-python", type=Path, help="Python of an environment with nnunetv2")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--datasets", default=",".join(ROWS))
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--old", action="store_true", help="no AVX-512 and no bf16")
    parser.add_argument("--prediction-minutes", type=float, default=15, help="longest prediction with mirroring")
    parser.add_argument("--folder", type=Path, help="for what the programs make")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "ladder.json")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of the data")
    parser.add_argument("--show", action="store_true", help="print the tables and run nothing")
    options = parser.parse_args()
    options.datasets, options.programs = options.datasets.split(","), options.programs.split(",")
    for names, known in ((options.datasets, ROWS), (options.programs, PROGRAMS)):
        if unknown := set(names) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
    if not options.show:
        if options.folder is None:
            parser.error("--folder DIR is needed: what the programs make lies there")
        if options.peer_python is None and set(options.programs) != {OWN}:
            parser.error("--peer-python PY is needed for nnU-Net; or choose --programs medseg")
        options.folder, options.shared = options.folder.resolve(), options.shared.resolve()
    return options


if __name__ == "__main__":
    main()
