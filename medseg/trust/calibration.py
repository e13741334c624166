"""What held-out cases say about a model's probabilities: a temperature a fold, bands of Dice, what scans are like.

Each held-out case has been predicted by the one fold that has not seen it. A fold's temperature makes its probabilities
likeliest in and around the foreground (Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from medseg import documents, io
from medseg.dataset import CaseRef
from medseg.errors import DataError, UsageError
from medseg.fingerprinting import Fingerprint
from medseg.labels import LabelSet
from medseg.parallel import map_cases, values
from medseg.planning.plan import Plan
from medseg.preprocessing import decide
from medseg.progress import Progress, silent
from medseg.selection import HeldOut, held_out_cases, probabilities_of
from medseg.trust.bands import FEWEST_CASES, TRUST_FILE, TrustDocument, bands_of
from medseg.trust.drift import ScanNumbers, describe_scan, training_scans
from medseg.trust.overlap import OverlapSums
from medseg.volume import bounding_box
from medseg.workspace import Workspace

R = TypeVar("R")

_VOXELS_PER_CASE = 4_000
_PLANES = 16
_CERTAIN = 1e-6


def calibrate(
    workspace: str | os.PathLike[str] | Workspace,
    configuration: str | None = None,
    *,
    workers: int | str = 0,
    progress: Progress = silent,
) -> TrustDocument:
    """Compare held-out probabilities with references and write ``trust.json`` into the model folder.

    Probabilities lie beside held-out masks (:func:`medseg.crossvalidation.predict_held_out` puts them there).

    Raises:
        UsageError: no validated fold, no probabilities, or too few held-out cases for any label.
        CasesFailedError: some files cannot be read.
    """
    opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    plan = opened.plan
    name = plan.configuration(configuration).name
    _, folds, cases = held_out_cases(opened, (name,))
    if not all(probabilities_of(case.masks[0]).is_file() for case in cases):
        raise UsageError(
            f"{opened.model_folder(name)}: held-out masks without probabilities; make them with: medseg calibrate"
            f" -w {opened.root} -c {name}"
        )

    def over_cases(task: Callable[[Any], R], over: Sequence[Any], what: str) -> list[R]:
        return values(map_cases(task, over, name=_name, what=what, workers=workers, progress=progress), what)

    samples = over_cases(partial(_sample, plan.labels), cases, "fitting temperatures")
    temperatures = {
        str(fold): fit_temperature(
            [sample for sample, case in zip(samples, cases, strict=True) if case.fold == fold], plan.labels
        )
        for fold in folds
    }
    figures = over_cases(partial(_promised_and_true, plan.labels, temperatures), cases, "measuring promises")
    scans = over_cases(partial(_describe, plan), opened.dataset.cases, "describing scans")
    promised, true = (np.stack(columns) for columns in zip(*figures, strict=True))  # (cases, labels)
    document = TrustDocument(
        version=1,
        configuration=name,
        folds=folds,
        temperatures=temperatures,
        bands=bands_of(plan.labels.names, promised, true),
        presence=_presence(opened, plan.labels),
        scans=training_scans(scans),
    )
    if not document.bands:
        raise UsageError(
            f"{opened.root}: {len(cases)} held-out cases, a band needs {FEWEST_CASES} that hold a label;"
            " train more folds"
        )
    documents.save(document, opened.model_folder(name) / TRUST_FILE)
    return document


def fit_temperature(samples: Sequence[tuple[np.ndarray, np.ndarray]], labels: LabelSet) -> float:
    """The temperature with the least mean negative logarithm of what the references say; each case weighs the same.

    Args:
        samples: of each case logits (K, n) and wanted outputs (K, n) as 0 and 1.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import expit, log_softmax

    known = [sample for sample in samples if sample[0].shape[1]]

    def loss(log_temperature: float) -> float:
        total = 0.0
        for logits, wanted in known:
            scaled = logits.astype(np.float64) / math.exp(log_temperature)
            if labels.has_regions:
                total -= float(np.log(np.clip(expit(np.where(wanted, scaled, -scaled)), 1e-30, 1)).mean())
            else:
                total -= float((wanted * log_softmax(scaled, axis=0)).sum(axis=0).mean())
        return total

    found = minimize_scalar(loss, bounds=(math.log(0.25), math.log(8.0)), method="bounded")
    return float(np.exp(found.x))


