"""What an evaluation is: a table with a row a case and label, and what must be known to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medseg.evaluation.cases import Compared
from medseg.evaluation.pairing import Pair
from medseg.metrics import COLUMNS as CASE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("tp", "fp", "fn", "tn")
"""The columns of the table that count voxels."""
METRICS = tuple(column for column in CASE_COLUMNS if column not in ("label", *COUNTS))
"""The columns of the table that a summary averages."""
COLUMNS = ("case", "label", "value", *METRICS, *COUNTS, "error")
"""The columns of the table."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a comparison of predictions with references found.

    Attributes:
        table: a row a case and label, sorted by case, with the columns ``COLUMNS``. ``label`` is the name, or the value
            where no names are known; ``value`` the file value, or text such as ``"(1, 2)"`` for a region; ``error`` is
            empty unless the case failed. Counts are pandas' ``Int64``, missing where the case failed.
        pairs: the files of every case that has both.
        failures: why a case could not be compared.
        warnings: what was left aside: predictions without reference, values that are not among the labels.
        labels: name (or value) of each label to the file values it covers.
        ignore: the reference value whose voxels do not count, if there is one.
        tolerance_mm: of the surface Dice.
        metrics: further columns of the table, before ``error``.
        resampled: cases whose prediction lay on another grid and was brought onto the reference's.
    """

    table: pd.DataFrame
    pairs: dict[str, Pair]
    failures: dict[str, str]
    warnings: tuple[str, ...]
    labels: Mapping[str | int, tuple[int, ...]]
    ignore: int | None
    tolerance_mm: float
    metrics: tuple[str, ...] = ()
    resampled: tuple[str, ...] = ()

    @property
    def done(self) -> pd.DataFrame:
        """The rows of the cases that did not fail."""
        return self.table.loc[self.table["error"] == ""]

    @property
    def cases(self) -> list[str]:
        """Every case, failed ones included, sorted."""
        return sorted({*self.pairs, *self.failures})


def table_of(
    labels: Mapping[str | int, tuple[int, ...]],
    extras: Sequence[str],
    compared: Mapping[str, Compared],
    failures: Mapping[str, str],
) -> pd.DataFrame:
    """Every case with every label; where there is no label at all, every case has one row with an empty label."""
    import pandas as pd

    heads: list[dict[str, Any]] = [
        {"label": label, "value": values[0] if len(values) == 1 else str(values)} for label, values in labels.items()
    ] or [{"label": "", "value": ""}]
    rows = []
    for case in sorted({*compared, *failures}):
        figures = compared[case].rows if case in compared and labels else [{}] * len(heads)
        rows += [
            {**figure, "case": case, **head, "error": failures.get(case, "")}
            for figure, head in zip(figures, heads, strict=True)
        ]
    # Failed cases have no counts, and integers no NaN: pandas' own integers can do without.
    return pd.DataFrame(rows, columns=[*COLUMNS[:-1], *extras, COLUMNS[-1]]).astype(dict.fromkeys(COUNTS, "Int64"))
