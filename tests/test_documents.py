"""Frozen dataclasses as JSON: what is written is read, and what does not belong is named."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import documents
from medseg.errors import DocumentError


@dataclass(frozen=True)
class Inner:
    """A document within a document."""

    name: str
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "":
            raise ValueError("a name is not empty")
        if self.name == "forbidden":
            raise DocumentError("this name is taken")


@dataclass(frozen=True)
class Outer:
    """One field of each kind."""

    version: Literal[1]
    flag: bool
    count: int
    share: float
    text: str
    kind: Literal["a", "b"]
    spacing_mm: tuple[float, float, float]
    matrix: tuple[tuple[float, ...], ...]
    entries: dict[str, Inner]
    either: int | tuple[int, ...] | None = None
    inner: tuple[Inner, ...] = field(default=())


def outer(**changes: object) -> Outer:
    """A document of which some fields are changed."""
    fields: dict = {
        "version": 1,
        "flag": True,
        "count": 3,
        "share": 0.5,
        "text": "µ",
        "kind": "a",
        "spacing_mm": (1.0, 2.0, 3.0),
        "matrix": ((1.0,), (2.0,)),
        "entries": {"x": Inner("x", (1, 2))},
    }
    return Outer(**{**fields, **changes})


def as_json(**changes: object) -> dict:
    """The JSON of a document of which some fields are changed."""
    return {**documents.to_json(outer()), **changes}


@settings(max_examples=40, deadline=None)
@given(
    st.builds(
        outer,
        flag=st.booleans(),
        count=st.integers(),
        share=st.floats(allow_nan=False),
        text=st.text(),
        matrix=st.lists(st.lists(st.floats(allow_nan=False), max_size=3).map(tuple), max_size=3).map(tuple),
        entries=st.dictionaries(st.text(), st.builds(Inner, st.sampled_from(["p", "q"])), max_size=3),
        either=st.none() | st.integers() | st.lists(st.integers(), max_size=3).map(tuple),
        inner=st.lists(st.builds(Inner, st.sampled_from(["p", "q"])), max_size=3).map(tuple),
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, document: Outer) -> None:
    path = tmp_path_factory.mktemp("documents") / "document.json"
    documents.save(document, path)
    assert documents.load(Outer, path) == document


def test_not_a_number_is_kept() -> None:
    back = documents.from_json(Outer, documents.to_json(outer(share=math.nan)))
    assert math.isnan(back.share)
    assert documents.to_json(outer(share=-math.inf))["share"] == "-Infinity"


def test_layout_is_for_people() -> None:
    text = documents.to_text(outer())
    assert '  "spacing_mm": [1.0, 2.0, 3.0],\n' in text
    assert '  "matrix": [[1.0], [2.0]],\n' in text
    assert '      "sizes": [1, 2]\n' in text
    assert text.endswith("}\n")


def test_integers_become_real_numbers_and_defaults_are_filled_in() -> None:
    content = as_json(share=2)
    del content["either"]
    document = documents.from_json(Outer, content)
    assert (document.share, type(document.share), document.either) == (2.0, float, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_json(version=2), "version: expected one of 1, found 2"),
        (as_json(version=2, colour="red"), "version: expected one of 1, found 2"),
        (as_json(flag=1), "flag: expected true or false, found 1"),
        (as_json(count=True), "count: expected an integer, found true"),
        (as_json(count=1.0), "count: expected an integer, found 1.0"),
        (as_json(share="0.5"), 'share: expected a number, found "0.5"'),
        (as_json(text=None), "text: expected text, found null"),
        (as_json(kind="c"), "kind: expected one of 'a', 'b', found 'c'"),
        (as_json(spacing_mm=[1.0, 2.0]), r"spacing_mm: expected a list of 3, found \[1.0, 2.0\]"),
        (as_json(matrix=[[1.0], 2.0]), r"matrix\[1\]: expected a list, found 2.0"),
        (as_json(entries={"x": {"name": "x", "sizes": [1, "2"]}}), r"entries\.x\.sizes\[1\]: expected an integer"),
        (as_json(entries={"x": {}}), "entries.x: field 'name' is missing"),
        (as_json(entries={"x": {"name": ""}}), "entries.x: a name is not empty"),
        (as_json(entries={"x": {"name": "forbidden"}}), "entries.x: this name is taken"),
        (as_json(either="x"), 'either: expected an integer, found "x"'),
        (as_json(either=[1, "x"]), r'either\[1\]: expected an integer, found "x"'),
        (as_json(inner=[{"name": "x", "size": 1}]), r"inner\[0\]: unknown field 'size'; did you mean 'sizes'\?"),
        (as_json(colour="red"), "unknown field 'colour'; .*known are version, flag"),
        ({**as_json(), 3: "x"}, "unknown field '3'"),
        ([], r"document: expected an object, found \[\]"),
        (as_json(text=["long"] * 40), r"text: expected text, found .*\.\.\.$"),
    ],
)
def test_errors_name_the_field(content: object, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        documents.from_json(Outer, content)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(DocumentError, match=r"plan\.json: no such file"):
        documents.load(Inner, path)
    path.write_text("{")
    with pytest.raises(DocumentError, match=r"plan\.json: not valid JSON"):
        documents.load(Inner, path)
    path.write_bytes(b'"\xff"')
    with pytest.raises(DocumentError, match=r"plan\.json: not valid JSON"):
        documents.load(Inner, path)
    path.write_text('{"name": 3}')
    with pytest.raises(DocumentError, match=r"plan\.json: name: expected text, found 3"):
        documents.load(Inner, path)
    with pytest.raises(DocumentError, match="cannot be read"):
        documents.load(Inner, tmp_path)


def test_a_field_that_cannot_stand_in_a_document_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="cannot stand in a document"):
        documents.from_json(Path, "x")


def test_a_mark_of_unicode_in_front_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert documents.read_json(tmp_path / "a.json") == {"a": 1}
