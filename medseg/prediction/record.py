"""What masks in a folder were made from, so that the same command goes on where it was stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg import __version__, documents, io
from medseg.errors import DocumentError
from medseg.postprocessing import Step
from medseg.prediction.outputs import Wishes
from medseg.prediction.predictor import Predictor

RECORD_FILE = "predictions.json"


@dataclass(frozen=True)
class Record:
    """What ``predictions.json`` beside masks holds.

    Attributes:
        model: what made the last of them, for people.
        keys: of each mask what it was made from, so that a run can go on.
        engines: of each mask what computed the networks; another engine may give other labels in a few voxels.
    """

    version: Literal[1] = 1
    model: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)


def load_record(folder: Path) -> Record:
    """What earlier runs have made; nothing if that cannot be told."""
    try:
        return documents.load(Record, folder / RECORD_FILE)
    except DocumentError:
        return Record()


def describe_model(predictor: Predictor) -> str:
    """The configurations and folds of a predictor, and the version of medseg."""
    members = [
        f"{member.configuration.name} ({'folds' if len(member.model.weights) > 1 else 'fold'}"
        f" {', '.join(member.model.weights)})"
        for member in predictor.members
    ]
    return f"{' + '.join(members)} of {predictor.plan.dataset_name}, predicted by medseg {__version__}"


def run_key(predictor: Predictor, wishes: Wishes, steps: Sequence[Step]) -> str:
    """Changes whenever any mask could: with the weights, the plan and the settings."""
    parts = [(member.model.digest, member.precision, member.device.type) for member in predictor.members]
    # Where the engine is chosen by measuring, both are right: masks are kept whichever it was, and the record names it.
    named = () if predictor.settings.engine == "auto" else (predictor.settings.engine,)
    settings = predictor.settings
    return hashlib.sha256(
        repr((settings.mirror, settings.step, wishes, tuple(steps), parts, *named)).encode()
    ).hexdigest()


def job_key(run: str, images: Sequence[io.Source], format: str | None) -> str:
    """Changes whenever the mask of a scan could: with the scan's files and the mask's format too."""
    return hashlib.sha256(repr((run, format, [io.stamp(image) for image in images])).encode()).hexdigest()
