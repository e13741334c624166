"""What is done to a mask after prediction: pure functions on label volumes, and the document that names the steps.

Voxels that are taken away become background. Voxels that touch at a face, edge or corner belong together; a hole is
background that no path of faces leads out of.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from medseg import documents
from medseg.errors import DocumentError
from medseg.volume import Box, LabelVolume, bounding_box

BEST_FILE = "best.json"

Kind = Literal["largest_component", "minimum_size", "fill_holes"]


@dataclass(frozen=True)
class Step:
    """One step: what is done to the voxels that hold any of some values, taken together.

    Attributes:
        kind: keep the largest component alone; take away components smaller than ``minimum_mm3``; fill holes with the
            value (of several, the first).
        values: file values of a label, of a region, or of the whole foreground.
        minimum_mm3: of ``minimum_size``.

    Raises:
        DocumentError: no values, or a size where none belongs or none where one does.
    """

    kind: Kind
    values: tuple[int, ...]
    minimum_mm3: float | None = None

    def __post_init__(self) -> None:
        if not self.values:
            raise DocumentError(f"{self.kind}: no label values; name those that the step is for")
        if (self.minimum_mm3 is not None) != (self.kind == "minimum_size") or (
            self.minimum_mm3 is not None and self.minimum_mm3 <= 0
        ):
            raise DocumentError(f"{self.kind}: minimum_mm3 is {self.minimum_mm3}; minimum_size needs one above 0")

    def __str__(self) -> str:
        what = self.kind.replace("_", " ")
        size = "" if self.minimum_mm3 is None else f" of {self.minimum_mm3:g} mm³"
        return f"{what}{size} for {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Candidate:
    """A model, or the mean of two, with its Dice on the held-out cases: the mean over labels of the mean over cases."""

    configurations: tuple[str, ...]
    dice: float


@dataclass(frozen=True)
class BestDocument:
    """``best.json``: which models to predict with, and what to do to their masks.

    Attributes:
        rule: by which it was decided.
        configurations: whose probabilities are averaged; one, or two.
        steps: in the order they are applied.
        folds: that the decision rests on.
        candidates: everything that was compared.
        because: each decision with its reason, for people.
    """

    version: Literal[1]
    rule: Literal["noise", "nnunet"]
    configurations: tuple[str, ...]
    steps: tuple[Step, ...]
    folds: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    because: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, whole or not at all.

        Raises:
            StorageError: the folder cannot be written, or no space is left.
        """
        documents.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BestDocument:
        """Read a ``best.json``, or the one in a workspace.

        Raises:
            DocumentError: it is missing or does not parse.
        """
        file = Path(path)
        return documents.load(cls, file / BEST_FILE if file.is_dir() else file)


def apply(steps: Sequence[Step], mask: LabelVolume, background: int = 0) -> LabelVolume:
    """A mask after all steps, in order; the same mask where nothing changes.

    Args:
        steps: of a :class:`BestDocument`, say.
        mask: file values; stays as it is. What its ``labels`` mean plays no part.
        background: file value of voxels that are taken away (``LabelSet.background``).
    """
    array = mask.array
    for step in steps:
        array = apply_step(step, array, mask.geometry.voxel_volume_ml * 1000, background)
    return mask if array is mask.array else mask.with_array(array)


def apply_step(step: Step, array: np.ndarray, voxel_mm3: float, background: int = 0) -> np.ndarray:
    """One step on label values (Z, Y, X); the array itself where nothing changes, else a new one."""
    selected = array == step.values[0] if len(step.values) == 1 else np.isin(array, step.values)
    box = bounding_box(selected)
    if box is None:
        return array
    inside = selected[box.slices]
    match step.kind:
        case "largest_component":
            kept = _components_kept(inside, None)
        case "minimum_size":
            kept = _components_kept(inside, cast(float, step.minimum_mm3) / voxel_mm3)
        case "fill_holes":
            return _filled(array, box, inside, step.values[0], background)
    if kept is None:
        return array
    changed = array.copy()
    changed[box.slices][inside & ~kept] = background
    return changed


def _components_kept(mask: np.ndarray, least_voxels: float | None) -> np.ndarray | None:
    """The largest component (all of equal ones), or all with at least so many voxels; none if that is everything."""
    from scipy.ndimage import label

    components, count = cast(tuple[np.ndarray, int], label(mask, np.ones((3,) * mask.ndim)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = sizes == sizes.max() if least_voxels is None else sizes >= least_voxels - 1e-6
    if keep[1:].all():
        return None
    keep[0] = False
    return keep[components]


def _filled(array: np.ndarray, box: Box, mask: np.ndarray, value: int, background: int) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes

    # An image of one slice lies open on both faces; its holes are those of the plane.
    plane = tuple(axis for axis, size in enumerate(array.shape) if size == 1)
    filled = np.expand_dims(np.asarray(binary_fill_holes(mask.squeeze(plane))), plane)
    holes = filled & ~mask & (array[box.slices] == background)
    if not holes.any():
        return array
    changed = array.copy()
    changed[box.slices][holes] = value
    return changed
