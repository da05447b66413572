"""The comparison row: a configuration with its rank, its race, and its runs on fresh seeds.

comparison.parquet, the table in the terminal and that of the report show these rows, each in its own format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tune_swa.config import Metric
from tune_swa.results.comparison import Comparison, Entry
from tune_swa.results.contrasts import Contrast, TestedArm, Verdict


@dataclass(frozen=True)
class ComparisonRow:
    """One configuration of the search."""

    rank: int | None
    """1 is best; None unless completed."""
    entry: Entry
    best_baseline: bool
    race: Mapping[Metric, Sequence[float]]
    """Validation metrics of its runs in the last race."""
    arm: TestedArm | None
    """Its runs on fresh seeds, if it was tested."""
    contrast: Contrast | None
    """Against the best plain training, of a finalist."""

    metric: Metric = "accuracy"
    """Of the objective."""

    def race_mean(self, metric: Metric) -> float | None:
        values = self.race.get(metric)
        return float(np.mean(values)) if values else None

    @property
    def test_values(self) -> list[float]:
        """The objective's metric on the test images, of each run on a fresh seed."""
        return self.arm.test_values(self.metric) if self.arm else []

    @property
    def test_mean(self) -> float | None:
        return float(np.mean(self.test_values)) if self.test_values else None

    @property
    def test_sd(self) -> float | None:
        return float(np.std(self.test_values, ddof=1)) if len(self.test_values) > 1 else None


def build_comparison_rows(
    compared: Comparison,
    found: Verdict | None = None,
    race: Mapping[Metric, Mapping[str, Sequence[float]]] | None = None,
) -> list[ComparisonRow]:
    """Every configuration of the search, completed ones first and best first.

    Args:
        compared: the ranking.
        found: the verdict, if fresh seeds have run.
        race: metrics of the race's runs, each of `comparison.race_values`.
    """
    arms = {arm.name: arm for arm in found.arms} if found else {}
    contrasts = {c.arm.name: c for c in found.against_plain} if found else {}
    return [
        ComparisonRow(
            rank=rank if entry.completed else None,
            entry=entry,
            best_baseline=entry is compared.baseline,
            race={metric: values.get(entry.trial.name, ()) for metric, values in (race or {}).items()},
            arm=arms.get(entry.trial.name),
            contrast=contrasts.get(entry.trial.name),
            metric=compared.objective.metric,
        )
        for rank, entry in enumerate((*compared.ranked, *compared.unfinished), start=1)
    ]
