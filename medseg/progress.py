"""How long work tells whoever started it how far it has come. The library calls, the command line draws."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the units done so far, the units in all, and what is being done."""

    def __call__(self, done: float, total: float, what: str) -> None: ...


def silent(done: float, total: float, what: str) -> None:
    """The default: nobody is watching."""
