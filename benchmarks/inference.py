"""Prediction beside nnU-Net: the same model and scans, in turns; time, processor time and memory.

    python -m benchmarks.inference --peer-python PY --model NNUNET_MODEL --scans FOLDER [--rounds 3] [--json FILE]

PY is the python of an environment with nnunetv2. Three tables:

1. A folder of small scans with both programs' own commands, mirroring on: whole commands, start included. Memory is
   that of the largest process, and the sum over all processes of the command (shared pages counted once).
2. A synthetic scan of 320x320x256 voxels at 1 mm, a plan at 1.5 mm, 25 classes, a network of 4/8/16/32 features with
   random weights; in one process each. Without the peer too: as many slices again, and again.
3. The same scans with ``--max-ram``: what was allowed and what was reached.

``--part many|large|limits`` runs one of them. What is random is seeded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from medseg import documents, io, networks
from medseg.architecture import NetworkSpec
from medseg.fingerprinting import IntensityStatistics
from medseg.interop.nnunet.export import export_model
from medseg.labels import LabelSet
from medseg.model import MODEL_FILE, WEIGHTS_FILE, FoldFacts, ModelDocument, fold_folder, save_tensors
from medseg.planning.plan import Configuration, Normalization, Plan
from medseg.resampling import resize
from medseg.volume import Geometry, Volume

SLICES, IN_PLANE, CLASSES = (256, 512, 1024), 320, 25
WORKER = Path(__file__).with_name("inference_worker.py")
PARTS = ("many", "large", "limits")


@dataclass(frozen=True)
class Command:
    """What a command took."""

    seconds: float
    cpu_seconds: float
    largest_mib: float
    together_mib: float


def run(words: Sequence[object]) -> Command:
    """Run a command and watch it and its children, twenty times a second."""
    began = time.perf_counter()
    process = psutil.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    largest = together = 0.0
    cpu: dict[int, float] = {}
    complaint: list[bytes] = []
    reader = threading.Thread(target=lambda: complaint.append(process.stderr.read()))
    reader.start()
    while process.poll() is None:
        sizes = []
        for each in _family(process):
            try:
                sizes.append((each.memory_info().rss, each.memory_full_info().pss))
                times = each.cpu_times()
            except psutil.Error:
                continue
            cpu[each.pid] = times.user + times.system
        if sizes:
            largest = max(largest, *(rss for rss, _ in sizes))
            together = max(together, sum(pss for _, pss in sizes))
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    reader.join()
    if process.returncode:
        raise SystemExit(f"{words}: {complaint[0].decode()[-2000:]}")
    return Command(seconds, sum(cpu.values()), largest / 2**20, together / 2**20)


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def many(peer: Path, model: Path, scans: Path, device: str, rounds: int, folder: Path) -> dict[str, object]:
    """Both programs' commands on a folder of scans, one after the other, ``rounds`` times."""
    ours, theirs = [], []
    for _ in range(rounds):
        for out in ("ours", "theirs"):
            shutil.rmtree(folder / out, ignore_errors=True)
        command = (sys.executable, "-m", "medseg", "predict", scans, "-o", folder / "ours", "-m", model)
        ours.append(run((*command, "--device", device)))
        command = (peer.with_name("nnUNetv2_predict_from_modelfolder"), "-i", scans, "-o", folder / "theirs")
        theirs.append(run((*command, "-m", model, "-f", "0", "-device", device)))
    same = []
    for path in sorted((folder / "theirs").glob("*.nii.gz")):
        mine, its = (io.read_labels(folder / out / path.name).array for out in ("ours", "theirs"))
        same.append(float((mine == its).mean()))
    medians = [
        {field: statistics.median(asdict(run)[field] for run in runs) for field in asdict(runs[0])}
        for runs in (ours, theirs)
    ]
    return {"scans": len(same), "worst_agreement": min(same), "medseg": medians[0], "nnunet": medians[1]}


