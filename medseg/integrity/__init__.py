"""Every problem of a dataset in one pass, each with what mends it."""

from medseg.dataset import Finding
from medseg.integrity.across import ClassBalance
from medseg.integrity.examination import Examination, examine
from medseg.integrity.grouping import keep_together
from medseg.integrity.records import CaseRecord

__all__ = ["CaseRecord", "ClassBalance", "Examination", "Finding", "examine", "keep_together"]
