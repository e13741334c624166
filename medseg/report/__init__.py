"""Results for people: an evaluation as one HTML page, a training as one picture."""

from medseg.report.page import evaluation_report
from medseg.report.plots import training_plot

__all__ = ["evaluation_report", "training_plot"]
