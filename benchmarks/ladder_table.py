"""What ``benchmarks.ladder`` has measured: parts in a JSON file, and tables of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medseg import atomic

OWN = "medseg"
PEERS = ("nnunet", "nnunet-kind")
PROGRAMS = (OWN, *PEERS)
METRICS = {"dice": "Dice", "surface_dice": "surface Dice"}


@dataclass(frozen=True)
class Part:
    """One program trained once on one dataset and measured on the held-out cases of fold 0.

    Attributes:
        old: whether the processor was made to work as one without AVX-512.
        minutes: that the program was given.
        version: of the program, with its name.
        patch: training patch, voxels.
        seconds: by what they went into; what counts as minutes differs by program.
        mirroring: whether held-out cases were predicted with mirrored copies; None where the program decides.
        dice, surface_dice: mean over the cases of each label; None where it is undefined.
        mean_dice, mean_surface_dice: mean over labels.
    """

    dataset: str
    program: str
    seed: int
    old: bool
    minutes: float
    processor: str
    version: str
    torch: str
    threads: int
    training_cases: int
    cases: int
    iterations: int
    batch: int
    patch: tuple[int, ...]
    seconds: dict[str, float]
    mirroring: bool | None
    dice: dict[str, float | None]
    surface_dice: dict[str, float | None]
    mean_dice: float
    mean_surface_dice: float

    @property
    def key(self) -> tuple[str, str, int, bool, float, str]:
        """Parts of one key are the same measurement."""
        return (self.dataset, self.program, self.seed, self.old, self.minutes, self.processor)


def load_parts(path: Path) -> list[Part]:
    """The recorded parts; none where there is no file."""
    if not path.is_file():
        return []
    return [Part(**{**row, "patch": tuple(row["patch"])}) for row in json.loads(path.read_text())["parts"]]


def save_part(path: Path, part: Part) -> None:
    """Record a part at once, in place of an earlier one of the same key."""
    parts = [other for other in load_parts(path) if other.key != part.key]
    rows = [asdict(each) for each in (*parts, part)]
    atomic.write_text(path, json.dumps({"parts": rows}, indent=1) + "\n")


def tables(parts: Sequence[Part], order: Sequence[str]) -> str:
    """Tables of both metrics for each processor, kind of processor and number of minutes.

    Args:
        order: names of datasets in the order of the rows.
    """
    groups = sorted({(part.processor, part.old, part.minutes) for part in parts})
    return "\n\n".join(
        _tables_of_group([part for part in parts if (part.processor, part.old, part.minutes) == group], order)
        for group in groups
    )


def _tables_of_group(parts: Sequence[Part], order: Sequence[str]) -> str:
    one = parts[0]
    old = " as a processor without AVX-512 (ONEDNN_MAX_CPU_ISA=AVX2, fp32)" if one.old else ""
    blocks = [f"{one.minutes:g} minutes, {one.processor}{old}, {one.threads} threads"]
    blocks += [_table(parts, order, metric, title) for metric, title in METRICS.items()]
    unmirrored = sorted({f"{part.program} on {part.dataset}" for part in parts if part.mirroring is False})
    if unmirrored:
        blocks.append(f"Predicted without mirroring, which would have taken too long: {', '.join(unmirrored)}.")
    return "\n\n".join(blocks)


def _table(parts: Sequence[Part], order: Sequence[str], metric: str, title: str) -> str:
    lines = [
        f"| {title} | held out | {' | '.join(PROGRAMS)} | difference |",
        "|---" * (len(PROGRAMS) + 3) + "|",
    ]
    whole: list[list[float]] = []
    for dataset in order:
        here = [part for part in parts if part.dataset == dataset]
        if not here:
            continue
        means = [_mean([getattr(p, f"mean_{metric}") for p in here if p.program == name]) for name in PROGRAMS]
        lines.append(f"| {dataset} | {here[0].cases} | {_cells(means)} |")
        if not any(map(math.isnan, means)):
            whole.append([*means, _difference(means)])
    if whole:
        *means, difference = (_mean(column) for column in zip(*whole, strict=True))
        lines.append(f"| mean of {len(whole)} whole rows | | {_cells(means, difference)} |")
    return "\n".join(lines)


def _cells(means: Sequence[float], difference: float | None = None) -> str:
    difference = _difference(means) if difference is None else difference
    cells = ["" if math.isnan(mean) else f"{mean:.3f}" for mean in means]
    return " | ".join([*cells, "" if math.isnan(difference) else f"{difference:+.3f}"])


def _difference(means: Sequence[float]) -> float:
    """Of the program's own mean to the better of its peers'; NaN where one of them is missing."""
    own, *peers = means
    return own - max(peers) if not any(map(math.isnan, means)) else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
