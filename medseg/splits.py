"""Which cases train and which validate, fold by fold; read and written in nnU-Net's ``splits_final.json`` form."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg import atomic, documents
from medseg.errors import DocumentError, UsageError

FOLDS = 5
SEED = 12345


@dataclass(frozen=True)
class Split:
    """One fold: names of the cases to train on and of those kept out for validation."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def make_splits(
    cases: Iterable[str],
    groups: Mapping[str, str] | None = None,
    folds: int = FOLDS,
    seed: int = SEED,
) -> tuple[Split, ...]:
    """Divide cases for cross-validation: every case validates in exactly one fold.

    Where every case stands alone these are nnU-Net's own splits (scikit-learn's ``KFold`` with shuffling, on sorted
    names). Cases of one group, a patient's scans, always stay on one side: whole groups are shuffled in the same way
    and given, the largest first, to the fold with the fewest cases so far.

    Args:
        groups: case name to group; a case that is not named is a group of its own.
        folds: how many; where there are fewer groups, each group is a fold.

    Raises:
        UsageError: fewer than two folds or groups, or a case is named twice.
    """
    names = sorted(cases)
    if len(set(names)) != len(names):
        raise UsageError("a case is named twice; give every case its own name")
    members = _members(names, groups or {})
    if folds < 2:
        raise UsageError(f"cross-validation needs at least 2 folds, found {folds}")
    if len(members) < 2:
        raise UsageError(
            f"splits: {len(names)} training cases of {len(members)} patients; cases of at least 2 patients are needed, "
            "some to train on and some to validate on: add cases"
        )
    folds = min(folds, len(members))
    # The older generator: nnU-Net's published splits come from it.
    order = np.arange(len(members))
    np.random.RandomState(seed).shuffle(order)
    if len(members) == len(names):
        parts = [[names[i] for i in part] for part in np.array_split(order, folds)]
    else:
        parts = _balanced([members[i] for i in order], folds)
    return tuple(
        Split(tuple(name for name in names if name not in held_out), tuple(sorted(held_out)))
        for held_out in map(frozenset, parts)
    )


def check_splits(splits: Sequence[Split], cases: Iterable[str], groups: Mapping[str, str] | None = None) -> None:
    """Make sure that splits can be trained with.

    Raises:
        DocumentError: there are none, a side is empty, a case is unknown or on both sides, or a group is.
    """
    known = set(cases)
    if not splits:
        raise DocumentError("splits: there are none; list at least one with train and val")
    for fold, split in enumerate(splits):
        train, validation = set(split.train), set(split.validation)
        if not train or not validation:
            raise DocumentError(f"splits: fold {fold}: {'train' if not train else 'val'} is empty; name its cases")
        unknown = sorted((train | validation) - known)
        if unknown:
            raise DocumentError(f"splits: fold {fold}: the dataset has no case {_listed(unknown)}; correct the names")
        both = sorted(train & validation)
        if both:
            raise DocumentError(f"splits: fold {fold}: {_listed(both)} in train and in val; keep it in one")
        owner = groups or {}
        straddling = sorted({owner[c] for c in train if c in owner} & {owner[c] for c in validation if c in owner})
        if straddling:
            raise DocumentError(
                f"splits: fold {fold}: cases of {_listed(straddling)} are in train and in val; keep a patient's cases "
                "together"
            )


def save_splits(splits: Sequence[Split], path: str | os.PathLike[str]) -> None:
    """Write splits as nnU-Net does: a list of ``{"train": [...], "val": [...]}``.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    rows = [{"train": list(split.train), "val": list(split.validation)} for split in splits]
    atomic.write_text(path, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


def load_splits(path: str | os.PathLike[str]) -> tuple[Split, ...]:
    """Read splits in nnU-Net's form; ``check_splits`` says whether they fit a dataset.

    Raises:
        DocumentError: the file is missing, or is not such a list.
    """
    rows = documents.from_json(tuple[dict[str, tuple[str, ...]], ...], documents.read_json(path), str(path))
    for fold, row in enumerate(rows):
        if set(row) != {"train", "val"}:
            raise DocumentError(f"{path}: fold {fold}: expected train and val, found {', '.join(row) or 'nothing'}")
    return tuple(Split(row["train"], row["val"]) for row in rows)


def _members(names: list[str], groups: Mapping[str, str]) -> list[list[str]]:
    """The cases of each group, groups in order of name; a case without group comes under its own name."""
    members: dict[tuple[str, bool], list[str]] = {}
    for name in names:
        members.setdefault((groups.get(name, name), name in groups), []).append(name)
    return [members[key] for key in sorted(members)]


def _balanced(members: list[list[str]], folds: int) -> list[list[str]]:
    parts: list[list[str]] = [[] for _ in range(folds)]
    for group in sorted(members, key=len, reverse=True):
        min(parts, key=len).extend(group)
    return parts


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
