"""A run that reports and ships the best of its averages: which one, with what weights, and exactly again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.same_tensors import same_tensors
from tune_swa.config import AveragingSpec, Metric, RunSettings, TrainSpec, list_choosable
from tune_swa.config.averages import move_first
from tune_swa.data.dataset import Dataset
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.average_choice import AverageChoice
from tune_swa.training.numerics import Numerics
from tune_swa.training.records import AverageScore, EpochRecord
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")
NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)
TIMES = {"train_seconds", "bn_seconds", "eval_seconds", "images_per_second", "seconds"}
LISTED: list[dict[str, object]] = [
    {"method": "swa"},
    {"method": "ema", "horizon": 0.5, "statistics": "average"},
    {"method": "ema", "horizon": 3},
    {"method": "swad", "converge": 2, "tolerance": 1, "ratio": 0.01},
    {"method": "lawa", "last": 2},
    {"method": "power_ema", "length": 0.08},
    {"method": "swag", "rank": 2, "search_samples": 2},
]
METRICS: tuple[Metric, ...] = ("accuracy", "nll")
SCORED = (2, 5)
"""Epochs that score all averages; the last one is 5."""


def make_settings(metric: Metric | None = "nll", **changes: Any) -> RunSettings:
    values: dict[str, Any] = {
        "lr": 1e-3,
        "swa_start": 1,
        "swa_lr": 5e-4,
        "train": TrainSpec(epochs=6, batch_size=8, augment=("hflip",)),
        "averaging": AveragingSpec(anneal_epochs=2),
        "averages": LISTED,
        "chosen_by": metric,
    }
    return RunSettings.model_validate({**values, **changes})


def begin_run(settings: RunSettings, data: Dataset) -> Run:
    return Run(settings, data, NUMERICS, score_epochs=SCORED[:1])


def describe_epoch(run: Run, record: EpochRecord) -> dict[str, Any]:
    scores = {label: {**score.as_dict(), "seconds": 0} for label, score in run.scores.items()}
    return {**{k: v for k, v in record.as_dict().items() if k not in TIMES}, "scores": scores}


def finish_run(run: Run) -> list[dict[str, Any]]:
    return [describe_epoch(run, record) for record in run]


def find_best(scores: dict[str, dict[str, Any]], settings: RunSettings) -> str:
    """The label of the best score, by both metrics in their order."""
    order = {"accuracy": lambda s: (-s["accuracy"], s["nll"]), "nll": lambda s: (s["nll"], -s["accuracy"])}
    assert settings.chosen_by is not None
    key = order[settings.chosen_by]
    return min(list_choosable(settings.averages), key=lambda label: key(scores[label]))


@pytest.mark.parametrize("metric", METRICS)
def test_scored_epochs_report_the_best_and_others_the_first(metric: Metric, tiny_data: Dataset) -> None:
    settings = make_settings(metric)
    found = finish_run(begin_run(settings, tiny_data))
    plain = finish_run(begin_run(make_settings(None), tiny_data))
    of_choice = {"accuracy", "nll", "ece", "average"}
    for epoch, (record, expected) in enumerate(zip(found, plain, strict=True)):
        assert "average" not in expected
        # the training, and what each average scores, does not depend on what is chosen
        assert {k: v for k, v in record.items() if k not in of_choice} == {
            k: v for k, v in expected.items() if k not in of_choice
        }
        if epoch in SCORED:
            best = find_best(record["scores"], settings)
            assert record["average"] == best
            assert [record[k] for k in METRICS] == [record["scores"][best][k] for k in METRICS]
        else:
            assert record == expected | ({"average": "swa"} if epoch > 1 else {})


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("first", ["swa", "ema-3"])
def test_what_is_shipped_is_what_a_run_led_by_the_chosen_one_ships(
    metric: Metric, first: str, tiny_data: Dataset, tmp_path: Path
) -> None:
    """Bit for bit: this is how it is run on fresh seeds."""
    settings = make_settings(metric)
    settings = settings.model_copy(update={"averages": move_first(settings.averages, first)})
    run = begin_run(settings, tiny_data)
    record = finish_run(run)[-1]
    led_by = move_first(settings.averages, record["average"])
    led = begin_run(settings.model_copy(update={"averages": led_by, "chosen_by": None}), tiny_data)
    expected = finish_run(led)[-1]
    assert {k: record[k] for k in (*METRICS, "ece")} == {k: expected[k] for k in (*METRICS, "ece")}
    assert same_tensors(run.shipped_model.state_dict(), led.shipped_model.state_dict())
    checkpoints.save_checkpoint(run.state_dict(), tmp_path / "state.pt")
    shipped = checkpoints.extract_shipped_weights(checkpoints.load_checkpoint(tmp_path / "state.pt"))
    assert same_tensors(shipped, dict(led.shipped_model.state_dict()))
    assert torch.equal(run.predict_test_images().nll, led.predict_test_images().nll)
    said, others = run.predict_with_averages(), led.predict_with_averages()
    assert all(torch.equal(said[label].nll, others[label].nll) for label in said)
    assert torch.equal(said[record["average"]].nll, run.predict_test_images().nll)


def test_these_runs_choose_others_than_the_first(tiny_data: Dataset) -> None:
    """Else the tests above and below would say little."""
    records = finish_run(begin_run(make_settings("nll"), tiny_data))
    assert any(records[epoch]["average"] != "swa" for epoch in SCORED)


@pytest.mark.parametrize("first", ["swa", "lawa-2"])
@pytest.mark.parametrize("tail", ["constant", "cyclic"])
def test_a_resumed_run_gives_the_same_bits(first: str, tail: str, tiny_data: Dataset, tmp_path: Path) -> None:
    averaging: dict[str, Any] = {"anneal_epochs": 2, "score": "every"}
    if tail == "cyclic":
        averaging = {"tail": "cyclic", "cycle_epochs": 2, "score": "rungs"}
    settings = make_settings(averaging=averaging)
    settings = settings.model_copy(update={"averages": move_first(settings.averages, first)})
    straight = begin_run(settings, tiny_data)
    expected = finish_run(straight)
    run, found = begin_run(settings, tiny_data), []
    while not run.done:
        found.append(describe_epoch(run, run.run_epoch()))
        checkpoints.save_checkpoint(run.state_dict(), tmp_path / "state.pt")
        resumed = begin_run(settings, tiny_data)
        resumed.load_state_dict(checkpoints.load_checkpoint(tmp_path / "state.pt"))
        assert same_tensors(resumed.shipped_model.state_dict(), run.shipped_model.state_dict())
        assert found + finish_run(resumed) == expected, run.epoch
        assert same_tensors(resumed.shipped_model.state_dict(), straight.shipped_model.state_dict())


def test_a_branch_of_a_shared_trunk_gives_the_same_bits(tiny_data: Dataset) -> None:
    expected = finish_run(begin_run(make_settings(), tiny_data))
    trunk = Run(make_settings(None, averages=[], swa_start=None, swa_lr=None), tiny_data, NUMERICS)
    for _ in range(2):
        trunk.run_epoch()
    trunk.begin_epoch()
    branch = begin_run(make_settings(), tiny_data)
    branch.load_state_dict(trunk.trunk_state())
    assert finish_run(branch) == expected[2:]


# --------------------------------------------------------------------------------- made-up scores


def score(accuracy: float, nll: float) -> AverageScore:
    return AverageScore(1, accuracy, nll, 0.1, 1.0)


def choose(metric: Metric, scores: dict[str, AverageScore]) -> AverageChoice:
    choice = AverageChoice(make_settings(metric), metric, nn.Linear(1, 1))
    for number, (label, found) in enumerate(scores.items()):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, number)
        choice.offer_average(label, found, model)
    return choice


def test_equals_are_told_apart_by_the_other_metric_then_by_their_order() -> None:
    scores = {"swa": score(0.9, 0.3), "ema-3": score(0.9, 0.2), "lawa-2": score(0.9, 0.2)}
    assert choose("accuracy", scores).label == "ema-3"
    assert choose("nll", {**scores, "power_ema-0.08": score(0.91, 0.2)}).label == "power_ema-0.08"
    assert choose("accuracy", dict.fromkeys(scores, score(0.9, 0.2))).label == "swa"


def test_the_best_one_is_kept_with_its_weights_and_goes_with_the_next_epoch() -> None:
    choice = choose("accuracy", {"swa": score(0.8, 0.3), "ema-3": score(0.9, 0.2), "lawa-2": score(0.7, 0.1)})
    assert isinstance(choice.model, nn.Linear)
    assert choice.model.weight.item() == 1
    choice.begin_epoch()
    assert choice.model is None
    assert choice.label == "swa"


@pytest.mark.parametrize("label", ["swad-2-1-0.01", "swag-2"])
def test_what_validation_images_chose_or_what_draws_members_is_never_chosen(label: str) -> None:
    choice = choose("accuracy", {"swa": score(0.8, 0.3), label: score(1.0, 0.0)})
    assert (choice.label, choice.model) == ("swa", None)


def test_an_epoch_that_scores_nothing_reports_the_first() -> None:
    record = EpochRecord(3, "branch", 0.1, 0.1, 0.5, 0.4, 1.0, 0.1, 2, 1.0, 1.0, 1.0, 1.0)
    choice = choose("accuracy", {})
    assert choice.report_epoch(record) == replace(record, average="swa")
    assert "average" not in record.as_dict()
