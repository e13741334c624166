"""Results for people: an evaluation or a comparison as one HTML page, a training as one picture."""

from medseg.report.comparison_page import comparison_report
from medseg.report.page import evaluation_report
from medseg.report.plots import training_plot

__all__ = ["comparison_report", "evaluation_report", "training_plot"]
