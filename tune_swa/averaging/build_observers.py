"""Build the observers that a run's settings list."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tune_swa.averaging.decays import Decay, decay_of_horizon, warm_up_by_power, warm_up_by_ramp
from tune_swa.averaging.ema import Ema
from tune_swa.averaging.lawa import Lawa
from tune_swa.averaging.observers import Observer
from tune_swa.averaging.power_ema import PowerEma, PowerTracker
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.averaging.subspace import Subspace
from tune_swa.averaging.swad import Swad
from tune_swa.averaging.swag import Swag
from tune_swa.config import AverageSpec, EmaAverage


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
    lengths = [average.length for average in averages if average.method == "power_ema"]
    tracker = PowerTracker(lengths) if lengths else None
    found: list[Observer] = []
    for average in averages:
        if average.method == "ema":
            averaged = average.statistics == "average"
            found.append(Ema(average.label, _choose_decay(average, steps), averages_statistics=averaged))
        elif average.method == "power_ema":
            assert tracker is not None
            updates = average.length == lengths[0]
            found.append(PowerEma(average.label, average.length, tracker, updates=updates))
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
        elif average.method == "swad":
            found.append(Swad(average.label, average.converge, average.tolerance, average.ratio))
        elif average.method == "subspace":
            samples = average.samples if all_draws else average.search_samples
            found.append(Subspace(average, model, snapshots, samples=samples, seed=seed))
    return found


def _choose_decay(average: EmaAverage, steps: int) -> float | Decay:
    decay = decay_of_horizon(average.horizon, steps)
    warmup = average.warmup
    if warmup is None:
        return decay
    if warmup.method == "ramp":
        return warm_up_by_ramp(decay, ratio=warmup.ratio)
    return warm_up_by_power(
        decay,
        gamma=warmup.gamma,
        power=warmup.power,
        start=round(warmup.start * steps),
        lowest=warmup.lowest,
    )
