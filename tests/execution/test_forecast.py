"""What a journal's seconds make of a forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.journals import first_events, make_event
from tune_swa.config import Experiment
from tune_swa.execution.forecast import (
    ImageCounts,
    Rates,
    compute_times,
    count_refreshed,
    forecast_search,
    measure_rates,
)
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.simulation import SimulatedSearch, simulate_search

SPACE = {"lr": {"choice": [1e-3, 1e-2]}, "swa_start": {"choice": [3, 5]}, "swa_lr": {"choice": [1e-3, 1e-4]}}
IMAGES = ImageCounts(train=10, val=4, test=5)


def make_experiment(**changes: Any) -> Experiment:
    base = {"name": "x", "train": {"epochs": 8}, "space": SPACE, "search": {"sampler": "grid"}}
    return Experiment.model_validate({**base, **changes})


class Journal:
    """A journal whose clock a test sets."""

    def __init__(self, spec: Experiment) -> None:
        self.events = [make_event(**fields) for fields in first_events(spec)]
        self.now = 100.0

    def add(self, event: str, after: float, **fields: Any) -> None:
        self.now += after
        made = make_event(event, **fields)
        made.time = self.now
        self.events.append(made)

    def begin(self, name: str, stage: str, waited: float, fork: int | None = None) -> None:
        kind = "baseline" if fork is None else "swa"
        params = {"lr": 1e-3} if fork is None else {"lr": 1e-3, "swa_start": fork - 1, "swa_lr": 1e-3}
        self.add(
            "suggested", 0, trial=name, kind=kind, stage=stage, params=params, seed=0, source="s", index=0,
            trunk="t", first_average=fork,
        )  # fmt: skip
        self.add("started", waited, trial=name, device="cpu", node="n", attempt=1, from_epoch=0, damaged=[])

    def epoch(self, name: str, epoch: int, rest: float, train: float, **more: Any) -> None:
        bn, evaluate = more.pop("bn", 0.0), more.pop("evaluate", 0.8)
        scores: dict[str, Any] = more.pop("scores", {})
        record = {
            "epoch": epoch, "accuracy": 0.5, "nll": 1.0, "phase": "branch" if bn else "trunk",
            "train_seconds": train, "bn_seconds": bn, "eval_seconds": evaluate, "shared_from": None,
        }  # fmt: skip
        spent = train + bn + evaluate + sum(score["seconds"] for score in scores.values())
        fields = {"checkpoint": None, "decision": "continue", "rung": None, **more}
        if scores:
            fields["scores"] = scores
        self.add("epoch", spent + rest, trial=name, record=record, **fields)


def test_rates_are_those_of_fresh_seeds_without_first_epochs() -> None:
    experiment = make_experiment(averages=[{"method": "swa"}, {"method": "swag", "rank": 2}])
    journal = Journal(experiment)
    journal.begin("baseline-0000", "search", waited=9.0)
    for epoch in range(8):
        journal.epoch("baseline-0000", epoch, rest=0.5, train=99.0)
    journal.begin("baseline-0000-seed1", "confirm", waited=2.0)
    journal.epoch("baseline-0000-seed1", 0, rest=7.0, train=50.0)  # takes memory, chooses kernels
    for epoch in range(1, 7):
        saved = {"checkpoint": "checkpoints/baseline-0000-seed1/epoch-00002.pt"} if epoch == 2 else {}
        journal.epoch("baseline-0000-seed1", epoch, rest=0.1 + 0.3 * bool(saved), train=20.0, **saved)
    journal.begin("swa-0000-seed1", "confirm", waited=2.0, fork=1)
    journal.epoch("swa-0000-seed1", 0, rest=1.0, train=70.0)
    score = {"accuracy": 0.5, "nll": 1.0, "members": 3, "seconds": 3 * (5.0 + 0.8)}
    for epoch in range(1, 7):
        scores = {"swag-2": score} if epoch == 3 else {}
        journal.epoch("swa-0000-seed1", epoch, rest=0.1, train=20.0, bn=5.0, evaluate=1.6, scores=scores)
    state = ExperimentState.fold(journal.events, Path("journal.jsonl"))
    rates = measure_rates(journal.events, state, experiment, IMAGES)
    assert rates.train == pytest.approx(2.0)
    assert rates.refresh == pytest.approx(0.5)
    assert rates.evaluate == pytest.approx(0.2)
    assert rates.epoch == pytest.approx(0.1)
    assert rates.save == pytest.approx(0.3)
    # both first epochs: 7 + 50 seconds where 0.1 + 20 are usual, and 1 + 70
    assert rates.trial == pytest.approx(2.0 + ((7 + 50 - 20.1) + (1 + 70 - 20.1)) / 2)
    assert rates.scores == pytest.approx({"swag": 1.0})


def test_times_grow_with_the_images_and_draws() -> None:
    rates = Rates(2.0, 0.5, 0.2, epoch=0.1, save=0.3, trial=2.0, scores={"swag": 1.5})
    listed = [{"method": "swa"}, {"method": "swag", "rank": 2, "samples": 30, "search_samples": 8}]
    experiment = make_experiment(averages=listed, search={"sampler": "grid", "checkpoint_every": 4})
    times = compute_times(experiment, rates, ImageCounts(1000, 100, 300))
    assert (times.train, times.refresh, times.evaluate, times.test) == pytest.approx((2000, 500, 20, 80))
    assert times.scores["swag-2"] == pytest.approx(1.5 * 8 * (500 + 20))
    assert times.tests["swag-2"] == pytest.approx(1.5 * 30 * (500 + 80))
    auto = compute_times(make_experiment(), rates, ImageCounts(1000, 100, 300))
    assert auto.train == pytest.approx(2040)  # a fiftieth for checkpoints


@pytest.mark.parametrize(
    ("averaging", "refreshed"),
    [({}, 1000), ({"bn_batches": 2}, 128), ({"bn_batches": 2, "bn_batch_size": 10}, 20)],
)
def test_a_refresh_may_take_some_batches_alone(averaging: dict[str, Any], refreshed: int) -> None:
    assert count_refreshed(make_experiment(averaging=averaging), 1000) == refreshed


def test_what_nothing_decides_has_one_time() -> None:
    rates = Rates(0.01, 0.005, 0.002, epoch=0.1, save=0.3, trial=2.0)
    plain = make_experiment(scheduler={"asha": False}, confirm={"top": 1, "seeds": 2, "race": False})
    found = forecast_search(plain, 2, rates, IMAGES, 30.0, confirm=True)
    assert found.seconds[0] == found.seconds[1] == 30 + found.low.seconds
    looks = make_experiment(
        scheduler={"asha": False}, confirm={"top": 1, "seeds": 2, "max_seeds": 6, "race": False}
    )
    low, high = forecast_search(looks, 2, rates, IMAGES, 30.0, confirm=True).seconds
    assert low == pytest.approx(found.seconds[0], rel=0.1)  # which finalist it is, is drawn
    assert high > 1.3 * low
    without = forecast_search(looks, 2, rates, IMAGES, 30.0, confirm=False)
    assert without.seconds[1] < low


def test_early_stopping_makes_a_range() -> None:
    rates = Rates(0.01, 0.005, 0.002, epoch=0.1, save=0.3, trial=2.0)
    stopping = make_experiment(train={"epochs": 30}, space={**SPACE, "swa_start": {"choice": [10, 12]}})
    found = forecast_search(stopping, 2, rates, IMAGES, 0.0, confirm=False)
    assert found.low.epochs < found.high.epochs
    assert found.seconds[0] < found.seconds[1]


def test_a_very_long_search_is_forecast_from_a_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(0.01, 0.005, 0.002, epoch=0.1, save=0.3, trial=2.0)
    changes: dict[str, Any] = {"scheduler": {"asha": False}, "train": {"epochs": 120}}
    long = make_experiment(**changes, space={**SPACE, "swa_start": {"choice": [60, 90]}})
    exact = forecast_search(long, 2, rates, IMAGES, 0.0, confirm=False).high
    monkeypatch.setattr("tune_swa.execution.forecast.MOST_EPOCHS", 400)
    rough = forecast_search(long, 2, rates, IMAGES, 0.0, confirm=False).high
    assert rough.seconds == pytest.approx(exact.seconds, rel=0.1)
    assert rough.epochs == pytest.approx(exact.epochs, rel=0.1)


def test_further_members_of_swap_are_counted() -> None:
    rates = Rates(0.01, 0.005, 0.002, epoch=0.1, save=0.3, trial=2.0)
    plain = make_experiment(scheduler={"asha": False})
    swap = make_experiment(scheduler={"asha": False}, merge=[{"method": "swap"}])
    before, after = (
        forecast_search(e, 2, rates, IMAGES, 0.0, confirm=False).seconds[1] for e in (plain, swap)
    )
    assert after > before


def test_a_large_ensemble_needs_no_seeds_of_the_first_look() -> None:
    rates = Rates(0.01, 0.005, 0.002, epoch=0.1, save=0.3, trial=2.0)
    plan = {"seeds": 3, "max_seeds": 6, "race": False}
    plain, grouped = (
        forecast_search(make_experiment(confirm={**plan, **more}), 2, rates, IMAGES, 0.0, confirm=True)
        for more in ({}, {"ensemble": 5})
    )
    assert grouped.seconds == plain.seconds


@pytest.mark.parametrize(
    ("space", "search"),
    [
        ({"lr": 1e-3, "swa_start": {"choice": [*range(100, 116, 2)]}}, {"sampler": "grid"}),  # become equal
        ({"swa_start": {"choice": [*range(60, 116, 2)]}}, {"sampler": "grid"}),
        ({"lr": {"uniform": [0.1, 0.2]}, "swa_start": {"choice": [60, 90]}}, {"epochs": 6000}),
        ({"lr": {"uniform": [0.1, 0.2]}, "swa_start": {"choice": [60, 90]}}, {"trials": 50, "reuse": False}),
    ],
)
def test_a_long_search_is_forecast_with_all_of_its_trials(
    space: dict[str, Any], search: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = Rates(0.01, 0.005, 0.002, epoch=0.1, save=0.3, trial=2.0)
    asha = {"scheduler": {"asha": False}}
    long = make_experiment(**asha, train={"epochs": 120}, space={**SPACE, **space}, search=search)
    exact = forecast_search(long, 2, rates, IMAGES, 0.0, confirm=False).high
    simulated: list[int] = []

    def simulate_and_count(*given: Any, **named: Any) -> SimulatedSearch:
        found = simulate_search(*given, **named)
        simulated.append(found.epochs)
        return found

    monkeypatch.setattr("tune_swa.execution.forecast.simulate_search", simulate_and_count)
    monkeypatch.setattr("tune_swa.execution.forecast.MOST_EPOCHS", 800)
    rough = forecast_search(long, 2, rates, IMAGES, 0.0, confirm=False).high
    assert rough.seconds == pytest.approx(exact.seconds, rel=0.1)
    assert rough.epochs == pytest.approx(exact.epochs, rel=0.1)
    assert len(simulated) == 1
    assert simulated[0] < 1200
