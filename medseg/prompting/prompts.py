"""Prompts: what a person shows of an object, and the JSON document in which they are kept.

Coordinates are voxel indices (z, y, x) on the image's grid or, with ``space="mm"``, RAS+ millimetres (x, y, z). A box
takes in its start and leaves out its stop, as Python's slices do; one slice is a box one voxel thick. In millimetres a
box holds the voxels whose centres lie between its two corners.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from medseg import documents, volume
from medseg.errors import DocumentError, UsageError
from medseg.volume import Geometry

Space = Literal["voxel", "mm"]
Position = tuple[float, float, float]
# Millimetres that went through a file's single precision still mean the voxel centre that they came from.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Box:
    """A box around an object, or with ``positive=False`` a box that the object does not reach into."""

    start: Position
    stop: Position
    object: int = 1
    positive: bool = True
    space: Space = "voxel"
    kind: Literal["box"] = "box"

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _position(self.start, "box"))
        object.__setattr__(self, "stop", _position(self.stop, "box"))

    @property
    def voxels(self) -> volume.Box:
        """The box of voxels, of a box that is given in voxels."""
        z0, y0, x0 = (int(value) for value in self.start)
        z1, y1, x1 = (int(value) for value in self.stop)
        return volume.Box((z0, y0, x0), (z1, y1, x1))

    @property
    def flat_axes(self) -> tuple[int, ...]:
        """Axes (of a box in voxels) along which it is one voxel thick."""
        return tuple(axis for axis, size in enumerate(self.voxels.shape) if size == 1)


@dataclass(frozen=True)
class Point:
    """A point in an object, or with ``positive=False`` outside of it."""

    at: Position
    object: int = 1
    positive: bool = True
    space: Space = "voxel"
    kind: Literal["point"] = "point"

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", _position(self.at, "point"))


@dataclass(frozen=True)
class Scribble:
    """A line through two or more points, in the object or outside of it; of two, an object's longest diameter."""

    points: tuple[Position, ...]
    object: int = 1
    positive: bool = True
    space: Space = "voxel"
    kind: Literal["scribble"] = "scribble"

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise UsageError(f"scribble: expected two or more points, found {len(self.points)}")
        object.__setattr__(self, "points", tuple(_position(point, "scribble") for point in self.points))


@dataclass(frozen=True)
class MaskPrompt:
    """A mask to begin with, or with ``positive=False`` voxels that the object does not take; on the image's grid.

    Attributes:
        shape: (Z, Y, X) of the grid.
        runs: lengths of its runs of equal voxels in C order, beginning with those outside.
    """

    shape: tuple[int, int, int]
    runs: tuple[int, ...]
    object: int = 1
    positive: bool = True
    kind: Literal["mask"] = "mask"

    def __post_init__(self) -> None:
        if min(self.runs, default=-1) < 0 or sum(self.runs) != np.prod(self.shape):
            raise UsageError(f"mask: its runs do not add up to {self.shape} voxels (Z, Y, X)")

    @classmethod
    def of(cls, mask: np.ndarray, object: int = 1, positive: bool = True) -> MaskPrompt:
        """The prompt of a (Z, Y, X) array, nonzero in the object."""
        flat = (mask != 0).ravel()
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
        z, y, x = mask.shape
        return cls((z, y, x), tuple([0, *runs] if flat[0] else runs), object, positive)

    @property
    def array(self) -> np.ndarray:
        """The mask as (Z, Y, X) bool."""
        inside = np.arange(len(self.runs)) % 2 == 1
        return np.repeat(inside, self.runs).reshape(self.shape)


@dataclass(frozen=True)
class Text:
    """A concept in words, as "liver", or with ``positive=False`` one that the object does not take."""

    text: str
    object: int = 1
    positive: bool = True
    kind: Literal["text"] = "text"

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UsageError("text: it is empty; say in a word or two what to segment")
        object.__setattr__(self, "text", " ".join(self.text.split()))


Prompt = Box | Point | Scribble | MaskPrompt | Text
Steps = tuple[tuple[Prompt, ...], ...]
_KINDS: dict[str, type[Box] | type[Point] | type[Scribble] | type[MaskPrompt] | type[Text]] = {
    "box": Box,
    "point": Point,
    "scribble": Scribble,
    "mask": MaskPrompt,
    "text": Text,
}


