"""Averages that observe a run change nothing of it; a resume and a shared trunk give the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.numerics import Numerics
from tune_swa.training.records import EpochRecord
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")
NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)
TIMES = {"train_seconds", "bn_seconds", "eval_seconds", "images_per_second", "seconds"}
OBSERVERS: list[dict[str, object]] = [
    {"method": "ema", "horizon": 1},
    {"method": "ema", "horizon": 0.5, "statistics": "average"},
    {"method": "lawa", "last": 2},
    {"method": "lawa", "last": 3, "statistics": "average"},
]
ALL = [{"method": "swa"}, *OBSERVERS]


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


def same_tensors(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tensors(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_tensors, one, other))
    return bool(one == other)


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


@pytest.mark.parametrize(("averages", "swa_start"), [(ALL, 1), (ALL[::-1], 1), (OBSERVERS, None)])
def test_a_resumed_run_gives_the_same_bits(
    averages: list[dict[str, object]], swa_start: int | None, tiny_data: Dataset, tmp_path: Path
) -> None:
    settings = make_settings(averages, swa_start)
    straight = Run(settings, tiny_data, NUMERICS)
    expected = finish_run(straight)
    for stop in range(1, settings.train.epochs + 1):
        run = Run(settings, tiny_data, NUMERICS)
        found = [describe_epoch(run, run.run_epoch()) for _ in range(stop)]
        checkpoints.save_checkpoint(run.state_dict(), tmp_path / "state.pt")
        resumed = Run(settings, tiny_data, NUMERICS)
        resumed.load_state_dict(checkpoints.load_checkpoint(tmp_path / "state.pt"))
        assert found + finish_run(resumed) == expected, stop
        assert same_tensors(describe_state(resumed), describe_state(straight))
        assert same_tensors(resumed.shipped_model.state_dict(), straight.shipped_model.state_dict())
        for label, said in resumed.predict_with_averages().items():
            assert torch.equal(said.nll, straight.predict_with_averages()[label].nll)


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
