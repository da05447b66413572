"""The learning rate after the fork, and which models are averaged: against torch's own classes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from torch.optim.swa_utils import AveragedModel

from helpers.resumed_runs import NUMERICS
from helpers.same_tensors import same_tensors
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")
TIMES = {"train_seconds", "bn_seconds", "eval_seconds", "images_per_second", "seconds"}
EPOCHS, START, STEPS = 9, 1, 4
"""`tiny_data` has 28 training images, which are four batches of eight."""
CYCLIC = AveragingSpec(tail="cyclic", cycle_epochs=3, cycle_low=0.1)
BASE = AveragingSpec(tail="base")
CONSTANT = AveragingSpec(anneal_epochs=2)
AVERAGES: list[dict[str, object]] = [
    {"method": "swa"},
    {"method": "ema", "horizon": 1},
    {"method": "lawa", "last": 2},
    {"method": "swag", "rank": 2, "samples": 3, "search_samples": 2},
]


def make_settings(averaging: AveragingSpec, swa_start: int | None = START, **changes: Any) -> RunSettings:
    has_rate = swa_start is not None and averaging.tail != "base"
    values = {
        "lr": 1e-3,
        "swa_start": swa_start,
        "swa_lr": 5e-4 if has_rate else None,
        "train": TrainSpec(epochs=EPOCHS, batch_size=8, augment=("hflip",), **changes.pop("train", {})),
        "averaging": averaging,
    }
    return RunSettings.model_validate({**values, **changes})


class Recorded(Run):
    """Keeps the rate of every step."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.rates: list[float] = []

    def train_batch(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        return super().train_batch(images, labels)


def read_rates(settings: RunSettings, data: Dataset) -> list[float]:
    run = Recorded(settings, data, NUMERICS)
    list(run)
    assert len(run.rates) == EPOCHS * STEPS
    return run.rates


def step_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def make_optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def test_a_cycle_has_the_rates_of_torchs_linear_scheduler(tiny_data: Dataset) -> None:
    """From swa_lr to a tenth of it over three epochs, again and again; the fork itself at the base rate."""
    rates = read_rates(make_settings(CYCLIC), tiny_data)
    fork = (START + 2) * STEPS
    assert rates[:fork] == read_rates(make_settings(CYCLIC, None), tiny_data)[:fork]
    cycle = 3 * STEPS
    optimizer = make_optimizer(5e-4)
    scheduler = LinearLR(optimizer, start_factor=1, end_factor=0.1, total_iters=cycle)
    expected = step_scheduler(scheduler, optimizer, cycle)
    assert rates[fork : fork + cycle] == pytest.approx(expected, rel=1e-9)
    assert rates[fork + cycle :] == rates[fork : fork + cycle]


def test_cycles_that_end_where_they_begin_are_a_constant_rate(tiny_data: Dataset) -> None:
    flat = AveragingSpec(tail="cyclic", cycle_epochs=1, cycle_low=1)
    rates = read_rates(make_settings(flat), tiny_data)
    assert rates[(START + 2) * STEPS :] == pytest.approx([5e-4] * (EPOCHS - START - 2) * STEPS, rel=1e-12)


def test_the_default_cycle_is_two_epochs_down_to_a_fifth(tiny_data: Dataset) -> None:
    rates = read_rates(make_settings(AveragingSpec(tail="cyclic")), tiny_data)
    ends = rates[(START + 2) * STEPS + 2 * STEPS - 1 :: 2 * STEPS]
    assert ends == pytest.approx([1e-4] * 3, rel=1e-12)


def test_the_base_tail_has_the_rates_of_torchs_cosine(tiny_data: Dataset) -> None:
    rates = read_rates(make_settings(BASE), tiny_data)
    optimizer = make_optimizer(1e-3)
    scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS)
    assert rates[::STEPS] == pytest.approx(
        [1e-3, *step_scheduler(scheduler, optimizer, EPOCHS - 1)], rel=1e-9
    )


@pytest.mark.parametrize("unit", ["epoch", "batch"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "schedulefree_sgd"])
def test_the_base_tails_live_model_is_the_baseline_bit_for_bit(
    unit: str, optimizer: str, tiny_data: Dataset
) -> None:
    train = {"unit": unit, "optimizer": optimizer, "warmup_epochs": 2}
    plain = Run(make_settings(BASE, None, train=train), tiny_data, NUMERICS)
    run = Run(make_settings(BASE, train=train), tiny_data, NUMERICS)
    average = None
    for record, baseline in zip(run, plain, strict=True):
        assert (record.learning_rate, record.train_loss) == (baseline.learning_rate, baseline.train_loss)
        assert record.live_accuracy == baseline.accuracy
        assert same_tensors(run.model.state_dict(), plain.model.state_dict())
        assert same_tensors(run.optimizer.state_dict()["state"], plain.optimizer.state_dict()["state"])
        if record.epoch > START:
            average = average or AveragedModel(plain.model)
            average.update_parameters(plain.model)
            assert same_weights(run.shipped_model, average.module)
            assert record.n_averaged == int(average.n_averaged)


