"""Build the observers that a run's settings list."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tune_swa.averaging.ema import Ema, decay_of_horizon
from tune_swa.averaging.lawa import Lawa
from tune_swa.averaging.observers import Observer
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.averaging.swag import Swag
from tune_swa.config import AverageSpec


def build_observers(
    averages: Sequence[AverageSpec],
    model: nn.Module,
    snapshots: Snapshots,
    *,
    steps: int,
    seed: int,
    all_draws: bool,
) -> list[Observer]:
    """Build an observer for each average but SWA's own, which the run has already.

    Args:
        averages: settings, in their order.
        model: live model.
        snapshots: of the run, as many as `count_snapshots` says.
        steps: optimizer steps of an epoch.
        seed: of the run.
        all_draws: whether methods that draw do so as often as for the test images, or as in the search.
    """
    found: list[Observer] = []
    for average in averages:
        if average.method == "ema":
            decay = decay_of_horizon(average.horizon, steps)
            found.append(Ema(average.label, decay, averages_statistics=average.statistics == "average"))
        elif average.method == "lawa":
            averaged = average.statistics == "average"
            found.append(Lawa(average.label, average.last, snapshots, averages_statistics=averaged))
        elif average.method == "swag":
            samples = average.samples if all_draws else average.search_samples
            found.append(
                Swag(
                    average.label,
                    model,
                    snapshots,
                    rank=average.rank,
                    samples=samples,
                    scale=average.scale,
                    seed=seed,
                )
            )
    return found
