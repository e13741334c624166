"""Which prediction belongs to which reference: by the place and name of their files, endings aside."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg import io
from medseg.errors import UsageError


@dataclass(frozen=True)
class Pair:
    """The two masks of one case."""

    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Pairing:
    """The pairs by case, why some cases have none, and what was left aside."""

    pairs: dict[str, Pair]
    failures: dict[str, str]
    warnings: tuple[str, ...] = ()


def pair_masks(predictions: str | os.PathLike[str], references: str | os.PathLike[str]) -> Pairing:
    """Pair two folders of masks, with all folders below them, or two files.

    The case is the reference's path within its folder without the file's ending. A prediction fits that has the same
    path, or else the same name where only one file on each side has it. Of a dataset folder, ``labelsTr`` is taken.

    Raises:
        UsageError: a path that does not exist, a file against a folder, or no references.
    """
    predicted, wanted = _existing(predictions, "predictions"), _existing(references, "references")
    if predicted.is_file() != wanted.is_file():
        raise UsageError(f"{predicted} and {wanted}: one is a file, the other a folder; give two files or two folders")
    if wanted.is_file():
        return Pairing({io.name_of(wanted): Pair(predicted, wanted)}, {})
    if (wanted / "labelsTr").is_dir():
        wanted = wanted / "labelsTr"
    masks = _masks(wanted)
    if not masks:
        raise UsageError(f"references: no mask found in {wanted}; give the folder that holds them")
    return _pair(_masks(predicted), masks)


def _pair(predictions: Mapping[str, list[Path]], references: Mapping[str, list[Path]]) -> Pairing:
    predicted_alone, reference_alone = _only_of_its_name(predictions), _only_of_its_name(references)
    pairs: dict[str, Pair] = {}
    failures: dict[str, str] = {}
    used = set()
    for case, files in references.items():
        name = case.rpartition("/")[2]
        partner = case
        if case not in predictions and reference_alone.get(name) == case:
            partner = predicted_alone.get(name, case)
        used.add(partner)
        candidates = predictions.get(partner, [])
        if not candidates:
            failures[case] = f"no prediction is named {name}; predict this case, or rename its file"
        elif len(candidates) > 1 or len(files) > 1:
            several = ", ".join(path.name for path in (candidates if len(candidates) > 1 else files))
            failures[case] = f"several files for one case: {several}; keep one of them"
        else:
            pairs[case] = Pair(candidates[0], files[0])
    spare = [case for case in predictions if case not in used]
    return Pairing(pairs, failures, tuple(f"prediction without reference, not compared: {case}" for case in spare))


def _existing(path: str | os.PathLike[str], what: str) -> Path:
    if not Path(path).exists():
        raise UsageError(f"{what}: no such file or folder: {path}; give a mask or a folder of masks")
    return Path(path)


def _masks(folder: Path) -> dict[str, list[Path]]:
    """Files that a mask may be in, by path within the folder without ending; hidden ones are no masks."""
    masks = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if io.is_image_name(path) and path.is_file() and not any(part.startswith(".") for part in inside.parts):
            masks[(inside.parent / io.name_of(path)).as_posix()].append(path)
    return dict(masks)


def _only_of_its_name(masks: Mapping[str, list[Path]]) -> dict[str, str]:
    """Name of a file to its case, for names that occur once below a folder."""
    cases = defaultdict(list)
    for case in masks:
        cases[case.rpartition("/")[2]].append(case)
    return {name: found[0] for name, found in cases.items() if len(found) == 1}