def test_only_the_ends_of_cycles_are_averaged(tiny_data: Dataset) -> None:
    """The fork ends the first one: epochs 2, 5 and 8. In between nothing of the average changes."""
    run = Run(make_settings(CYCLIC), tiny_data, NUMERICS)
    average, ends, before = None, [], {}
    for record in run:
        if record.phase == "trunk":
            continue
        if record.epoch in (2, 5, 8):
            average = average or AveragedModel(run.model)
            average.update_parameters(run.model)
            ends.append(record.epoch)
            assert record.learning_rate == pytest.approx(5e-5) or record.epoch == 2
            assert same_weights(run.shipped_model, average.module)
        else:
            assert same_tensors(run.shipped_model.state_dict(), before)
            assert not same_weights(run.shipped_model, run.model)
        assert record.n_averaged == len(ends)
        before = copy.deepcopy(run.shipped_model.state_dict())
    assert ends == [2, 5, 8]


def test_observers_of_epoch_ends_collect_at_the_ends_of_cycles(tiny_data: Dataset) -> None:
    """LAWA's last two models are those of epochs 5 and 8; an EMA takes every step since the fork."""
    run = Run(make_settings(CYCLIC, averages=AVERAGES), tiny_data, NUMERICS)
    collected = []
    for record in run:
        if record.epoch in (5, 8):
            collected.append([parameter.detach().clone() for parameter in run.model.parameters()])
    state = run.state_dict()["averages"]
    observers, snapshots = state["observers"], state["snapshots"]
    assert [snapshot["epoch"] for snapshot in snapshots] == [5, 8]
    assert same_tensors([snapshot["parameters"] for snapshot in snapshots], collected)
    assert observers["lawa-2"]["count"] == 2
    assert observers["ema-1"]["count"] == 1 + STEPS * (EPOCHS - START - 2)


@pytest.mark.parametrize("averaging", [CONSTANT, CYCLIC, BASE], ids=lambda spec: spec.tail)
@pytest.mark.parametrize("averages", [[], AVERAGES, AVERAGES[::-1]], ids=["swa", "all", "reversed"])
def test_a_resume_at_any_epoch_gives_the_same_bits(
    averaging: AveragingSpec, averages: list[dict[str, object]], tiny_data: Dataset, tmp_path: Path
) -> None:
    settings = make_settings(averaging, averages=averages)
    straight = Run(settings, tiny_data, NUMERICS)
    run = Run(settings, tiny_data, NUMERICS)
    for record in straight:
        assert drop_times(run.run_epoch().as_dict()) == drop_times(record.as_dict())
        checkpoints.save_checkpoint(run.state_dict(), tmp_path / "state.pt")
        run = Run(settings, tiny_data, NUMERICS)
        run.load_state_dict(checkpoints.load_checkpoint(tmp_path / "state.pt"))
        assert same_tensors(describe_state(run), describe_state(straight))


@pytest.mark.parametrize("averaging", [CYCLIC, BASE], ids=lambda spec: spec.tail)
def test_a_schedule_free_optimizer_resumes_within_a_tail(
    averaging: AveragingSpec, tiny_data: Dataset, tmp_path: Path
) -> None:
    settings = make_settings(averaging, train={"optimizer": "schedulefree_adamw"})
    straight, run = Run(settings, tiny_data, NUMERICS), Run(settings, tiny_data, NUMERICS)
    for record in straight:
        assert drop_times(run.run_epoch().as_dict()) == drop_times(record.as_dict())
        checkpoints.save_checkpoint(run.state_dict(), tmp_path / "state.pt")
        run = Run(settings, tiny_data, NUMERICS)
        run.load_state_dict(checkpoints.load_checkpoint(tmp_path / "state.pt"))
    assert same_tensors(describe_state(run), describe_state(straight))


@pytest.mark.parametrize("averaging", [CONSTANT, CYCLIC, BASE], ids=lambda spec: spec.tail)
def test_a_branch_of_a_shared_trunk_gives_the_same_bits(averaging: AveragingSpec, tiny_data: Dataset) -> None:
    settings = make_settings(averaging, averages=AVERAGES)
    straight = Run(settings, tiny_data, NUMERICS)
    expected = [drop_times(record.as_dict()) for record in straight]
    trunk = Run(make_settings(CONSTANT, None), tiny_data, NUMERICS)  # all tails have the same trunk
    for _ in range(START + 1):
        trunk.run_epoch()
    trunk.begin_epoch()
    branch = Run(settings, tiny_data, NUMERICS)
    branch.load_state_dict(trunk.trunk_state())
    assert [drop_times(record.as_dict()) for record in branch] == expected[START + 1 :]
    assert same_tensors(describe_state(branch), describe_state(straight))


def test_all_tails_have_trunks_of_the_same_name() -> None:
    namer = TrunkNamer.by_settings()
    names = {namer.name_trunk(make_settings(averaging)) for averaging in (CONSTANT, CYCLIC, BASE)}
    assert names == {namer.name_trunk(make_settings(CONSTANT, None))}


def drop_times(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMES}


def describe_state(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.state_dict().items() if key not in ("record", "scores")}


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)
