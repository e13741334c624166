"""The answer to a study: the masks of its scans as SEG, with reports of their volumes where labels have codes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from medseg import dicom
from medseg.errors import DataError
from medseg.node.service import Answer
from medseg.prediction import Predictor, jobs_for, predict_cases

log = logging.getLogger(__name__)


def predicting(predictor: Predictor, choice: dicom.SeriesChoice = dicom.ANY) -> Answer:
    """Answers by a model. An answer raises ``DataError`` where no series of a study can be predicted.

    Args:
        choice: which series of a study are predicted, and how they are read.
    """

    def answer(images: Sequence[Path], folder: Path) -> None:
        jobs, _ = jobs_for(images, folder, predictor, wanted=choice, format="seg")
        done = predict_cases(predictor, jobs)
        if not done.masks:
            raise DataError("; ".join(f"series {case}: {reason}" for case, reason in done.failures.items()))

    return answer
