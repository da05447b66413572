"""Build the observers that a run's settings list."""

from __future__ import annotations

from collections.abc import Sequence

from tune_swa.averaging.ema import Ema, decay_of_horizon
from tune_swa.averaging.lawa import Lawa
from tune_swa.averaging.observers import Observer
from tune_swa.config import AverageSpec


def build_observers(averages: Sequence[AverageSpec], steps: int) -> list[Observer]:
    """Build an observer for each average but SWA's own, which the run has already.

    Args:
        averages: settings, in their order.
        steps: optimizer steps of an epoch.
    """
    found: list[Observer] = []
    for average in averages:
        if average.method == "ema":
            decay = decay_of_horizon(average.horizon, steps)
            found.append(Ema(average.label, decay, averages_statistics=average.statistics == "average"))
        elif average.method == "lawa":
            averaged = average.statistics == "average"
            found.append(Lawa(average.label, average.last, averages_statistics=averaged))
    return found
