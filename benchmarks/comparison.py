"""How often a comparison of two systems says the truth, on simulated evaluations.

    python -m benchmarks.comparison [--repeats 100] [--cases 60]

Two labels, three metrics. What a case lacks to a Dice of 1 is about 0.11 and differs between cases by a factor of 1.6
(one standard deviation); a run multiplies it by chance, by a factor whose logarithm has the standard deviation in the
first column. At 0.2 two runs differ on a case by 0.03, one standard deviation. "Seed only" counts the repeats in which
every one of the six figures is called not distinguishable; "2 points" those in which the label whose Dice is truly 0.02
higher is called better. The last lines add luck that moves all cases of a run at once, which a single run cannot tell
from merit.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from medseg.comparing import BETTER, UNDECIDED, Comparison, System, compare_systems

LABELS = ("anterior", "posterior")
METRICS = ("dice", "surface_dice", "hausdorff95_mm")


def simulated_runs(
    generator: np.random.Generator, cases: int, runs: int, scatter: float, gains: tuple[float, ...], luck: float = 0.0
) -> list[System]:
    """Two systems of some runs each on the same cases.

    Args:
        scatter: of a case between runs, in the logarithm of what it lacks.
        gains: by how much the Dice of each label of the second system is truly higher.
        luck: standard deviation of the Dice that a run has more or less on all cases.
    """
    lack = 0.1 * np.exp(0.5 * generator.standard_normal((len(LABELS), cases)))
    systems = []
    for name, gain in (("A", np.zeros(len(LABELS))), ("B", np.array(gains))):
        tables = []
        for _ in range(runs):
            moved = lack * np.exp(scatter * generator.standard_normal(lack.shape) - scatter**2 / 2)
            dice = np.clip(1 - moved + gain[:, None] + luck * generator.standard_normal(), 0, 1)
            surface = np.clip(1 - 1.4 * (1 - dice) + 0.01 * generator.standard_normal(dice.shape), 0, 1)
            distance = np.maximum(0, 12 * (1 - dice) * np.exp(0.3 * generator.standard_normal(dice.shape)))
            tables.append(
                pd.DataFrame(
                    {
                        "case": [f"case_{case:03d}" for _ in LABELS for case in range(cases)],
                        "label": [label for label in LABELS for _ in range(cases)],
                        "dice": dice.ravel(),
                        "surface_dice": surface.ravel(),
                        "hausdorff95_mm": distance.ravel(),
                        "error": "",
                    }
                )
            )
        systems.append(System(name, tuple(tables)))
    return systems


def is_undecided(comparison: Comparison) -> bool:
    """Whether every figure is called not distinguishable."""
    return bool((comparison.table["verdict"] == UNDECIDED).all())


def finds_gain(comparison: Comparison) -> bool:
    """Whether the Dice of the first label is called better."""
    rows = comparison.table
    return bool((rows.loc[(rows["label"] == LABELS[0]) & (rows["metric"] == "dice"), "verdict"] == BETTER).all())


def shares(
    repeats: int, cases: int, runs: int = 1, scatter: float = 0.2, luck: float = 0.0, gain: float = 0.02
) -> tuple[int, int]:
    """Of the repeats, those without a difference that are called so, and those with one that is found."""
    generator = np.random.default_rng(20)
    undecided = found = 0
    for _ in range(repeats):
        same = simulated_runs(generator, cases, runs, scatter, (0.0, 0.0), luck)
        undecided += is_undecided(compare_systems(same, METRICS))
        other = simulated_runs(generator, cases, runs, scatter, (gain, 0.0), luck)
        found += finds_gain(compare_systems(other, METRICS))
    return undecided, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--cases", type=int, default=60)
    options = parser.parse_args()
    print(f"{options.repeats} repeats, {options.cases} cases")
    print(f"{'scatter':>8}{'luck':>8}{'seeds':>8}{'seed only':>12}{'2 points':>12}")
    for scatter, luck, runs in ((0.1, 0, 1), (0.2, 0, 1), (0.3, 0, 1), (0.2, 0, 3), (0.2, 0.005, 1), (0.2, 0.005, 3)):
        undecided, found = shares(options.repeats, options.cases, runs, scatter, luck)
        print(f"{scatter:8}{luck:8}{runs:8}{undecided:12}{found:12}", flush=True)


if __name__ == "__main__":
    main()
