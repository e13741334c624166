"""What masks in a folder were made from, so that a run goes on where it was stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg import documents, io
from medseg.errors import DocumentError
from medseg.prediction.outputs import Wishes
from medseg.prediction.predictor import Predictor

RECORD_FILE = "predictions.json"


@dataclass(frozen=True)
class Record:
    """What ``predictions.json`` beside masks holds: what each of them was made from, so that a run can go on."""

    version: Literal[1] = 1
    keys: dict[str, str] = field(default_factory=dict)


def load_record(folder: Path) -> Record:
    """What earlier runs have made; nothing if that cannot be told."""
    try:
        return documents.load(Record, folder / RECORD_FILE)
    except DocumentError:
        return Record()


def run_key(predictor: Predictor, wishes: Wishes) -> str:
    """Changes whenever any mask could: with the weights, the plan and the settings."""
    parts = [(member.model.digest, member.precision, member.device.type) for member in predictor.members]
    settings = predictor.settings
    return hashlib.sha256(repr((settings.mirror, settings.step, wishes, parts)).encode()).hexdigest()


def scan_key(run: str, images: Sequence[io.Source], format: str | None) -> str:
    """Changes whenever the mask of a scan could: with its files, or what key the run has."""
    stamps = [io.stamp(image) for image in images]
    return hashlib.sha256(repr((run, format, stamps)).encode()).hexdigest()
