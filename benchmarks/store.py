"""How prepared cases could lie on disk: medseg's blocks, blosc2's and zarr's own files, and a plain array.

    python -m benchmarks.store [--quick]

Needs zarr beside what medseg needs. The scan is made up and of the hard kind: noise in every voxel, values off the
integers. "Cold" drops the file from the page cache first (Linux). "Stall" is how long another Python thread, such as
the one that feeds a GPU, is kept waiting during a read: the longest wait in it. Times are medians over reads of the
best of three tries.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import zarr
from scipy import ndimage
from zarr.codecs import BloscCodec, Crc32cCodec

from medseg import blocks
from medseg.volume import Box

PATCH = (128, 128, 128)
SMALL = (36, 50, 35)
TRIES = 3
Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Candidate:
    """A way to store a (1, Z, Y, X) float32 array: ``write`` it, then ``read`` parts of it by path."""

    name: str
    module: str
    write: Callable[[Path, np.ndarray], None]
    read: Callable[[Path, Slices], np.ndarray]


def blocks_candidate() -> Candidate:
    """medseg.blocks."""
    records: dict[Path, blocks.ArrayRecord] = {}

    def write(path: Path, array: np.ndarray) -> None:
        z, y, x = array.shape[1:]
        records[path] = blocks.write_array(path, array, "float32", (1, *blocks.block_shape((z, y, x), PATCH)))

    def read(path: Path, where: Slices) -> np.ndarray:
        array = blocks.StoredArray(path, records[path], "")
        return array.read([part.start for part in where], [part.stop - part.start for part in where])

    return Candidate("medseg blocks, lz4, crc32", "medseg.blocks, blosc2", write, read)


def blosc2_candidate(codec: blosc2.Codec, level: int) -> Candidate:
    """An NDArray file of blosc2, chunks of 64 and blocks of 32 voxels."""

    def write(path: Path, array: np.ndarray) -> None:
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(path),
            mode="w",
            chunks=tuple(min(a, b) for a, b in zip((1, 64, 64, 64), array.shape, strict=True)),
            blocks=tuple(min(a, b) for a, b in zip((1, 32, 32, 32), array.shape, strict=True)),
            cparams=blosc2.CParams(codec=codec, clevel=level, filters=[blosc2.Filter.SHUFFLE], nthreads=1),
        )

    def read(path: Path, where: Slices) -> np.ndarray:
        return blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))[where]

    return Candidate(f"blosc2 file, {codec.name.lower()}", "blosc2", write, read)


def zarr_candidate(name: str, chunk: int, shard: int | None) -> Candidate:
    """A zarr 3 array with a checksum a chunk, one file a chunk or a shard."""

    def write(path: Path, array: np.ndarray) -> None:
        zarr.create_array(
            str(path),
            data=array,
            chunks=(1, chunk, chunk, chunk),
            shards=None if shard is None else (1, shard, shard, shard),
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        )

    def read(path: Path, where: Slices) -> np.ndarray:
        return np.asarray(zarr.open_array(str(path), mode="r")[where])

    return Candidate(name, "zarr", write, read)


def plain_candidate() -> Candidate:
    """An uncompressed .npy file, mapped into memory."""

    def write(path: Path, array: np.ndarray) -> None:
        with open(path, "wb") as file:
            np.save(file, array)

    return Candidate(
        "plain .npy, mapped", "numpy", write, lambda path, where: np.array(np.load(path, mmap_mode="r")[where])
    )


def made_up_scan(shape: tuple[int, int, int], generator: np.random.Generator) -> np.ndarray:
    """A body in air with texture and noise, interpolated and normalised, (1, Z, Y, X) float32."""
    coarse = generator.standard_normal([-(-size // 16) + 1 for size in shape]).astype(np.float32)
    texture = ndimage.zoom(coarse, [a / b for a, b in zip(shape, coarse.shape, strict=True)], order=1)
    hounsfield = np.where(texture > -0.2, texture * 40, -1000 + texture * 5)
    hounsfield = np.rint(hounsfield + generator.standard_normal(shape, dtype=np.float32) * 20)
    between = 0.7 * hounsfield + 0.3 * np.roll(hounsfield, 1, axis=2)
    return ((between - 40) / 300).astype(np.float32)[None]


def random_patches(shape: tuple[int, ...], count: int, generator: np.random.Generator) -> list[Slices]:
    """Patches that lie within the scan."""
    starts = [
        [int(generator.integers(0, size - n + 1)) for size, n in zip(shape[1:], PATCH, strict=True)]
        for _ in range(count)
    ]
    boxes = [Box((z, y, x), (z + PATCH[0], y + PATCH[1], x + PATCH[2])) for z, y, x in starts]
    return [(slice(0, 1), *box.slices) for box in boxes]


@contextmanager
def watching_thread() -> Iterator[list[float]]:
    """The moments (s) at which another thread got to run; it asks every half millisecond."""
    moments: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            moments.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield moments
    finally:
        stop.set()
        thread.join()


def longest_wait(moments: list[float], call: Callable[[], Any]) -> float:
    """The longest time (s) during a call in which the watching thread did not run."""
    began = len(moments) - 1
    call()
    return float(np.diff([*moments[began:], time.perf_counter()]).max())


def drop_from_cache(path: Path) -> None:
    """Ask the system to forget a file's or folder's content."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def files_and_bytes(path: Path) -> tuple[int, int]:
    """How many files, and their bytes."""
    sizes = [file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return len(sizes), sum(sizes)


def import_seconds(module: str) -> float:
    """Time to import, after numpy, in a process of its own; best of three."""
    code = f"import numpy, time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(3)
    )


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(candidate: Candidate, scan: np.ndarray, patches: list[Slices], folder: Path) -> str:
    """One row of the table for a large scan."""
    path = folder / "scan"
    write_seconds, _ = timed(lambda: candidate.write(path, scan))
    assert np.array_equal(candidate.read(path, patches[0]), scan[patches[0]]), candidate.name
    files, size = files_and_bytes(path)
    cold = []
    for patch in patches[:5]:
        drop_from_cache(path)
        cold.append(timed(lambda patch=patch: candidate.read(path, patch))[0])
    # The best of a few tries: what other programs take from the machine is no property of the candidate.
    warm = [
        np.min([timed(lambda patch=patch: candidate.read(path, patch)) for _ in range(TRIES)], 0) for patch in patches
    ]
    with watching_thread() as moments:
        stalls = [
            min(longest_wait(moments, lambda p=p: candidate.read(path, p)) for _ in range(TRIES)) for p in patches
        ]
    walls, processors = np.median(warm, axis=0) * 1e3
    return (
        f"| {candidate.name} | {write_seconds:.2f} | {size / scan.nbytes:.2f} | {files} | {np.median(cold) * 1e3:.0f} |"
        f" {walls:.1f} | {processors:.1f} | {np.median(stalls) * 1e3:.1f} | {import_seconds(candidate.module):.2f} |"
    )


