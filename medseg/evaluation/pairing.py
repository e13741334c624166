"""Which prediction belongs to which reference: by the place and name of their files, endings aside."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg import io
from medseg.errors import LabelError, UsageError
from medseg.volume import LabelVolume

_DICOM_ENDINGS = (".seg.dcm", ".rtstruct.dcm", ".dcm")


@dataclass(frozen=True)
class Pair:
    """The two masks of one case.

    Attributes:
        segments: of DICOM masks: what voxels of a segment hold, by its name; by default the labels' own names.
    """

    prediction: Path
    reference: Path
    segments: tuple[tuple[str, int], ...] = ()

    def read(self, labels: Mapping[str | int, tuple[int, ...]]) -> tuple[LabelVolume, LabelVolume]:
        """Prediction and reference. DICOM masks are put on the grid of the other one.

        Args:
            labels: name to values; names the segments of DICOM masks.

        Raises:
            LabelError: a DICOM mask, and no label has a name; or as :func:`medseg.io.read_labels`.
            FileUnreadableError, GeometryError, UsageError: as :func:`medseg.io.read_labels`.
        """
        in_dicom = {path: io.holds_dicom(path) for path in (self.prediction, self.reference)}
        named = {str(name): held[0] for name, held in labels.items() if isinstance(name, str) and len(held) == 1}
        values = dict(self.segments) or named
        for path in (path for path, found in in_dicom.items() if found and not values):
            raise LabelError(f"{path}: segments are told apart by their names; name the labels with --labels")
        if in_dicom[self.prediction]:
            reference = io.read_labels(self.reference, values=values)
            return io.read_labels(self.prediction, grid=reference.geometry, values=values), reference
        prediction = io.read_labels(self.prediction)
        return prediction, io.read_labels(self.reference, grid=prediction.geometry, values=values)


@dataclass(frozen=True)
class Pairing:
    """The pairs by case, why some cases have none, and what was left aside."""

    pairs: dict[str, Pair]
    failures: dict[str, str]
    warnings: tuple[str, ...] = ()


def pair_masks(predictions: str | os.PathLike[str], references: str | os.PathLike[str]) -> Pairing:
    """Pair two folders of masks, with all folders below them, or two files.

    The case is the reference's path within its folder without the file's ending. A prediction fits that has the same
    path, or else the same name where only one file on each side has it. Of a dataset folder, ``labelsTr`` is taken.

    Raises:
        UsageError: a path that does not exist, a file against a folder, or no references.
    """
    predicted, wanted = _existing(predictions, "predictions"), _existing(references, "references")
    if predicted.is_file() != wanted.is_file():
        raise UsageError(f"{predicted} and {wanted}: one is a file, the other a folder; give two files or two folders")
    if wanted.is_file():
        return Pairing({_name_of(wanted): Pair(predicted, wanted)}, {})
    if (wanted / "labelsTr").is_dir():
        wanted = wanted / "labelsTr"
    masks = _masks(wanted)
    if not masks:
        raise UsageError(f"references: no mask found in {wanted}; give the folder that holds them")
    return _pair(_masks(predicted), masks)


def _pair(predictions: Mapping[str, list[Path]], references: Mapping[str, list[Path]]) -> Pairing:
    predicted_alone, reference_alone = _only_of_its_name(predictions), _only_of_its_name(references)
    pairs: dict[str, Pair] = {}
    failures: dict[str, str] = {}
    used = set()
    for case, files in references.items():
        name = case.rpartition("/")[2]
        partner = case
        if case not in predictions and reference_alone.get(name) == case:
            partner = predicted_alone.get(name, case)
        used.add(partner)
        candidates = predictions.get(partner, [])
        if not candidates:
            failures[case] = f"no prediction is named {name}; predict this case, or rename its file"
        elif len(candidates) > 1 or len(files) > 1:
            several = ", ".join(path.name for path in (candidates if len(candidates) > 1 else files))
            failures[case] = f"several files for one case: {several}; keep one of them"
        else:
            pairs[case] = Pair(candidates[0], files[0])
    spare = [case for case in predictions if case not in used]
    return Pairing(pairs, failures, tuple(f"prediction without reference, not compared: {case}" for case in spare))


def _existing(path: str | os.PathLike[str], what: str) -> Path:
    if not Path(path).exists():
        raise UsageError(f"{what}: no such file or folder: {path}; give a mask or a folder of masks")
    return Path(path)


def _masks(folder: Path) -> dict[str, list[Path]]:
    """Files that a mask may be in, by path within the folder without ending; hidden ones are no masks."""
    masks = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        is_mask = io.is_image_name(path) or path.name.endswith(_DICOM_ENDINGS)
        if is_mask and path.is_file() and not any(part.startswith(".") for part in inside.parts):
            masks[(inside.parent / _name_of(path)).as_posix()].append(path)
    return dict(masks)


def _name_of(path: Path) -> str:
    ending = next((ending for ending in _DICOM_ENDINGS if path.name.endswith(ending)), "")
    return path.name.removesuffix(ending) if ending else io.name_of(path)


def _only_of_its_name(masks: Mapping[str, list[Path]]) -> dict[str, str]:
    """Name of a file to its case, for names that occur once below a folder."""
    cases = defaultdict(list)
    for case in masks:
        cases[case.rpartition("/")[2]].append(case)
    return {name: found[0] for name, found in cases.items() if len(found) == 1}
