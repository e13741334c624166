"""Predictions against references: pairs by name, a table with a row a case and label, its summary, both as files."""

from medseg.evaluation.comparison import evaluate, evaluate_folders, evaluate_pairs
from medseg.evaluation.detection import LabelFound, labels_found, never_found_text
from medseg.evaluation.grids import onto_grid
from medseg.evaluation.pairing import Pair, Pairing, pair_masks
from medseg.evaluation.results import COLUMNS, COUNTS, METRICS, Evaluation
from medseg.evaluation.summary import Finding, findings, foreground_mean, metrics_of, summarize
from medseg.evaluation.tables import nnunet_summary, write_tables

__all__ = [
    "COLUMNS",
    "COUNTS",
    "METRICS",
    "Evaluation",
    "Finding",
    "LabelFound",
    "Pair",
    "Pairing",
    "evaluate",
    "evaluate_folders",
    "evaluate_pairs",
    "findings",
    "foreground_mean",
    "labels_found",
    "metrics_of",
    "never_found_text",
    "nnunet_summary",
    "onto_grid",
    "pair_masks",
    "summarize",
    "write_tables",
]