def measure_small(candidate: Candidate, scans: list[np.ndarray], folder: Path) -> str:
    """One row of the table for small scans, which are written and read whole."""
    paths = [folder / str(i) for i in range(len(scans))]
    write_seconds, _ = timed(lambda: [candidate.write(path, scan) for path, scan in zip(paths, scans, strict=True)])
    whole = tuple(slice(0, size) for size in scans[0].shape)
    read_seconds, _ = timed(lambda: [candidate.read(path, whole) for path in paths])
    size = sum(files_and_bytes(path)[1] for path in paths) / sum(scan.nbytes for scan in scans)
    write_ms, read_ms = (seconds / len(scans) * 1e3 for seconds in (write_seconds, read_seconds))
    return f"| {candidate.name} | {write_ms:.1f} | {size:.2f} | {read_ms:.2f} |"


def measure_codec(codec: blosc2.Codec, level: int, shuffle: blosc2.Filter, scan: np.ndarray) -> str:
    """One row of the table of codecs: the first 64 slices in blocks of 32."""
    parts = [
        np.ascontiguousarray(scan[0, z : z + 32, y : y + 32, x : x + 32])
        for z in range(0, 64, 32)
        for y in range(0, scan.shape[2], 32)
        for x in range(0, scan.shape[3], 32)
    ]
    size = sum(part.nbytes for part in parts)
    done: list[bytes] = []
    options = {"codec": codec, "clevel": level, "filters": [shuffle], "filters_meta": [0], "typesize": 4, "nthreads": 1}
    _, write = timed(lambda: done.extend(blosc2.compress2(part, **options) for part in parts))
    into = np.empty_like(parts[0])
    _, read = timed(lambda: [blosc2.decompress2(data, dst=into, nthreads=1) for data in done if len(data)])
    name = f"{codec.name.lower()} {level}, {shuffle.name.lower()}"
    return f"| {name} | {sum(map(len, done)) / size:.2f} | {size / write / 1e6:.0f} | {size / read / 1e6:.0f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small scan and few reads, to see that it runs")
    quick = parser.parse_args().quick
    generator = np.random.default_rng(0)
    scan = made_up_scan((140, 160, 160) if quick else (300, 512, 512), generator)
    small = [made_up_scan(SMALL, generator) for _ in range(5 if quick else 50)]
    patches = random_patches(scan.shape, 3 if quick else 30, generator)
    candidates = [
        blocks_candidate(),
        blosc2_candidate(blosc2.Codec.LZ4, 5),
        blosc2_candidate(blosc2.Codec.ZSTD, 1),
        zarr_candidate("zarr 3, file a chunk of 64, lz4, crc32c", 64, None),
        zarr_candidate("zarr 3, shards of 128, chunks of 32, lz4, crc32c", 32, 128),
        plain_candidate(),
    ]
    print(f"{'x'.join(map(str, scan.shape[1:]))} float32, patches of {'x'.join(map(str, PATCH))}\n")
    print("| stored as | write s | size | files | cold ms | warm ms | CPU ms | stall ms | import s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for candidate in candidates:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(candidate, scan, patches, Path(folder)), flush=True)
    print(f"\n{len(small)} scans of {'x'.join(map(str, SMALL))}, each written and read whole\n")
    print("| stored as | write ms | size | read ms |\n|---|---|---|---|")
    for candidate in candidates:
        folder = Path(tempfile.mkdtemp())
        print(measure_small(candidate, small, folder), flush=True)
        shutil.rmtree(folder)
    print("\n| codec, in blocks of 32x32x32 | size | write MB/s | read MB/s |\n|---|---|---|---|")
    for codec, level in ((blosc2.Codec.LZ4, 5), (blosc2.Codec.ZSTD, 1), (blosc2.Codec.ZSTD, 5)):
        for shuffle in (blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE):
            print(measure_codec(codec, level, shuffle, scan), flush=True)


if __name__ == "__main__":
    main()
