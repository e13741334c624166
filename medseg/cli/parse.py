"""What is written after an option: folds, times, sizes, names and workers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from medseg.errors import UsageError

_TIME = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m(?:in)?)?(?:(?P<s>\d+(?:\.\d+)?)s)?")
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)I?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def folds(text: str, existing: int) -> tuple[int, ...]:
    """Folds such as ``3``, ``0-4``, ``0,2`` or ``all``, among the existing ones.

    Raises:
        UsageError: not written like that, or there is no such fold.
    """
    if text == "all":
        return tuple(range(existing))
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise UsageError(f"--fold {text}: expected folds such as 3, 0-4, 0,2 or all")
        first, last = int(match[1]), int(match[2] or match[1])
        chosen += range(first, last + 1)
    beyond = [fold for fold in chosen if fold >= existing]
    if beyond or not chosen:
        raise UsageError(f"--fold {text}: there are folds 0-{existing - 1}")
    return tuple(dict.fromkeys(chosen))


def seconds(text: str) -> float:
    """A time such as ``90s``, ``45m``, ``2h`` or ``1h30m``, in seconds.

    Raises:
        UsageError: not written like that, or zero.
    """
    match = _TIME.fullmatch(text.strip().lower())
    value = sum(float(match[unit] or 0) * scale for unit, scale in (("h", 3600), ("m", 60), ("s", 1))) if match else 0
    if value <= 0:
        raise UsageError(f"--budget {text}: expected a time such as 90s, 45m, 2h or 1h30m, or auto")
    return value


def budget(text: str) -> float | Literal["auto"]:
    """A time as in :func:`seconds`, or ``auto``."""
    return "auto" if text.strip().lower() == "auto" else seconds(text)


def freeze(text: str) -> int | Literal["all"]:
    """A number of iterations, or ``all``.

    Raises:
        UsageError: neither.
    """
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise UsageError(f"--freeze {text}: expected a number of iterations such as 500, or all")
    return int(text)


def size_bytes(text: str, option: str) -> int:
    """A size such as ``8GB`` or ``500MB``, in bytes.

    Raises:
        UsageError: not written like that, or zero.
    """
    match = _SIZE.fullmatch(text.strip())
    value = int(float(match["number"]) * _UNITS[match["unit"].upper()]) if match else 0
    if value <= 0:
        raise UsageError(f"{option} {text}: expected a size such as 8GB or 500MB")
    return value


def names(given: Sequence[str] | None) -> tuple[str, ...]:
    """Names from an option that may be repeated, each with several names between commas."""
    return tuple(name.strip() for text in given or () for name in text.split(",") if name.strip())


def systems(given: Sequence[str]) -> list[dict[str, list[str]]] | list[list[str]]:
    """Systems to compare, each written ``PATH``, ``PATH,PATH`` (seeds) or ``NAME=PATH,PATH``.

    Raises:
        UsageError: some have a name and others have none, or two have the same.
    """
    named = [text.partition("=") for text in given]
    with_name = [name for name, equals, _ in named if equals]
    if not with_name:
        return [text.split(",") for text in given]
    if len(with_name) < len(given) or len(set(with_name)) < len(given):
        raise UsageError(f"compare {' '.join(given)}: give every system a name of its own (NAME=PATH), or none")
    return [{name: paths.split(",") for name, _, paths in named}]


def workers(text: str) -> int | str:
    """A number of local processes, or the address of a Dask scheduler as it stands.

    Raises:
        UsageError: neither.
    """
    if text.isdecimal():
        return int(text)
    if ":" not in text:
        raise UsageError(f"--workers {text}: expected a number such as 4, or an address such as tcp://host:8786")
    return text