def _name(case: HeldOut | CaseRef) -> str:
    return case.case if isinstance(case, HeldOut) else case.name


def _logits(case: HeldOut, labels: LabelSet) -> np.ndarray:
    """Logits (K, Z, Y, X) float32 of the held-out prediction, up to what a softmax leaves out."""
    path = probabilities_of(case.masks[0])
    try:
        with np.load(path, allow_pickle=False) as stored:
            likely = np.clip(stored["probabilities"], _CERTAIN, 1 - _CERTAIN)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{case.case}: {path} cannot be read as probabilities ({error}); predict it again") from error
    return np.log(likely / (1 - likely)) if labels.has_regions else np.log(likely)


def _decided(logits: torch.Tensor, labels: LabelSet) -> torch.Tensor:
    return decide((logits > 0).float() if labels.has_regions else logits, labels)


def _sample(labels: LabelSet, case: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Logits (K, n) and what the reference wants (K, n), at voxels evenly spaced in and around the foreground."""
    logits = _logits(case, labels)
    reference = labels.encode(io.read_labels(case.reference).array, where=case.case)
    decided = _decided(torch.from_numpy(logits), labels).numpy()
    box = bounding_box((reference > 0) | (decided > 0))
    if box is None:
        return logits[:, :0, 0, 0], logits[:, :0, 0, 0]
    grown = tuple(
        slice(max(0, start - (stop - start) // 4 - 1), stop + (stop - start) // 4 + 1)
        for start, stop in zip(box.start, box.stop, strict=True)
    )
    flat = logits[:, *grown].reshape(len(logits), -1)
    truth = reference[grown].ravel()
    step = max(1, truth.size // _VOXELS_PER_CASE)
    flat, truth = flat[:, ::step], truth[::step]
    annotated = truth != labels.ignore_index if labels.ignore_index is not None else np.ones(truth.shape, bool)
    flat, truth = flat[:, annotated], truth[annotated]
    if labels.has_regions:
        wanted = np.stack([np.isin(truth, covered) for covered in labels.class_indices])
    else:
        wanted = truth == np.arange(len(flat))[:, None]
    return flat, wanted


def _promised_and_true(
    labels: LabelSet, temperatures: Mapping[str, float], case: HeldOut
) -> tuple[np.ndarray, np.ndarray]:
    """Dice of each label that the probabilities promise, and that the reference gives; NaN where undefined."""
    logits = torch.from_numpy(_logits(case, labels))
    indices = _decided(logits, labels)
    sums = OverlapSums(labels, [temperatures[str(case.fold)]])
    for start in range(0, logits.shape[1], _PLANES):
        planes = slice(start, start + _PLANES)
        sums.hear([logits[:, planes]], indices[planes])
    promised = [math.nan if found.expected is None else found.expected for found in sums.found()]
    reference = labels.encode(io.read_labels(case.reference).array, where=case.case)
    counts = reference != labels.ignore_index if labels.ignore_index is not None else np.ones(reference.shape, bool)
    true = []
    for covered in labels.class_indices:
        first, second = (np.isin(array, covered) & counts for array in (indices.numpy(), reference))
        size = int(first.sum()) + int(second.sum())
        true.append(2 * int((first & second).sum()) / size if size else math.nan)
    return np.array(promised), np.array(true)


def _describe(plan: Plan, case: CaseRef) -> ScanNumbers:
    return describe_scan(io.read(case.images, channels=len(plan.channels)), plan)


def _presence(workspace: Workspace, labels: LabelSet) -> dict[str, float]:
    """Share of training cases that hold each label, from the fingerprint."""
    cases = documents.load(Fingerprint, workspace.fingerprint_path).cases
    places = {value: index for index, value in enumerate(labels.values)}
    return {
        name: float(np.mean([any(case.label_voxels[places[value]] for value in covered) for case in cases]))
        for name, covered in labels.classes.items()
    }
