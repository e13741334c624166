"""What the planning rules need to know of a dataset, whichever document it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from medseg.errors import DocumentError
from medseg.fingerprinting import Fingerprint

Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset as the rules see it; one spacing (mm) and one shape (voxels, after cropping) a case, axes (Z, Y, X).

    Attributes:
        label_entries: background, classes, and ignore if declared.
        training_cases: how many cases there are to train on.
        relative_size: median over cases of the share of voxels that cropping to nonzero leaves.
        slice_axis: the axis along which every case is a single slice, if the data are pictures. The spacing along
            it means nothing.

    Raises:
        DocumentError: no cases, or numbers that no scan can have.
    """

    channels: tuple[str, ...]
    label_entries: int
    training_cases: int
    spacings_mm: tuple[Spacing, ...]
    shapes: tuple[Shape, ...]
    relative_size: float
    slice_axis: int | None = None

    def __post_init__(self) -> None:
        if not self.spacings_mm or self.training_cases < 1:
            raise DocumentError("fingerprint: it holds no cases; make it anew from a dataset with training cases")
        if len(self.spacings_mm) != len(self.shapes):
            raise DocumentError(f"fingerprint: {len(self.spacings_mm)} spacings but {len(self.shapes)} shapes")
        if not self.channels:
            raise DocumentError("fingerprint: the dataset declares no channels")
        for spacing, shape in zip(self.spacings_mm, self.shapes, strict=True):
            if len(spacing) != 3 or not all(isfinite(step) and step > 0 for step in spacing):
                raise DocumentError(f"fingerprint: expected three positive spacings in mm, found {list(spacing)}")
            if len(shape) != 3 or any(size < 1 for size in shape):
                raise DocumentError(f"fingerprint: expected three sizes of at least 1 voxel, found {list(shape)}")


def facts_of(fingerprint: Fingerprint) -> DatasetFacts:
    """The facts in a fingerprint.

    Raises:
        DocumentError: no cases, or numbers that no scan can have.
    """
    return DatasetFacts(
        channels=fingerprint.channels,
        label_entries=fingerprint.labels.entry_count,
        training_cases=len(fingerprint.cases),
        spacings_mm=tuple(case.spacing_mm for case in fingerprint.cases),
        shapes=tuple(case.cropped_shape for case in fingerprint.cases),
        relative_size=fingerprint.median_relative_size_after_cropping,
        slice_axis=_slice_axis(tuple(case.shape for case in fingerprint.cases)),
    )


def _slice_axis(shapes: tuple[Shape, ...]) -> int | None:
    flat = [axis for axis in range(3) if all(shape[axis] == 1 for shape in shapes)]
    return flat[0] if flat else None
