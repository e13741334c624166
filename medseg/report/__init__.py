"""Results for people: an evaluation, a comparison or a dataset as one HTML page, a training as one picture."""

from medseg.report.comparison_page import comparison_report
from medseg.report.evaluation_page import evaluation_report
from medseg.report.examination_page import examination_report
from medseg.report.plots import training_plot
from medseg.report.provenance import facts_about

__all__ = ["comparison_report", "evaluation_report", "examination_report", "facts_about", "training_plot"]