def worker(python: str | Path, program: str, *words: object) -> dict[str, float]:
    command = [python, WORKER, program, *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{program}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def large(peer: Path, device: str, rounds: int, folder: Path) -> dict[str, object]:
    """The synthetic scan with both; medseg alone with more slices."""
    model = write_models(folder)
    rows: dict[str, object] = {}
    ours, theirs = [], []
    scan = write_scan(folder, SLICES[0])
    for _ in range(rounds):
        ours.append(worker(sys.executable, "medseg", model / "ours", scan, folder / "ours.nii.gz", "--device", device))
        theirs.append(worker(peer, "nnunet", model / "theirs", scan, folder / "theirs.nii.gz", "--device", device))
    for name, runs in (("medseg", ours), ("nnunet", theirs)):
        rows[name] = {field: statistics.median(each[field] for each in runs) for field in runs[0]}
    mine, its = (io.read_labels(folder / f"{out}.nii.gz").array for out in ("ours", "theirs"))
    rows["agreement"] = float((mine == its).mean())
    longer = {}
    for slices in SLICES:
        scan = write_scan(folder, slices)
        longer[slices] = worker(
            sys.executable, "medseg", model / "ours", scan, folder / "longer.nii.gz", "--device", device
        )
    rows["slices"] = longer
    return rows


def limits(folder: Path) -> list[dict[str, float]]:
    """Each scan with as little memory as medseg says it needs, and with 1.5 times that."""
    from medseg.errors import MemoryNeedError
    from medseg.prediction import Job, PredictionSettings, estimate_cases, load_predictor
    from medseg.prediction.outputs import NO_WISHES

    model = write_models(folder) / "ours"
    rows = []
    for slices in SLICES:
        scan = write_scan(folder, slices)
        settings = PredictionSettings(mirror=False, max_ram_bytes=1)
        least = 0.0
        try:
            estimate_cases(
                load_predictor(model, None, "cpu", "auto", settings), [Job("scan", (scan,), scan)], NO_WISHES
            )
        except MemoryNeedError as error:
            least = float(str(error).rpartition("--max-ram ")[2].split("GB")[0]) * 1e9
        voxels = slices * IN_PLANE**2
        plain = voxels * (4 + 4 * CLASSES + 1)  # the scan, float32 logits of all classes on its grid, the mask
        for allowed in (least, 1.5 * least):
            done = worker(
                sys.executable, "medseg", model, scan, folder / "limited.nii.gz", "--max-ram-bytes", int(allowed)
            )
            rows.append(
                {
                    "slices": slices,
                    "allowed_mib": allowed / 2**20,
                    "peak_mib": done["peak_mib"],
                    "plain_mib": plain / 2**20,
                    "seconds": done["seconds"],
                }
            )
    return rows


def write_models(folder: Path) -> Path:
    """The same random network as a model of medseg and as one of nnU-Net."""
    root = folder / "models"
    if root.exists():
        return root
    labels = LabelSet({f"organ {value}": (value,) for value in range(1, CLASSES)})
    statistics_ = IntensityStatistics(40.0, 40.0, 60.0, -1000.0, 1000.0, -100.0, 200.0)
    configuration = Configuration(
        name="3d_fullres",
        spacing_mm=(1.5, 1.5, 1.5),
        median_shape=(171.0, 213.0, 213.0),
        patch_size=(96, 96, 96),
        batch_size=2,
        batch_dice=False,
        normalization=(Normalization("ct"),),
        network=NetworkSpec(
            family="plain_unet",
            features=(4, 8, 16, 32),
            kernel_sizes=((3, 3, 3),) * 4,
            strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
            encoder_blocks=(2,) * 4,
            decoder_blocks=(2,) * 3,
        ),
    )
    plan = Plan(
        version=1,
        dataset_name="synthetic",
        preset="default",
        memory_gb=8.0,
        orientation="stored",
        axis_order=(0, 1, 2),
        median_spacing_mm=(1.0, 1.0, 1.0),
        median_shape=(256.0, 320.0, 320.0),
        channels=("CT",),
        labels=labels,
        intensities=(statistics_,),
        configurations=(configuration,),
    )
    network = networks.build(configuration.network, 1, CLASSES, generator=torch.Generator().manual_seed(0))
    documents.save(ModelDocument(1, plan, configuration.name), root / "ours" / MODEL_FILE)
    facts = {"fold": documents.to_json(FoldFacts((), "fp32", 1, 1.0, 0))}
    save_tensors(fold_folder(root / "ours", 0) / WEIGHTS_FILE, network.state_dict(), facts)
    export_model(root / "ours", root / "theirs")
    return root


def write_scan(folder: Path, slices: int) -> Path:
    """Smooth noise with the values of a CT, and some grain."""
    path = folder / f"scan_{slices}_0000.nii.gz"
    if not path.exists():
        random = np.random.default_rng(0)
        shape = (slices, IN_PLANE, IN_PLANE)
        coarse = random.normal(0, 120, (1, slices // 16, 20, 20)).astype(np.float32)
        array = resize(coarse, shape, 3)
        for plane in array[0]:
            plane += random.normal(40, 10, plane.shape)
        io.write(Volume(array, Geometry.from_spacing(shape, (1.0, 1.0, 1.0))), path)
    return path


def show(results: dict[str, object], console: Console) -> None:
    if "many" in results:
        found = results["many"]
        table = Table(
            "", "seconds", "CPU seconds", "largest process MiB", "all processes MiB", title=f"{found['scans']} scans"
        )
        for name in ("medseg", "nnunet"):
            table.add_row(name, *(f"{value:.1f}" for value in found[name].values()))
        ratios = [found["nnunet"][field] / found["medseg"][field] for field in found["medseg"]]
        table.add_row("ratio", *(f"{ratio:.1f}" for ratio in ratios))
        console.print(table, f"voxels that agree, worst scan: {found['worst_agreement']:.6f}")
    if "large" in results:
        found = results["large"]
        table = Table("", *found["medseg"], title=f"{IN_PLANE}x{IN_PLANE}x{SLICES[0]}, {CLASSES} classes")
        for name in ("medseg", "nnunet"):
            table.add_row(name, *(f"{value:.1f}" for value in found[name].values()))
        ratios = [found["nnunet"][f] / max(found["medseg"][f], 1e-9) for f in found["medseg"]]
        table.add_row("ratio", *(f"{ratio:.1f}" for ratio in ratios))
        console.print(table, f"voxels that agree: {found['agreement']:.6f}")
        table = Table("slices", "seconds", "peak MiB", "scan and mask MiB", "peak without them MiB", "beside start MiB")
        for slices, each in found["slices"].items():
            arrays = int(slices) * IN_PLANE**2 * 5 / 2**20
            work = each["peak_mib"] - arrays
            numbers = (each["seconds"], each["peak_mib"], arrays, work, work - each["start_mib"])
            table.add_row(str(slices), *(f"{number:.1f}" for number in numbers))
        console.print(table)
    if "limits" in results:
        table = Table(
            "slices", "allowed MiB", "peak MiB", "peak / allowed", "plain way MiB", "plain / allowed", "seconds"
        )
        for row in results["limits"]:
            table.add_row(
                str(row["slices"]),
                f"{row['allowed_mib']:.0f}",
                f"{row['peak_mib']:.0f}",
                f"{row['peak_mib'] / row['allowed_mib']:.2f}",
                f"{row['plain_mib']:.0f}",
                f"{row['plain_mib'] / row['allowed_mib']:.1f}",
                f"{row['seconds']:.1f}",
            )
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="python of an environment with nnunetv2")
    parser.add_argument("--model", type=Path, help="nnU-Net's trained-model folder for the small scans")
    parser.add_argument("--scans", type=Path, help="folder of CASE_0000.nii.gz")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    parts = options.part or PARTS
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "many" in parts:
            results["many"] = many(
                options.peer_python, options.model, options.scans, options.device, options.rounds, Path(folder)
            )
        if "large" in parts:
            results["large"] = large(options.peer_python, options.device, options.rounds, Path(folder))
        if "limits" in parts:
            results["limits"] = limits(Path(folder))
    show(results, Console(width=150))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
