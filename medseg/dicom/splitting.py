"""Telling the volumes of one series apart: echoes, phases, time points, diffusion directions."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields

from medseg.dicom.frames import Plane, Traits

_WORDS = {
    "component": "",
    "stack": "stack ",
    "echo": "echo ",
    "inversion": "inversion ",
    "flip_angle": "flip angle ",
    "b_value": "b ",
    "gradient": "gradient ",
    "temporal_position": "time ",
    "cardiac_phase": "phase ",
    "trigger": "trigger ",
    "reference_time": "reference time ",
    "acquisition": "acquisition ",
    "acquisition_time": "acquired ",
}
# A trait divides a stack into volumes if the usual part then covers at least this much of all positions; what differs
# from slice to slice (the moment of acquisition, say) is no such trait.
_COVERS = 0.5
_PLACE_DIGITS = 2  # of positions in mm, to count those that are one


def split_stack(
    planes: Sequence[Plane], instance_number: Callable[[Plane], int | None]
) -> list[tuple[str, list[Plane]]]:
    """Divide planes of one orientation into parts in which no position occurs twice, as far as headers allow.

    Returns:
        Name and planes of each part, in order of what tells them apart. A part where a position still occurs twice is
        for the caller to refuse.
    """
    parts: list[tuple[str, list[Plane]]] = [("", list(planes))]
    for trait in fields(Traits):
        divided: list[tuple[str, list[Plane]]] = []
        for name, part in parts:
            divided += _divide(name, part, trait.name)
        parts = divided
    return [piece for name, part in parts for piece in _by_repetition(name, part, instance_number)]


def _divide(name: str, planes: list[Plane], trait: str) -> list[tuple[str, list[Plane]]]:
    places = {_place(plane) for plane in planes}
    if len(places) == len(planes):
        return [(name, planes)]
    groups: dict[object, list[Plane]] = defaultdict(list)
    for plane in planes:
        groups[getattr(plane.traits, trait)].append(plane)
    covered = statistics.median(len({_place(plane) for plane in group}) for group in groups.values())
    if len(groups) < 2 or covered < _COVERS * len(places):
        return [(name, planes)]
    ordered = sorted(groups.items(), key=lambda item: (item[0] is not None, item[0]))  # type: ignore[arg-type]
    words = _distinct(trait, [value for value, _ in ordered])
    return [(", ".join(filter(None, (name, word))), group) for word, (_, group) in zip(words, ordered, strict=True)]


def _by_repetition(
    name: str, planes: list[Plane], instance_number: Callable[[Plane], int | None]
) -> list[tuple[str, list[Plane]]]:
    """Whole volumes one after the other by instance number, where every position occurs equally often."""
    places = {_place(plane) for plane in planes}
    times, rest = divmod(len(planes), len(places))
    numbers = [instance_number(plane) for plane in planes]
    if times == 1 or rest or any(number is None for number in numbers):
        return [(name, planes)]
    ordered = [plane for _, _, plane in sorted(zip(numbers, [p.frame for p in planes], planes, strict=True), key=_key)]
    chunks = [ordered[start : start + len(places)] for start in range(0, len(ordered), len(places))]
    if any({_place(plane) for plane in chunk} != places for chunk in chunks):
        return [(name, planes)]
    unique = {(number, plane.frame) for number, plane in zip(numbers, planes, strict=True)}
    if len(unique) < len(planes):
        return [(name, planes)]
    return [(", ".join(filter(None, (name, f"repeat {i}"))), chunk) for i, chunk in enumerate(chunks, 1)]


def _key(item: tuple[int | None, int, Plane]) -> tuple[int, int]:
    return item[0] or 0, item[1]


def _place(plane: Plane) -> tuple[float, ...]:
    assert plane.position is not None
    return tuple(round(value, _PLACE_DIGITS) + 0.0 for value in plane.position)


def _distinct(trait: str, values: list[object]) -> list[str]:
    """A short text for each value: of image types only the parts in which they differ."""
    if trait == "component":
        texts = [str(value).split("\\") for value in values]
        length = max(map(len, texts))
        padded = [text + [""] * (length - len(text)) for text in texts]
        differing = [index for index in range(length) if len({text[index] for text in padded}) > 1]
        return [" ".join(filter(None, (text[index] for index in differing))) or "plain" for text in padded]
    if trait == "gradient":
        return [f"gradient {number}" if value is not None else "" for number, value in enumerate(values)]
    word = _WORDS[trait]
    return [f"{word}{value:g}" if isinstance(value, float) else f"{word}{value or 'none'}" for value in values]
