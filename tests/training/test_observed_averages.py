"""Averages that observe a run change nothing of it; a resume and a shared trunk give the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.resumed_runs import NUMERICS
from helpers.same_tensors import same_tensors
from tune_swa.averaging.observers import list_parameters
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.records import EpochRecord
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")
TIMES = {"train_seconds", "bn_seconds", "eval_seconds", "images_per_second", "seconds"}
OBSERVERS: list[dict[str, object]] = [
    {"method": "ema", "horizon": 1},
    {"method": "ema", "horizon": 0.5, "statistics": "average"},
    {"method": "lawa", "last": 2},
    {"method": "lawa", "last": 3, "statistics": "average"},
    {"method": "ema", "horizon": 3, "warmup": {"method": "power", "start": 0.5}},
    {"method": "power_ema", "length": 0.08},
    {"method": "power_ema", "length": 0.1},
    {"method": "swad", "converge": 2, "tolerance": 1, "ratio": 0.01},
]
SWAGS: list[dict[str, object]] = [
    {"method": "swag", "rank": 2, "search_samples": 3},
    {"method": "swag", "rank": 5, "search_samples": 2, "scale": 1},
    {"method": "swag", "diagonal": True, "search_samples": 2},
]
SUBSPACE: dict[str, object] = {
    "method": "subspace",
    "rank": 2,
    "search_samples": 3,
    "temperature": 1,
    "fit_batches": 2,
}
ALL = [{"method": "swa"}, *OBSERVERS, *SWAGS, SUBSPACE]


def make_settings(
    averages: list[dict[str, object]], swa_start: int | None = 1, **changes: Any
) -> RunSettings:
    values: dict[str, Any] = {
        "lr": 1e-3,
        "swa_start": swa_start,
        "swa_lr": None if swa_start is None else 5e-4,
        "train": TrainSpec(epochs=5, batch_size=8, augment=("hflip",)),
        "averaging": AveragingSpec(anneal_epochs=2, score="every"),
        "averages": averages,
    }
    return RunSettings.model_validate({**values, **changes})


def drop_times(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMES}


def describe_epoch(run: Run, record: EpochRecord) -> dict[str, Any]:
    scores = {label: drop_times(score.as_dict()) for label, score in run.scores.items()}
    return {**drop_times(record.as_dict()), "scores": scores}


def finish_run(run: Run) -> list[dict[str, Any]]:
    return [describe_epoch(run, record) for record in run]


def describe_state(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.state_dict().items() if key not in ("record", "scores")}


@pytest.mark.parametrize("swa_start", [1, None])
def test_observers_change_no_bit_of_the_run(tiny_data: Dataset, swa_start: int | None) -> None:
    plain = Run(make_settings([], swa_start), tiny_data, NUMERICS)
    observed = Run(make_settings(ALL if swa_start else OBSERVERS, swa_start), tiny_data, NUMERICS)
    for expected, found in zip(plain, observed, strict=True):
        assert drop_times(found.as_dict()) == drop_times(expected.as_dict())
    states = describe_state(plain), describe_state(observed)
    assert same_tensors(states[0], {key: states[1][key] for key in states[0]})
    assert same_tensors(plain.shipped_model.state_dict(), observed.shipped_model.state_dict())


def test_the_leader_scores_as_the_epoch_does(tiny_data: Dataset) -> None:
    run = Run(make_settings(ALL), tiny_data, NUMERICS)
    for record in run:
        if record.phase == "branch":
            swa = run.scores["swa"]
            assert (swa.accuracy, swa.nll, swa.ece) == (record.accuracy, record.nll, record.ece)


def test_the_trunk_has_the_same_name() -> None:
    namer = TrunkNamer.by_settings()
    assert namer.name_trunk(make_settings(ALL)) == namer.name_trunk(make_settings([]))


@pytest.mark.parametrize(
    ("averages", "swa_start", "tail"),
    [(ALL, 1, "constant"), (ALL[::-1], 1, "constant"), (OBSERVERS, None, "constant"), (ALL, 0, "cyclic")],
)
def test_a_resumed_run_gives_the_same_bits(
    averages: list[dict[str, object]], swa_start: int | None, tail: str, tiny_data: Dataset, tmp_path: Path
) -> None:
    """Also from within a cycle, of which the observers of steps have seen a part."""
    averaging: dict[str, Any] = {"anneal_epochs": 2, "score": "every"}
    if tail == "cyclic":
        averaging = {"tail": "cyclic", "cycle_epochs": 2, "score": "every"}
    settings = make_settings(averages, swa_start, averaging=averaging)
    straight = Run(settings, tiny_data, NUMERICS)
    expected = finish_run(straight)
    predicted = straight.predict_with_averages()
    run, found = Run(settings, tiny_data, NUMERICS), []
    while not run.done:
        found.append(describe_epoch(run, run.run_epoch()))
        checkpoints.save_checkpoint(run.state_dict(), tmp_path / "state.pt")
        resumed = Run(settings, tiny_data, NUMERICS)
        resumed.load_state_dict(checkpoints.load_checkpoint(tmp_path / "state.pt"))
        assert found + finish_run(resumed) == expected, run.epoch
        assert same_tensors(describe_state(resumed), describe_state(straight))
        assert same_tensors(resumed.shipped_model.state_dict(), straight.shipped_model.state_dict())
        for label, said in resumed.predict_with_averages().items():
            assert torch.equal(said.nll, predicted[label].nll)


def test_a_branch_of_a_shared_trunk_gives_the_same_bits(tiny_data: Dataset) -> None:
    settings = make_settings(ALL)
    expected = finish_run(Run(settings, tiny_data, NUMERICS))
    trunk = Run(make_settings([], None), tiny_data, NUMERICS)
    for _ in range(2):
        trunk.run_epoch()
    trunk.begin_epoch()
    branch = Run(settings, tiny_data, NUMERICS)
    branch.load_state_dict(trunk.trunk_state())
    assert finish_run(branch) == expected[2:]


def test_how_often_is_scored_changes_no_score(tiny_data: Dataset) -> None:
    every = Run(make_settings(ALL), tiny_data, NUMERICS)
    finish_run(every)
    rungs = make_settings(ALL, averaging=AveragingSpec(anneal_epochs=2))
    last = Run(rungs, tiny_data, NUMERICS, score_epochs=[3])
    scored = [record.epoch for record in last if last.scores]
    assert scored == [3, 4]
    assert [drop_times(s.as_dict()) for s in last.scores.values()] == [
        drop_times(s.as_dict()) for s in every.scores.values()
    ]


@pytest.mark.parametrize("swag", SWAGS)
def test_swag_leads_by_its_mean(swag: dict[str, object], tiny_data: Dataset) -> None:
    """Epochs report SWA's average, which is shipped; its own line is of the draws once the run has ended."""
    swa = Run(make_settings([{"method": "swa"}]), tiny_data, NUMERICS)
    led = Run(make_settings([swag]), tiny_data, NUMERICS)
    expected, found = [drop_times(r.as_dict()) for r in swa], []
    for record in led:
        found.append(drop_times(record.as_dict()))
        if record.phase == "branch" and not led.done:
            (score,) = led.scores.values()
            assert (score.members, score.nll) == (1, record.nll)
    assert found == expected
    assert same_tensors(led.shipped_model.state_dict(), swa.shipped_model.state_dict())
    shipped = checkpoints.extract_shipped_weights(led.state_dict())
    assert same_tensors(shipped, dict(swa.shipped_model.state_dict()))
    (score,) = led.scores.values()
    assert score.members == swag["search_samples"]
    assert score.nll != found[-1]["nll"]


