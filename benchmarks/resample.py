"""Seconds to resize images, labels and logits, beside skimage, and the memory that the labels of logits take.

    python -m benchmarks.resample [--json FILE]

The images are smooth noise, the logits 25 smooth classes; the table says which part of their cells lies at a boundary.
skimage takes one class after the other, always with one thread, and leaves all classes as float32 for the arg-max.
Times are medians of three runs, but of one where skimage takes long. The memory is what a process of its own reaches at
most, less what it held, logits included, before. The difference is the largest as a part of the range of the image, or
the part of the voxels whose labels differ. It takes some minutes. The last table compares the compiled pass with the
way that PyTorch takes without it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from skimage.transform import resize as skimage_resize

from medseg.resampling import onepass, resize, resize_argmax, resize_labels

Shape = tuple[int, int, int]
CLASSES, LOGITS, MASK = 25, (213, 213, 170), (320, 320, 256)
IMAGES: list[tuple[Shape, Shape, int]] = [((128, 128, 128), (160, 160, 140), 1), ((256, 256, 256), (320, 320, 280), 2)]


@dataclass(frozen=True)
class Row:
    """One comparison; memory in MiB where it was measured."""

    what: str
    threads: int
    seconds: float
    peer_seconds: float
    difference: float
    memory_mib: float | None = None
    peer_memory_mib: float | None = None

    @property
    def ratio(self) -> float:
        return self.peer_seconds / self.seconds


def smooth(shape: Shape, cells: int, seed: int) -> np.ndarray:
    """Float32 noise whose bumps are a few of ``cells`` along each axis."""
    coarse = np.random.default_rng(seed).normal(size=(1, cells, cells, cells)).astype(np.float32)
    return resize(coarse, shape, 3)[0]


def logits_of_classes() -> np.ndarray:
    """(CLASSES, Z, Y, X) float32 in which the first class is background."""
    logits = np.stack([smooth(LOGITS, 4, seed) for seed in range(CLASSES)])
    logits[0] += 1.0 * logits.std()
    return logits


def one_by_one(logits: np.ndarray) -> np.ndarray:
    full = np.empty((len(logits), *MASK), np.float32)
    for each, out in zip(logits, full, strict=True):
        out[:] = peer(each, MASK, 1)
    return torch.from_numpy(full).argmax(0).numpy()


def at_once(logits: np.ndarray) -> np.ndarray:
    return resize_argmax(torch.from_numpy(logits), MASK).numpy()


def masks_one_by_one(labels: np.ndarray, shape: Shape) -> np.ndarray:
    result = np.zeros(shape, labels.dtype)
    for label in np.unique(labels):
        result[peer((labels == label).astype(float), shape, 1) >= 0.5] = label
    return result


def peer(array: np.ndarray, shape: Shape, order: int) -> np.ndarray:
    return skimage_resize(array.astype(float), shape, order, mode="edge", anti_aliasing=False)


def timed(call: Callable[[], np.ndarray], runs: int = 3) -> tuple[float, np.ndarray]:
    """The median time of some calls in seconds, and what the last one gave."""
    seconds, result = [], np.empty(0)
    for _ in range(runs):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def labels_of_logits(way: str, threads: int, folder: str) -> tuple[float, float]:
    """The seconds of ``way`` and the MiB that it adds to this process; leaves its labels in ``folder``."""
    torch.set_num_threads(threads)
    logits = np.load(Path(folder) / "logits.npy")
    call, runs = (one_by_one, 1) if way == "skimage" else (at_once, 3)
    before = memory_mib("VmRSS")
    seconds, labels = timed(partial(call, logits), runs)
    np.save(Path(folder) / f"{way}.npy", labels)
    return seconds, memory_mib("VmHWM") - before


def memory_mib(field: str) -> float:
    """The memory that this process holds (VmRSS) or has held at most (VmHWM), on Linux."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) / 1024


