"""Frozen dataclasses as JSON documents: written readable, parsed once and strictly at the border.

A document class is a frozen dataclass whose fields are ``bool``, ``int``, ``float``, ``str``, ``None``, ``Literal``,
``tuple[...]``, ``dict[str, ...]``, unions with ``None``, or other document classes. A class that stands at the top of
a file has a ``version`` field; a file of another version is refused by name.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import types
import typing
from pathlib import Path
from typing import Any, TypeVar, cast

from medseg import atomic
from medseg.errors import DocumentError

T = TypeVar("T")

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def save(document: object, path: str | os.PathLike[str]) -> None:
    """Write a document as indented JSON, whole or not at all.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    atomic.write_text(path, to_text(document))


def load(kind: type[T], path: str | os.PathLike[str]) -> T:
    """Read a document of the given class.

    Raises:
        DocumentError: the file is missing, is no JSON, or does not hold such a document.
    """
    return from_json(kind, read_json(path), where=str(path))


def read_json(path: str | os.PathLike[str]) -> Any:
    """The parsed content of a JSON file.

    Raises:
        DocumentError: the file is missing or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors of Windows leave a mark in front
    except FileNotFoundError:
        raise DocumentError(f"{path}: no such file; give another path, or make it anew") from None
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read: {error.strerror}; see that you may read it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path}: not valid JSON ({error}); restore it or make it anew") from error


def to_text(document: object) -> str:
    """A document as indented JSON; innermost lists stay on one line so that a person can read them."""
    return _lay_out(to_json(document), 0) + "\n"


def to_json(value: Any) -> Any:
    """The JSON value (dicts, lists, numbers, strings) of a document; keeps key order. NaN and infinity become text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def from_json(kind: type[T], value: Any, where: str = "document") -> T:
    """Parse a JSON value into a document of the given class.

    Raises:
        DocumentError: a field is missing, unknown, or of the wrong type; the message names it.
    """
    return cast(T, _parse(kind, value, where))


def _parse(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        return _parse_union(typing.get_args(kind), value, where)
    if origin is typing.Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise DocumentError(f"{where}: expected one of {', '.join(map(repr, choices))}, found {value!r}")
        return value
    if origin is tuple:
        return _parse_tuple(typing.get_args(kind), value, where)
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object", value)
        key_kind, item_kind = typing.get_args(kind)
        return {key_kind(key): _parse(item_kind, item, f"{where}.{key}") for key, item in value.items()}
    return _parse_scalar(kind, value, where)


def _parse_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object", value)
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    within = f"{where}." if ": " in where else f"{where}: "
    if "version" in fields and "version" in value:  # of another one, all else may be otherwise
        _parse(hints["version"], value["version"], f"{within}version")
    unknown = sorted(str(key) for key in value if key not in fields)
    if unknown:
        near = difflib.get_close_matches(unknown[0], fields, n=1)
        hint = f"did you mean {near[0]!r}? known are" if near else "known are"
        raise DocumentError(f"{where}: unknown field {unknown[0]!r}; {hint} {', '.join(fields)}")
    parsed = {}
    for name, field in fields.items():
        if name in value:
            parsed[name] = _parse(hints[name], value[name], f"{within}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DocumentError(f"{where}: field {name!r} is missing")
    try:
        return kind(**parsed)
    except (DocumentError, ValueError) as error:
        raise DocumentError(f"{where}: {error}") from error


def _parse_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problems = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _parse(kind, value, where)
            except DocumentError as error:
                problems.append(error)
    # The kind that got furthest inside the value is the one that was meant.
    deeper = [problem for problem in problems if not str(problem).startswith(f"{where}: expected ")]
    raise (deeper or problems)[0]


def _parse_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list | tuple), where, "a list", value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_parse(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    _expect(len(value) == len(kinds), where, f"a list of {len(kinds)}", value)
    return tuple(_parse(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _parse_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        _expect(isinstance(value, int | float) and not isinstance(value, bool), where, "a number", value)
        return float(value)
    if kind is int:
        _expect(isinstance(value, int) and not isinstance(value, bool), where, "an integer", value)
        return value
    names = {str: "text", bool: "true or false", type(None): "null"}
    if kind not in names:
        raise TypeError(f"{where}: {kind!r} cannot stand in a document")
    _expect(isinstance(value, kind), where, names[kind], value)
    return value


def _expect(condition: bool, where: str, expected: str, found: Any) -> None:
    if not condition:
        text = json.dumps(found, default=str)
        raise DocumentError(f"{where}: expected {expected}, found {text if len(text) < 60 else text[:57] + '...'}")


def _lay_out(value: Any, depth: int) -> str:
    pad, closing = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(key)}: {_lay_out(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{closing}}}"
    if isinstance(value, list) and value and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(pad + _lay_out(item, depth + 1) for item in value) + f"\n{closing}]"
    if isinstance(value, list) and value and any(isinstance(item, list) for item in value):
        flat = json.dumps(value)
        if len(flat) + 2 * depth <= 100:
            return flat
        return "[\n" + ",\n".join(pad + _lay_out(item, depth + 1) for item in value) + f"\n{closing}]"
    return json.dumps(value, ensure_ascii=False)