def test_draws_of_a_run_on_fresh_seeds(tiny_data: Dataset) -> None:
    swag = {"method": "swag", "rank": 2, "samples": 4, "search_samples": 2}
    runs = [
        Run(make_settings([swag], seed=seed), tiny_data, NUMERICS, all_draws=fresh)
        for seed, fresh in ((0, False), (0, True), (1, True))
    ]
    for run in runs:
        finish_run(run)
    assert [run.scores["swag-2"].members for run in runs] == [2, 4, 4]
    said = [run.predict_with_averages()["swag-2"] for run in runs]
    assert not torch.equal(said[0].nll, said[1].nll)
    assert not torch.equal(said[1].nll, said[2].nll)


def test_statistics_are_refreshed_once_for_validation_and_test_images(
    tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(make_settings(ALL), tiny_data, NUMERICS)
    finish_run(run)
    assert run.averages is not None
    refreshed: list[object] = []
    monkeypatch.setattr(run.averages._evaluator, "_refresh", refreshed.append)
    found = run.predict_with_averages()
    assert refreshed == []
    resumed = Run(make_settings(ALL), tiny_data, NUMERICS)
    resumed.load_state_dict(run.state_dict())
    for label, said in resumed.predict_with_averages().items():
        assert torch.equal(said.nll, found[label].nll), label


@pytest.mark.parametrize("more", [{"rank": 2}, {"rank": 5}, {"diagonal": True}], ids=str)
def test_scale_zero_is_swa(more: dict[str, object], tiny_data: Dataset) -> None:
    """Weights, scores and predictions, bit for bit: the mean is SWA's own."""
    swag = {"method": "swag", "scale": 0, **more}
    run = Run(make_settings([{"method": "swa"}, swag]), tiny_data, NUMERICS)
    for record in run:
        if record.phase == "branch":
            swa, other = (drop_times(score.as_dict()) for score in run.scores.values())
            assert other == swa
    assert run.averages is not None
    assert run.averaging is not None
    for observer in run.averages._observers.values():
        (member,) = observer.members(final=True)
        average = list_parameters(run.averaging.average.module)
        assert all(map(torch.equal, member.parameters, average))
    expected, found = run.predict_with_averages().values()
    for name in ("predicted", "probability", "confidence", "nll", "brier"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(run.predict_test_images().nll, found.nll)


@pytest.mark.parametrize("averages", [[average] for average in OBSERVERS])
def test_another_average_leads(averages: list[dict[str, object]], tiny_data: Dataset, tmp_path: Path) -> None:
    """Its score is the epoch's, and its weights with their statistics are shipped."""
    run = Run(make_settings(averages), tiny_data, NUMERICS)
    live = Run(make_settings([]), tiny_data, NUMERICS)
    for record, plain in zip(run, live, strict=True):
        assert record.live_accuracy == plain.live_accuracy
        assert record.train_loss == plain.train_loss
        if record.phase == "branch":
            (score,) = run.scores.values()
            assert (score.accuracy, score.nll) == (record.accuracy, record.nll)
    shipped = checkpoints.extract_shipped_weights(run.state_dict())
    assert same_tensors(shipped, dict(run.shipped_model.state_dict()))
    (said,) = run.predict_with_averages().values()
    assert torch.equal(said.nll, run.predict_test_images().nll)


@pytest.mark.parametrize("swa_start", [1, None])
def test_a_window_is_chosen_by_the_live_models_loss(tiny_data: Dataset, swa_start: int | None) -> None:
    """Also the loss of the fork, which a branch takes over from its trunk."""
    live = [record.nll for record in Run(make_settings([], None), tiny_data, NUMERICS)]
    settings = make_settings([{"method": "swad", "converge": 2, "tolerance": 100}], swa_start)
    run = Run(settings, tiny_data, NUMERICS)
    if swa_start is not None:
        trunk = Run(make_settings([], None), tiny_data, NUMERICS)
        for _ in range(2):
            trunk.run_epoch()
        trunk.begin_epoch()
        run.load_state_dict(trunk.trunk_state())
    while run.epoch < 3:
        run.run_epoch()
    [state] = run.state_dict()["averages"]["observers"].values()
    assert state["losses"] == live[2 if swa_start else 0 : 3]