def image_rows(old: Shape, new: Shape, most_threads: int) -> list[Row]:
    image = smooth(old, old[0] // 3, 0)
    rows = []
    for order in (3, 1, 0):
        peer_seconds, expected = timed(partial(peer, image, new, order), 3 if most_threads == 1 else 1)
        for threads in range(1, most_threads + 1):
            torch.set_num_threads(threads)
            seconds, found = timed(partial(resize, image[None], new, order))
            difference = float(np.abs(found[0] - expected).max() / np.ptp(image))
            rows.append(Row(f"order {order}, {arrow(old, new)}", threads, seconds, peer_seconds, difference))
    return rows


def label_rows() -> list[Row]:
    old, new, _ = IMAGES[0]
    labels = np.digitize(smooth(old, 8, 0), [0.3, 0.6, 0.9]).astype(np.uint8)
    torch.set_num_threads(1)
    peer_seconds, expected = timed(lambda: masks_one_by_one(labels, new))
    seconds, found = timed(lambda: resize_labels(labels, new))
    return [Row(f"4 labels, {arrow(old, new)}", 1, seconds, peer_seconds, float((found != expected).mean()))]


def argmax_rows(folder: str) -> list[Row]:
    logits = logits_of_classes()
    np.save(Path(folder) / "logits.npy", logits)
    winners = logits.argmax(0)
    boundary = (ndimage.minimum_filter(winners, 2) != ndimage.maximum_filter(winners, 2)).mean()
    name = f"{CLASSES} classes, {boundary:.1%} boundary, {arrow(LOGITS, MASK)}"
    del logits, winners
    rows = []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        peer_seconds, peer_memory = fresh.submit(labels_of_logits, "skimage", 1, folder).result()
        for threads in (1, 2):
            seconds, memory = fresh.submit(labels_of_logits, "medseg", threads, folder).result()
            found, expected = (np.load(Path(folder) / f"{way}.npy") for way in ("medseg", "skimage"))
            difference = float((found != expected).mean())
            rows.append(Row(name, threads, seconds, peer_seconds, difference, memory, peer_memory))
    return rows


def compiled_rows(runs: int = 3) -> list[Row]:
    """The compiled pass beside PyTorch's way, in turns; one thread, the least processor time of some runs."""
    torch.set_num_threads(1)
    old, new = (43, 213, 213), (64, 320, 320)
    generator = torch.Generator().manual_seed(0)

    def bumps(classes: int, *cells: int) -> torch.Tensor:
        coarse = 3 * torch.randn(1, classes, *cells, generator=generator)
        return torch.nn.functional.interpolate(coarse, old, mode="trilinear")[0].contiguous()

    cases: list[tuple[str, Callable[[], torch.Tensor]]] = [
        ("noise", lambda: torch.randn(CLASSES, *old, generator=generator)),
        ("small bumps", lambda: bumps(CLASSES, 4, 14, 14)),
        ("large bumps", lambda: bumps(CLASSES, 2, 5, 5)),
        ("slopes", lambda: bumps(CLASSES, 2, 2, 2)),
        ("large bumps", lambda: bumps(2, 2, 5, 5)),
        ("smooth", lambda: torch.from_numpy(logits_of_classes())),
    ]
    compiled = onepass.decide
    if compiled is None:
        raise SystemExit("the package was built without a C compiler; install one and medseg again")
    rows = []
    for kind, make in cases:
        logits = make()
        shape = MASK if tuple(logits.shape[1:]) == LOGITS else new
        seconds: dict[bool, float] = {}
        labels: dict[bool, torch.Tensor] = {}
        for _ in range(runs):
            for one_pass in (False, True):
                onepass.decide = compiled if one_pass else None
                start = time.thread_time()
                labels[one_pass] = resize_argmax(logits, shape)
                seconds[one_pass] = min(seconds.get(one_pass, float("inf")), time.thread_time() - start)
        winners = logits.numpy().argmax(0)
        boundary = (ndimage.minimum_filter(winners, 2) != ndimage.maximum_filter(winners, 2)).mean()
        difference = float((labels[True] != labels[False]).double().mean())
        name = f"{len(logits)} classes, {kind}, {boundary:.1%} boundary, {arrow(tuple(winners.shape), shape)}"
        rows.append(Row(name, 1, seconds[True], seconds[False], difference))
    onepass.decide = compiled
    return rows


def arrow(old: Shape, new: Shape) -> str:
    return " to ".join("x".join(map(str, shape)) for shape in (old, new))


def table(rows: list[Row], peer_name: str = "skimage") -> Table:
    result = Table("what", "threads", "seconds", peer_name, "times faster", "difference", "MiB", f"{peer_name} MiB")
    for row in rows:
        memory = [f"{mib:.0f}" if mib is not None else "" for mib in (row.memory_mib, row.peer_memory_mib)]
        times = f"{row.seconds:.3f}", f"{row.peer_seconds:.3f}", f"{row.ratio:.1f}"
        result.add_row(row.what, str(row.threads), *times, f"{row.difference:.0e}", *memory)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    console = Console(width=130)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for measure in (*(partial(image_rows, *image) for image in IMAGES), label_rows, partial(argmax_rows, folder)):
            new = measure()
            console.print(table(new))
            rows += new
    new = compiled_rows()
    console.print(table(new, "torch"))
    rows += new
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) | {"ratio": row.ratio} for row in rows], indent=1))


if __name__ == "__main__":
    main()
