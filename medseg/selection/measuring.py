"""The held-out cases of cross-validation, and the Dice that models and steps reach on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg import io
from medseg.errors import DataError, UsageError
from medseg.labels import LabelSet
from medseg.postprocessing import Step, apply_step
from medseg.workspace import Workspace

VALIDATION_FOLDER = "validation"


@dataclass(frozen=True)
class HeldOut:
    """One held-out case: its fold, its reference, and its mask by each configuration in order."""

    case: str
    fold: int
    reference: Path
    masks: tuple[Path, ...]


def held_out_cases(
    workspace: Workspace, configurations: Sequence[str] | None = None
) -> tuple[list[str], tuple[int, ...], list[HeldOut]]:
    """Configurations with validated folds, the folds that all of them have, and their held-out cases.

    Args:
        configurations: names to look at; by default all.

    Raises:
        UsageError: there is none of these.
    """
    cases = {case.name: case for case in workspace.dataset.cases if case.label is not None}
    members = [[cases[name] for name in split.validation if name in cases] for split in workspace.splits]

    def mask(configuration: str, fold: int, case: str) -> Path:
        folder = workspace.model_folder(configuration) / f"fold_{fold}" / VALIDATION_FOLDER
        return folder / f"{case}{io.mask_ending(cases[case].images[0])}"

    complete = {
        configuration.name: {
            fold
            for fold, held_out in enumerate(members)
            if held_out and all(mask(configuration.name, fold, case.name).is_file() for case in held_out)
        }
        for configuration in workspace.plan.configurations
        if configurations is None or configuration.name in configurations
    }
    names = [name for name, folds in complete.items() if folds]
    folds = sorted(set.intersection(*(complete[name] for name in names))) if names else []
    if not folds:
        found = "; ".join(f"{name}: folds {sorted(complete[name])}" for name in names) or "none"
        raise UsageError(
            f"{workspace.root}: no validated fold that all configurations share, found {found};"
            f" train them with: medseg train -w {workspace.root} -c CONFIGURATION --fold all"
        )
    return (
        names,
        tuple(folds),
        [
            HeldOut(case.name, fold, case.label, tuple(mask(name, fold, case.name) for name in names))
            for fold in folds
            for case in members[fold]
            if case.label is not None
        ],
    )


def case_dice(
    labels: LabelSet, chosen: tuple[int, ...], variants: tuple[tuple[Step, ...], ...], case: HeldOut
) -> np.ndarray:
    """Dice (variants, labels) of one case; NaN where neither mask holds the label. Ignored voxels do not count."""
    reference = io.read_labels(case.reference)
    if len(chosen) == 1:
        mask = io.read_labels(case.masks[chosen[0]])
        mask.geometry.require_equal(reference.geometry, f"{case.masks[chosen[0]]}", f"{case.reference}")
        predicted = mask.array
    else:
        predicted = _mean_mask([probabilities_of(case.masks[index]) for index in chosen], labels, case)
    counts = ~(reference.array == labels.ignore) if labels.ignore is not None else np.True_
    wanted = [np.isin(reference.array, covered) & counts for covered in labels.classes.values()]
    sizes = [int(np.count_nonzero(each)) for each in wanted]
    voxel_mm3 = reference.geometry.voxel_volume_ml * 1000
    done: dict[tuple[Step, ...], np.ndarray] = {(): predicted}
    rows = []
    for steps in variants:
        array = done.get(steps)
        if array is None:
            array = done.get(steps[:-1])
            if array is None:
                array = predicted
                for step in steps[:-1]:
                    array = apply_step(step, array, voxel_mm3, labels.background)
                done[steps[:-1]] = array
            array = apply_step(steps[-1], array, voxel_mm3, labels.background)
        row = []
        for covered, reference_mask, size in zip(labels.classes.values(), wanted, sizes, strict=True):
            found = np.isin(array, covered) & counts
            total = int(np.count_nonzero(found)) + size
            row.append(2 * int(np.count_nonzero(found & reference_mask)) / total if total else np.nan)
        rows.append(row)
    return np.array(rows, dtype=float)


def probabilities_of(mask: Path) -> Path:
    """Where the probabilities of a mask lie."""
    return mask.with_name(f"{io.name_of(mask)}.npz")


def _mean_mask(files: Sequence[Path], labels: LabelSet, case: HeldOut) -> np.ndarray:
    """What the mean of probabilities (K, Z, Y, X) says, as file values (Z, Y, X)."""
    total = None
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as stored:
                probabilities = stored["probabilities"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{case.case}: {file} cannot be read as probabilities ({error}); predict it again"
            ) from error
        total = probabilities if total is None else total + probabilities
    assert total is not None
    if not labels.has_regions:
        return labels.decode(total.argmax(axis=0))
    indices = np.zeros(total.shape[1:], np.int16)
    for region, index in zip(total, labels.region_order_indices, strict=True):
        indices[region > 0.5 * len(files)] = index
    return labels.decode(indices)
