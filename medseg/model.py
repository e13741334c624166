"""The model folder: everything prediction needs, and nothing else.

    model.json                    plan and configuration: readable
    fold_0/weights.safetensors    one trained network per fold (fold_1 ...)
    fold_0/plan.json              the plan with the network that this fold trained; without it, model.json's holds
    previous_stage/               in a cascade: the model of the stage before, in the same form

Weights are safetensors and the rest is JSON: opening a model runs no code from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from medseg import atomic, documents, networks
from medseg.device import Precision
from medseg.errors import DocumentError, ModelError
from medseg.laterality import Mirroring, Pairs
from medseg.planning.plan import Configuration, Plan

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
FOLD_PLAN_FILE = "plan.json"
VALIDATION_FOLDER = "validation"
PREVIOUS_FOLDER = "previous_stage"


@dataclass(frozen=True)
class ModelDocument:
    """What ``model.json`` holds: the plan, and the name of the configuration that the networks were trained for."""

    version: Literal[1]
    plan: Plan
    configuration: str


@dataclass(frozen=True)
class FoldFacts:
    """How one fold was trained; lies in the header of its weights.

    Attributes:
        mirror_axes: axes (of the patch) along which it has seen mirrored scans, so that predictions may be averaged.
        precision: what it was trained in.
        seconds: training time.
        swap_axis: the mirrored axis along which left and right classes changed places, if any did.
        swapped: names of the left and right classes that did.
    """

    mirror_axes: tuple[int, ...]
    precision: Precision
    iterations: int
    seconds: float
    seed: int
    swap_axis: int | None = None
    swapped: Pairs = ()


@dataclass(frozen=True, eq=False)
class Model:
    """Trained networks of one configuration: an ensemble of folds.

    Folds may have trained different networks, or with another plan: each budget buys its own. Those that are like the
    first are together, all others in models of their own.

    Attributes:
        mirror_axes: axes along which all folds have seen mirrored scans.
        precision: what they were trained in; of several the finest.
        weights: for each fold (by name) its tensors.
        swap_axis: of the mirrored axes the one along which left and right classes changed places, if any did.
        swapped: names of the left and right classes that did.
        previous: in a cascade the model of the stage before, if it came along.
        others: models of the folds with another plan or network; their probabilities are averaged with this one's.
    """

    plan: Plan
    configuration: Configuration
    mirror_axes: tuple[int, ...]
    precision: Precision
    weights: Mapping[str, Mapping[str, torch.Tensor]]
    swap_axis: int | None = None
    swapped: Pairs = ()
    previous: Model | None = None
    others: tuple[Model, ...] = ()

    @property
    def parts(self) -> tuple[Model, ...]:
        """The model without ``others``, and these: each with folds that have one network."""
        return (replace(self, others=()), *self.others)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan, the configuration and all weights: models with the same give the same masks."""
        digest = hashlib.sha256(documents.to_text(self.plan).encode() + self.configuration.name.encode())
        for fold in self.weights.values():
            for name, tensor in fold.items():
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        for model in (*filter(None, [self.previous]), *self.others):
            digest.update(model.digest.encode())
        return digest.hexdigest()

    def build_networks(self) -> tuple[torch.nn.Module, ...]:
        """One network a fold, weights loaded, in evaluation mode, on the CPU.

        Raises:
            ModelError: weights do not fit the plan; names the fold and the first tensor that does not.
        """
        built = []
        for fold, tensors in self.weights.items():
            network = networks.build(
                self.configuration.network, input_channels(self.plan, self.configuration), self.plan.labels.output_count
            )
            try:
                load_weights(network, tensors, where=f"fold {fold} of {self.configuration.name}")
            except ModelError as error:
                raise ModelError(f"{error}; take plan and weights from one model") from error
            built.append(network.eval())
        return tuple(built)


def input_channels(plan: Plan, configuration: Configuration) -> int:
    """Channels a network sees: the scan's and, in a cascade, one for each label value of the previous stage's mask."""
    return len(plan.channels) + (len(plan.labels.values) if configuration.previous_stage else 0)


def fold_folder(model_folder: Path, fold: int | str) -> Path:
    """Where one fold of a model lies."""
    return model_folder / f"fold_{fold}"


