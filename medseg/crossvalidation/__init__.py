"""Folds from start to end: prepare what is missing, train, predict the held-out cases, measure them.

Each part is found again when it is done, so a run that stopped anywhere goes on there.
"""

from medseg.crossvalidation.budget import size_for_budget
from medseg.crossvalidation.folds import FoldResult, train
from medseg.crossvalidation.held_out import predict_held_out, validate_fold

__all__ = ["FoldResult", "predict_held_out", "size_for_budget", "train", "validate_fold"]
