"""Plans of random fingerprints beside those of nnU-Net's own planners: every field, every preset.

    python -m benchmarks.plans --peer-python NNUNET/bin/python --count 200 --seed 0

Fingerprints are drawn to be unkind: one case or many, thin and flat scans, spacings that tie or stand exactly at a
threshold, one channel or ten, two classes or a hundred, regions, little memory and much. Prints every difference, and a
table of how many plans are equal. Where nnU-Net ends in an error, or not within half a minute, it has no answer.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from medseg.errors import MedsegError
from medseg.interop.nnunet import plan_from_fingerprint

PRESETS = ("default", "resenc-m", "resenc-l", "resenc-xl")
CHANNELS = ("CT", "ct", "T1", "noNorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "PET", "Ct ")
AXIS_MM = (0.01, 0.3, 0.5, 0.7, 0.78125, 1.0, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 30.0)
Question = dict[str, Any]


def question(random: np.random.Generator) -> Question:
    """One dataset.json, fingerprint, preset and memory."""
    cases = int(random.choice([1, 2, 3, 5, 20, 41, 60]))
    base = _base_spacing(random)
    largest = int(random.choice([6, 16, 40, 130, 320, 600, 1000]))
    centre = np.maximum(1, random.integers(1, largest + 1, 3) if random.random() < 0.7 else [largest] * 3)
    if random.random() < 0.1:
        centre[int(random.integers(3))] = 1
    wobble = float(random.choice([0.0, 0.0, 0.1, 0.5]))
    spread = float(random.choice([0.0, 0.0, 0.1, 0.6]))
    spacings = [[float(step * math.exp(random.normal(0, spread))) for step in base] for _ in range(cases)]
    shapes = [[max(1, round(size * math.exp(random.normal(0, wobble)))) for size in centre] for _ in range(cases)]
    channels = [str(name) for name in random.choice(CHANNELS, int(random.choice([1, 1, 1, 2, 4, 10])))]
    preset = str(random.choice(PRESETS))
    return {
        "dataset": {
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": _labels(random),
            "numTraining": cases if random.random() < 0.8 else int(random.integers(1, 500)),
            "file_ending": ".nii.gz",
        },
        "fingerprint": {
            "spacings": spacings,
            "shapes_after_crop": shapes,
            "median_relative_size_after_cropping": float(random.choice([1.0, 0.9, 0.75, 0.7499, 0.3])),
            "foreground_intensity_properties_per_channel": {
                str(number): dict.fromkeys(
                    ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), float(number)
                )
                for number in range(len(channels))
            },
        },
        "preset": preset,
        "memory_gb": None if random.random() < 0.7 else float(random.choice([2, 4, 6.5, 11, 16, 24, 80])),
    }


def _base_spacing(random: np.random.Generator) -> list[float]:
    kind = random.integers(4)
    fine = float(random.choice(AXIS_MM))
    if kind == 0:
        return [fine] * 3
    if kind == 1:  # at a threshold of the rules, or a hair beside
        factor = float(random.choice([2, 3])) * float(random.choice([1, 1 + 1e-9, 1 - 1e-9]))
        spacing = [fine, fine, fine * factor]
        return [spacing[axis] for axis in random.permutation(3)]
    return [float(step) for step in random.choice(AXIS_MM, 3)]


def _labels(random: np.random.Generator) -> dict[str, Any]:
    classes = int(random.choice([1, 2, 3, 12, 104]))
    labels: dict[str, Any] = {"background": 0, **{f"class {value}": value for value in range(1, classes + 1)}}
    if random.random() < 0.15:
        labels["whole"] = list(range(1, classes + 1))
    if random.random() < 0.15:
        labels["ignore"] = classes + 1
    return labels


def differences(wanted: Any, found: Any, where: str = "") -> Iterator[str]:
    """Every place where two documents differ, numbers within rounding."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in {**wanted, **found}:
            if key in wanted and key in found:
                yield from differences(wanted[key], found[key], f"{where}.{key}")
            else:
                yield f"{where}.{key}: only in {'nnU-Net' if key in wanted else 'medseg'}"
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, pair in enumerate(zip(wanted, found, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif isinstance(wanted, float) and isinstance(found, int | float):
        if not math.isclose(wanted, found, rel_tol=1e-12):
            yield f"{where}: {wanted} != {found}"
    elif wanted != found or isinstance(wanted, bool) != isinstance(found, bool):
        yield f"{where}: {wanted!r} != {found!r}"


def compare(questions: list[Question], peer_python: Path) -> list[list[str] | None]:
    """The differences of each question, none where the plans are equal; None where nnU-Net has no answer."""
    peer = Path(__file__).with_name("peer_plans.py")
    asked = subprocess.run(
        [peer_python, peer], input=json.dumps(questions), stdout=subprocess.PIPE, text=True, check=True
    )
    return [
        None if answer is None else _compared(one, answer)
        for one, answer in zip(questions, json.loads(asked.stdout), strict=True)
    ]


def _compared(one: Question, theirs: dict[str, Any]) -> list[str]:
    try:
        ours = plan_from_fingerprint(one["dataset"], one["fingerprint"], one["preset"], one["memory_gb"])
    except MedsegError as error:
        return [f"medseg refuses: {error}"]
    ours = json.loads(json.dumps(ours))
    for document in (theirs, ours):
        for name in ("dataset_name", "image_reader_writer"):  # of the folder, not of the data
            del document[name]
    return list(differences(theirs, ours))


def main() -> None:
    """Draw questions, ask both, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    questions = [question(random) for _ in range(options.count)]
    counts: Counter[tuple[str, str]] = Counter()
    for number, (one, found) in enumerate(zip(questions, compare(questions, options.peer_python), strict=True)):
        counts[one["preset"], "no answer" if found is None else "different" if found else "equal"] += 1
        for line in (found or [])[:5]:
            print(f"{number} {one['preset']} {one['memory_gb']} GB: {line}")
    outcomes = ("equal", "different", "no answer")
    table = Table("preset", *outcomes)
    for preset in PRESETS:
        table.add_row(preset, *(str(counts[preset, outcome]) for outcome in outcomes))
    Console().print(table)
    sys.exit(any(counts[preset, "different"] for preset in PRESETS))


if __name__ == "__main__":
    main()
