"""Left and right: which classes change places when a patient is mirrored, and which axes may be mirrored at all.

A mirrored left kidney looks like a right one. Whoever mirrors scans along the left-right axis must therefore exchange
such labels, and where a class of one side has no counterpart must leave that axis alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medseg.labels import LabelSet

Pairs = tuple[tuple[str, str], ...]

# Words count wherever they stand in a name; abbreviations only with a counterpart, and letters only at either end.
_WORDS = {"left": "left", "right": "right"}
_ABBREVIATIONS = {"l": "left", "r": "right", "lt": "left", "rt": "right", "lh": "left", "rh": "right"}
# Organs of which there is one: their left part is no mirror image of their right part.
_SINGLE = {"heart", "atrium", "atria", "atrial", "auricle", "coronary", "liver", "hepatic", "portal", "colon", "colic"}
# The heart's ventricles are, the brain's are not, and those are called lateral.
_VENTRICLES, _OF_THE_BRAIN = {"ventricle", "ventricular"}, {"lateral", "lat", "brain", "cerebral"}
_PARTS_OF_A_NAME = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True)
class Laterality:
    """The sides of a dataset's classes.

    Attributes:
        pairs: names of left and right counterparts.
        alone: classes of one side that nothing mirrors.
    """

    pairs: Pairs = ()
    alone: tuple[str, ...] = ()

    @property
    def is_sided(self) -> bool:
        """Whether it matters for any class which side of the patient it is on."""
        return bool(self.pairs or self.alone)


@dataclass(frozen=True)
class Mirroring:
    """How patches may be mirrored.

    Attributes:
        axes: axes of the patch that may be reversed.
        swap_axis: the one whose reversal exchanges the classes of ``pairs``, if there is any.
        pairs: names of left and right counterparts.
    """

    axes: tuple[int, ...]
    swap_axis: int | None = None
    pairs: Pairs = ()


def laterality_of(labels: LabelSet) -> Laterality:
    """The sides of classes, as stated with the labels or else from their names."""
    if labels.mirror_pairs is not None:
        return Laterality(labels.mirror_pairs)
    found = laterality_of_names(labels.names)
    if found.pairs and index_swaps(labels, found.pairs) is None:
        return Laterality((), tuple(name for name in labels.names if name in {n for pair in found.pairs for n in pair}))
    return found


def laterality_of_names(names: Iterable[str]) -> Laterality:
    """Counterparts such as ``left_kidney`` and ``right_kidney``, ``Kidney L`` and ``Kidney R``, in order of names."""
    sides: dict[tuple[str, ...], dict[str, list[str]]] = {}
    alone: list[str] = []
    for name in names:
        tokens = [token.lower() for token in _PARTS_OF_A_NAME.findall(name)]
        words = [i for i, token in enumerate(tokens) if token in _WORDS]
        shorts = [
            i
            for i, token in enumerate(tokens)
            if token in _ABBREVIATIONS and len(tokens) > 1 and (len(token) > 1 or i in (0, len(tokens) - 1))
        ]
        if len(words) > 1:
            alone.append(name)
        elif words or len(shorts) == 1:
            at = (words or shorts)[0]
            side = (_WORDS if words else _ABBREVIATIONS)[tokens[at]]
            key = (*tokens[:at], "word" if words else "abbreviation", *tokens[at + 1 :])
            sides.setdefault(key, {"left": [], "right": []})[side].append(name)
    pairs = []
    for key, found in sides.items():
        if len(found["left"]) == len(found["right"]) == 1 and not _is_single_organ(key):
            pairs.append((found["left"][0], found["right"][0]))
        elif "word" in key or (found["left"] and found["right"]):
            alone += [*found["left"], *found["right"]]
    return Laterality(tuple(pairs), tuple(alone))


def mirroring_of(labels: LabelSet, orientation: str, axis_order: Sequence[int], dimensions: int) -> Mirroring:
    """How patches of 2 or 3 dimensions may be mirrored.

    Args:
        orientation: axis directions of arrays, such as ``"RAS"`` (x, y, z), or ``"stored"`` where they are not known.
        axis_order: the order in which a patch has the axes (Z, Y, X); two dimensions lack the first.
    """
    axes = tuple(range(dimensions))
    laterality = laterality_of(labels)
    if not laterality.is_sided:
        return Mirroring(axes)
    letters = [letter in "LR" for letter in orientation.upper()]
    if len(letters) != 3 or sum(letters) != 1:
        return Mirroring(())
    across = list(axis_order).index(2 - letters.index(True)) - (3 - dimensions)
    if laterality.alone:
        return Mirroring(tuple(axis for axis in axes if axis != across))
    return Mirroring(axes, across, laterality.pairs) if across >= 0 else Mirroring(axes)


def index_swaps(labels: LabelSet, pairs: Pairs) -> tuple[tuple[int, int], ...] | None:
    """Pairs of indices inside that change places; None where the regions do not say which.

    A region of several values needs classes of single values that say where each of them goes.
    """
    covered = dict(zip(labels.names, labels.class_indices, strict=True))
    other: dict[int, int] = {}
    for left, right in pairs:
        if len(covered[left]) == len(covered[right]) == 1:
            (one,), (two,) = covered[left], covered[right]
            if other.setdefault(one, two) != two or other.setdefault(two, one) != one:
                return None
    counterpart = {name: name for name in labels.names}
    counterpart |= dict(pairs) | {right: left for left, right in pairs}
    for name, indices in covered.items():
        if {other.get(index, index) for index in indices} != set(covered[counterpart[name]]):
            return None
    return tuple((one, two) for one, two in other.items() if one < two)


def mirrored_outputs(labels: LabelSet, pairs: Pairs) -> tuple[int, ...]:
    """For each output channel of a network the channel that takes its place in a mirrored patient."""
    order = list(range(labels.output_count))
    channel = {name: (i if labels.has_regions else labels.class_indices[i][0]) for i, name in enumerate(labels.names)}
    for left, right in pairs:
        order[channel[left]], order[channel[right]] = channel[right], channel[left]
    return tuple(order)


def mirrored_inputs(labels: LabelSet, pairs: Pairs, channels: int, *, cascade: bool) -> tuple[int, ...]:
    """For each input channel of a network the channel that takes its place in a mirrored patient.

    Args:
        channels: of the scan; these stay.
        cascade: whether a channel for each label index of the previous stage's mask follows, from 1 on.
    """
    order = list(range(channels + (len(labels.values) if cascade else 0)))
    for left, right in (index_swaps(labels, pairs) or ()) if cascade else ():
        one, two = channels + left - 1, channels + right - 1
        order[one], order[two] = two, one
    return tuple(order)


def _is_single_organ(tokens: Sequence[str]) -> bool:
    found = set(tokens)
    return bool(found & _SINGLE or (found & _VENTRICLES and not found & _OF_THE_BRAIN))
