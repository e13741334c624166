"""What is compared: a system is the tables of one or several runs, which differ by their seed alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import documents
from medseg.errors import DocumentError, FileUnreadableError, UsageError
from medseg.evaluation import evaluate
from medseg.evaluation.tables import CSV_FILE, JSON_FILE, PARQUET_FILE
from medseg.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

    Run = pd.DataFrame | str | os.PathLike[str]
else:
    Run = Any

_NEEDED = ("case", "label")


@dataclass(frozen=True, eq=False)
class System:
    """A name, and a table as :func:`medseg.evaluate` gives it for each run."""

    name: str
    runs: tuple[pd.DataFrame, ...]


def read_systems(
    sources: Mapping[str, Run | Sequence[Run]] | Sequence[Run | Sequence[Run]],
    *,
    references: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    tolerance_mm: float = 1.0,
    metrics: Sequence[str] = (),
    workers: int | str = 0,
    progress: Progress = silent,
) -> tuple[System, ...]:
    """Systems from tables, files and folders.

    Args:
        sources: of each system one run or several seeds; a mapping gives names, else folders and files do. A run is a
            table; a ``metrics.csv``, ``.json`` or ``.parquet``; the folder that holds one; a model folder with
            ``fold_*/validation/``; or, with references, a folder of masks. A folder of runs is a system of
            as many seeds.
        references, labels, tolerance_mm, metrics, workers: for folders of masks, as of :func:`medseg.evaluate`.

    Raises:
        UsageError: fewer than two systems, or a folder that holds none of these.
        FileUnreadableError, DocumentError: a table that cannot be read, or is none.
    """
    given = sources.values() if isinstance(sources, Mapping) else sources
    seeds: list[list[Any]] = [list(run) if isinstance(run, list | tuple) else [run] for run in given]
    if len(seeds) < 2:
        raise UsageError(f"compare: expected at least two systems, found {len(seeds)}; give for example A/ B/")
    names = list(sources) if isinstance(sources, Mapping) else _names([runs[0] for runs in seeds])

    def tables(run: Run) -> list[pd.DataFrame]:
        if not isinstance(run, str | os.PathLike):
            return [_checked(run, "table")]
        path = Path(run)
        if references is not None:
            table = evaluate(
                path,
                references,
                labels=labels,
                tolerance_mm=tolerance_mm,
                metrics=metrics,
                workers=workers,
                progress=progress,
            )
            return [_checked(table, str(path))]
        return _read(path)

    return tuple(
        System(name, tuple(table for run in runs for table in tables(run)))
        for name, runs in zip(names, seeds, strict=True)
    )


def _read(path: Path) -> list[pd.DataFrame]:
    """The tables below a path."""
    if not path.exists():
        raise UsageError(f"compare: no such file or folder: {path}; give what medseg evaluate -o wrote")
    if path.is_file():
        return [_read_table(path)]
    alone = _table_in(path)
    if alone is not None:
        return [_read_table(alone)]
    folds = [_table_in(fold / "validation") for fold in sorted(path.glob("fold_*"))]
    found = [fold for fold in folds if fold is not None]
    if found:
        return [_joined([_read_table(fold) for fold in found], path)]
    seeds = [table for folder in sorted(path.iterdir()) if folder.is_dir() and (table := _table_in(folder))]
    if not seeds:
        raise UsageError(
            f"compare: {path} holds no {CSV_FILE}; write one with: medseg evaluate {path} REFERENCES -o REPORT,"
            " or give --references"
        )
    return [_read_table(seed) for seed in seeds]


def _table_in(folder: Path) -> Path | None:
    return next((folder / name for name in (PARQUET_FILE, CSV_FILE, JSON_FILE) if (folder / name).is_file()), None)


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix == ".json":
            document = documents.read_json(path)
            records = document.get("cases") if isinstance(document, dict) else None
            table = pd.DataFrame(records if isinstance(records, list) else [])
            table = table.replace({"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")})
        else:
            table = pd.read_csv(path, dtype={"case": str, "label": str, "value": str, "error": str})
    except (OSError, ValueError, KeyError) as error:
        raise FileUnreadableError(
            f"{path}: cannot be read as a table ({str(error).splitlines()[0]}); write it anew with medseg evaluate -o"
        ) from error
    return _checked(table, str(path))


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with names as text and an ``error`` in every row.

    Raises:
        DocumentError: it is no table of an evaluation, or has a case and label twice.
    """
    missing = [column for column in _NEEDED if column not in table.columns]
    if missing:
        raise DocumentError(
            f"{where}: expected a table with the columns case and label, {' and '.join(missing)} missing;"
            " give one that medseg evaluate wrote"
        )
    table = table.copy()
    for column in _NEEDED:
        table[column] = table[column].astype(str)
    table["error"] = table["error"].fillna("").astype(str) if "error" in table else ""
    twice = table.duplicated(list(_NEEDED))
    if twice.any():
        case, label = table.loc[twice, list(_NEEDED)].iloc[0]
        raise DocumentError(f"{where}: case {case} has label {label} twice; keep one row of it")
    return table


def _joined(folds: Sequence[pd.DataFrame], path: Path) -> pd.DataFrame:
    import pandas as pd

    return _checked(pd.concat(folds, ignore_index=True), str(path))


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of systems after their paths, as much of them as it takes to tell them apart."""
    paths = [
        [part for part in Path(run).resolve().with_suffix("").parts if part not in (Path(CSV_FILE).stem, os.sep)]
        if isinstance(run, str | os.PathLike)
        else [chr(ord("A") + number)]
        for number, run in enumerate(runs)
    ]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(parts[-1:])} ({number})" for number, parts in enumerate(paths, 1)]
