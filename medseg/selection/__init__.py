"""Which model to predict with, and what to do to its masks, decided on the held-out cases of cross-validation.

    models/CONFIGURATION/fold_k/validation/CASE.nii.gz     (and CASE.npz, for the mean of two models)

Two rules. ``noise``, the default, takes what is more complicated only where it is better beyond noise; ``nnunet``
decides as nnU-Net v2 does, on means alone (Isensee et al. 2021).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from functools import partial

import numpy as np

from medseg.parallel import map_cases, values
from medseg.postprocessing import BEST_FILE, BestDocument, Candidate, Step
from medseg.progress import Progress, silent
from medseg.selection.measuring import VALIDATION_FOLDER, HeldOut, case_dice, held_out_cases, probabilities_of
from medseg.selection.rules import Rule, choose_model, mean_dice, steps_beyond_noise, steps_of_nnunet
from medseg.workspace import Workspace

__all__ = ["HeldOut", "Rule", "choose_best", "held_out_cases", "probabilities_of"]


def choose_best(
    workspace: str | os.PathLike[str] | Workspace,
    rule: Rule = "noise",
    *,
    workers: int | str = 0,
    progress: Progress = silent,
) -> BestDocument:
    """Compare configurations, pairs of them and steps after prediction; write ``best.json`` into the workspace.

    Folds count whose held-out cases are predicted by every configuration that has any. Pairs are compared where each
    case has its probabilities beside the mask.

    Raises:
        UsageError: no configuration has a validated fold, or they share none.
        CasesFailedError: some masks cannot be read.
    """
    opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    labels = opened.plan.labels
    names, folds, cases = held_out_cases(opened)
    sources = [(name,) for name in names]
    pairs = list(itertools.combinations(names, 2))
    has_pairs = all(path.is_file() for case in cases for path in map(probabilities_of, case.masks))
    sources += pairs if has_pairs else []

    def measure(source: Sequence[str], variants: Sequence[tuple[Step, ...]], what: str) -> np.ndarray:
        chosen = tuple(names.index(name) for name in source)
        task = partial(case_dice, labels, chosen, tuple(variants))
        outcomes = map_cases(task, cases, name=_name, what=what, workers=workers, progress=progress)
        return np.stack(values(outcomes, what), axis=-1)  # (variants, labels, cases)

    scores = np.concatenate([measure(source, [()], f"measuring {' + '.join(source)}") for source in sources])
    means = [mean_dice(score) for score in scores]
    chosen, because = choose_model(rule, [" + ".join(source) for source in sources], scores, means, len(names))
    if pairs and not has_pairs:
        because.append(
            "pairs of configurations were not compared: their probabilities are not beside the masks in"
            f" fold_*/{VALIDATION_FOLDER}"
        )
    search = steps_of_nnunet if rule == "nnunet" else steps_beyond_noise
    steps, reasons = search(labels, partial(measure, sources[chosen], what="trying steps"))
    best = BestDocument(
        version=1,
        rule=rule,
        configurations=sources[chosen],
        steps=tuple(steps),
        folds=folds,
        candidates=tuple(Candidate(source, mean) for source, mean in zip(sources, means, strict=True)),
        because=(*because, *reasons),
    )
    best.save(opened.root / BEST_FILE)
    return best


def _name(case: HeldOut) -> str:
    return case.case
