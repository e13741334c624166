"""Systems compared on the same cases: which is better, by how much, and whether the cases suffice to say so."""

from medseg.comparing.comparison import COLUMNS, DEFAULT_METRICS, Comparison, compare, compare_systems
from medseg.comparing.statistics import BETTER, UNDECIDED, WORSE
from medseg.comparing.systems import System, read_systems
from medseg.comparing.tables import comparison_document, write_comparison

__all__ = [
    "BETTER",
    "COLUMNS",
    "DEFAULT_METRICS",
    "UNDECIDED",
    "WORSE",
    "Comparison",
    "System",
    "compare",
    "compare_systems",
    "comparison_document",
    "read_systems",
    "write_comparison",
]
