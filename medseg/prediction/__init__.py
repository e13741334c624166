"""Prediction: a warm ``Predictor`` for scans in memory, and cases from files to files."""

from medseg.prediction.cases import Job, Predictions, predict_cases
from medseg.prediction.choice import Choice, choice_of
from medseg.prediction.estimating import Estimate, estimate_cases
from medseg.prediction.extras import Extras
from medseg.prediction.files import jobs_for, predict_files
from medseg.prediction.memory import Need, require_memory
from medseg.prediction.models import load_predictor, open_model
from medseg.prediction.outputs import Wishes
from medseg.prediction.predictor import Predictor, Source
from medseg.prediction.settings import DEFAULT_SETTINGS, PredictionSettings

__all__ = [
    "DEFAULT_SETTINGS",
    "Choice",
    "Estimate",
    "Extras",
    "Job",
    "Need",
    "PredictionSettings",
    "Predictions",
    "Predictor",
    "Source",
    "Wishes",
    "choice_of",
    "estimate_cases",
    "jobs_for",
    "load_predictor",
    "open_model",
    "predict_cases",
    "predict_files",
    "require_memory",
]