def load_model(folder: str | os.PathLike[str], folds: Sequence[int | str] | None = None) -> Model:
    """Read a model folder; by default all folds in it.

    Raises:
        ModelError: the folder, a fold, or its weights are missing or damaged; lists what is there.
        DocumentError: ``model.json`` does not parse.
    """
    root = Path(folder)
    if not (root / MODEL_FILE).is_file():
        raise ModelError(f"{root}: no {MODEL_FILE} here; a model is a folder such as WORKSPACE/models/3d_fullres")
    document = documents.load(ModelDocument, root / MODEL_FILE)
    present = sorted(path.parent.name.removeprefix("fold_") for path in root.glob(f"fold_*/{WEIGHTS_FILE}"))
    wanted = present if folds is None else [str(fold) for fold in folds]
    missing = [fold for fold in wanted if fold not in present]
    if missing or not wanted:
        found = f"found {', '.join(present)}" if present else "found none"
        raise ModelError(
            f"{root}: no trained fold {', '.join(missing) or 'at all'} ({found}); train it or choose another"
        )
    before = root / PREVIOUS_FOLDER
    configuration = document.plan.configuration(document.configuration)
    previous = load_model(before) if configuration.previous_stage and (before / MODEL_FILE).is_file() else None
    like: list[tuple[Plan, list[str]]] = []  # folds that trained with the same plan
    for fold in wanted:
        path = fold_folder(root, fold) / FOLD_PLAN_FILE
        plan = Plan.load(path) if path.is_file() else document.plan
        for other, folds_ in like:
            if _trains_alike(plan, other, document.configuration):
                folds_.append(fold)
                break
        else:
            like.append((plan, [fold]))
    first, *others = [_load_folds(root, plan, document.configuration, names, previous) for plan, names in like]
    return replace(first, others=tuple(others))


def _trains_alike(one: Plan, two: Plan, configuration: str) -> bool:
    """Whether logits of networks trained with two plans can be averaged: all but batches and words is equal."""

    def essence(plan: Plan) -> tuple[object, ...]:
        chosen = plan.configuration(configuration)
        return (
            plan.orientation,
            plan.axis_order,
            plan.channels,
            plan.labels,
            plan.intensities,
            replace(chosen, batch_size=0, batch_dice=False, median_shape=(), decisions=()),
        )

    return essence(one) == essence(two)


def _load_folds(root: Path, plan: Plan, name: str, folds: Sequence[str], previous: Model | None) -> Model:
    weights: dict[str, dict[str, torch.Tensor]] = {}
    facts = []
    for fold in folds:
        path = fold_folder(root, fold) / WEIGHTS_FILE
        weights[fold], header = load_tensors(path)
        try:
            facts.append(documents.from_json(FoldFacts, header.get("fold"), where=str(path)))
        except DocumentError as error:
            raise ModelError(f"{error}; train this fold again") from error
    mirroring = _common_mirroring(facts)
    return Model(
        plan=plan,
        configuration=plan.configuration(name),
        mirror_axes=mirroring.axes,
        precision=max((fold.precision for fold in facts), key=("bf16", "fp16", "fp32").index),
        weights=weights,
        swap_axis=mirroring.swap_axis,
        swapped=mirroring.pairs,
        previous=previous,
    )


def _common_mirroring(facts: Sequence[FoldFacts]) -> Mirroring:
    """The axes that all folds have seen mirrored, but for one along which they do not agree on what changes places."""
    axes = set.intersection(*(set(fold.mirror_axes) for fold in facts))
    swaps = {(fold.swap_axis, fold.swapped) for fold in facts}
    if len(swaps) > 1:
        axes -= {axis for axis, _ in swaps}
        return Mirroring(tuple(sorted(axes)))
    ((axis, pairs),) = swaps
    return Mirroring(tuple(sorted(axes)), axis, pairs)


def load_weights(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Put tensors into a network, all of them and nothing else.

    Raises:
        ModelError: names the first tensor that is missing, left over, or of another shape.
    """
    own = network.state_dict()
    for name in (*own, *tensors):
        if name not in tensors:
            raise ModelError(f"{where}: the weights do not fit the plan: {name} is missing")
        if name not in own:
            raise ModelError(f"{where}: the weights do not fit the plan: {name} has no place in the network")
        if own[name].shape != tensors[name].shape:
            expected, found = tuple(own[name].shape), tuple(tensors[name].shape)
            raise ModelError(f"{where}: the weights do not fit the plan: {name} expected {expected}, found {found}")
    network.load_state_dict(dict(tensors))


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, object]) -> None:
    """Write named tensors as safetensors, whole or not at all, with JSON facts in the header.

    Raises:
        StorageError: the folder cannot be written, or no space is left.
    """
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic.replacing_file(path) as temporary:
        try:
            save_file(contiguous, temporary, {name: json.dumps(fact) for name, fact in facts.items()})
        except SafetensorError as error:  # what it says when the disk is full
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Named tensors, on the CPU, and the JSON facts of a file written by :func:`save_tensors`.

    Raises:
        ModelError: the file is missing, truncated, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = {name: json.loads(fact) for name, fact in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as weights ({error}); copy or train it again") from error
