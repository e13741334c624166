"""Errors: one line each, and whole after a journey between processes."""

from __future__ import annotations

import pickle

from medseg.errors import CasesFailedError, MedsegError


def test_failed_cases_are_listed_up_to_ten():
    error = CasesFailedError("preparing", {f"case{i}": "is empty" for i in range(12)}, 20)
    lines = str(error).splitlines()
    assert lines[0] == "preparing: 12 of 20 cases failed"
    assert lines[1] == "  case0: is empty"
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 12


def test_the_only_case_is_one_line():
    assert str(CasesFailedError("predict", {"a": "is empty"}, 1)) == "predict: a: is empty"


def test_failed_cases_survive_pickling():
    error = pickle.loads(pickle.dumps(CasesFailedError("preparing", {"a": "is empty"}, 2)))
    assert (error.failures, error.total, str(error).splitlines()[0]) == (
        {"a": "is empty"},
        2,
        "preparing: 1 of 2 cases failed",
    )


def test_the_drawn_tree_names_every_error():
    drawn = __import__("medseg.errors").errors.__doc__
    pending = [MedsegError]
    while pending:
        kind = pending.pop()
        if kind.__module__ == "medseg.errors":
            assert kind.__name__ in drawn
        pending += kind.__subclasses__()