def locate(prompt: Prompt | volume.Box, geometry: Geometry) -> Prompt:
    """The same prompt in voxels of a grid.

    Raises:
        UsageError: it lies outside of the image, wholly or in part, or its box is empty.
    """
    match prompt:
        case volume.Box():
            return locate(Box(prompt.start, prompt.stop), geometry)
        case Box():
            return _located_box(prompt, geometry)
        case Point():
            return replace(prompt, at=_inside(prompt.at, prompt.space, geometry, "point"), space="voxel")
        case Scribble():
            points = tuple(_inside(point, prompt.space, geometry, "scribble") for point in prompt.points)
            return replace(prompt, points=points, space="voxel")
        case MaskPrompt():
            if prompt.shape != geometry.shape:
                raise UsageError(f"mask: expected the image's {_size(geometry)}, found {prompt.shape}")
            if prompt.positive and not any(prompt.runs[1::2]):
                raise UsageError("mask: it is empty; give one with voxels in it, or a box")
            return prompt
        case Text():
            return prompt
    raise UsageError(f"expected a Box, Point, Scribble, MaskPrompt or Text, found {type(prompt).__name__}")


def save_steps(steps: Sequence[Sequence[Prompt]], path: str | os.PathLike[str]) -> None:
    """Write the prompts of a session, step by step, as readable JSON.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    documents.save(_Document(1, tuple(tuple(step) for step in steps)), path)


def load_steps(path: str | os.PathLike[str]) -> Steps:
    """Read what :func:`save_steps` wrote, or a person by hand.

    Raises:
        DocumentError: the file is missing or is no such document; names the entry.
    """
    content = documents.read_json(path)
    if not isinstance(content, dict) or content.get("version") != 1 or not isinstance(content.get("steps"), list):
        raise DocumentError(f'{path}: expected {{"version": 1, "steps": [[prompt, ...], ...]}}')
    steps = []
    for number, step in enumerate(content["steps"]):
        if not isinstance(step, list):
            raise DocumentError(f"{path}: steps[{number}]: expected a list of prompts, found {type(step).__name__}")
        steps.append(tuple(parse_prompt(entry, f"{path}: steps[{number}][{i}]") for i, entry in enumerate(step)))
    return tuple(steps)


@dataclass(frozen=True)
class _Document:
    version: Literal[1]
    steps: Steps


def parse_prompt(entry: Any, where: str) -> Prompt:
    """The prompt of its JSON value.

    Raises:
        DocumentError: it is none; names ``where`` it stands.
    """
    kind = _KINDS.get(str(entry.get("kind"))) if isinstance(entry, dict) else None
    if kind is None:
        raise DocumentError(f"{where}: expected a prompt whose kind is one of {', '.join(_KINDS)}")
    return documents.from_json(kind, entry, where)


def _position(values: Sequence[float], what: str) -> Position:
    if len(values) != 3 or not np.isfinite(values).all():
        raise UsageError(f"{what}: expected three finite coordinates, found {tuple(values)}")
    a, b, c = (float(value) for value in values)
    return a, b, c


def _located_box(box: Box, geometry: Geometry) -> Box:
    start, stop = np.array(box.start), np.array(box.stop)
    if box.space == "mm":
        corners = [[(start, stop)[bit][axis] for axis, bit in enumerate(bits)] for bits in np.ndindex(2, 2, 2)]
        indices = geometry.to_index(corners)
        if (start >= stop).any():
            raise UsageError(f"box: it is empty: it reaches from {box.start} to {box.stop} mm (x, y, z)")
        start, stop = np.ceil(indices.min(0) - _ROUNDING), np.floor(indices.max(0) + _ROUNDING) + 1
    if (start % 1).any() or (stop % 1).any():
        raise UsageError(f"box: voxel indices are whole numbers, found {box.start} to {box.stop}")
    for axis, size in enumerate(geometry.shape):
        if start[axis] >= stop[axis]:
            raise UsageError(
                f"box: it is empty along {'zyx'[axis]}: from {start[axis]:g} up to, without, {stop[axis]:g};"
                " a single slice s is s to s + 1"
            )
        if start[axis] < 0 or stop[axis] > size:
            raise UsageError(
                f"box: it reaches outside of the image of {_size(geometry)}: along {'zyx'[axis]} from {start[axis]:g}"
                f" to {stop[axis]:g}"
            )
    return replace(box, start=tuple(start.tolist()), stop=tuple(stop.tolist()), space="voxel")


def _inside(position: Position, space: Space, geometry: Geometry, what: str) -> Position:
    index = geometry.to_index(position) if space == "mm" else np.array(position)
    if (index < -0.5 - _ROUNDING).any() or (index > np.array(geometry.shape) - 0.5 + _ROUNDING).any():
        found = f"{position} mm (x, y, z)" if space == "mm" else f"{position} (z, y, x)"
        raise UsageError(f"{what}: {found} lies outside of the image of {_size(geometry)}")
    return _position(index.tolist(), what)


def _size(geometry: Geometry) -> str:
    return f"{' x '.join(map(str, geometry.shape))} voxels (Z, Y, X)"
