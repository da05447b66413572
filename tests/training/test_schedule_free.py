"""Schedule-free optimizers: their authors' numbers and loop, resuming, sharing, and SWA on top."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch.optim.swa_utils import update_bn

from helpers.resumed_runs import NUMERICS, facts, resume_everywhere
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.model import build_model
from tune_swa.training.optimizers import build_optimizer, move_to_average, move_to_gradient_point
from tune_swa.training.run import Run
from tune_swa.training.schedule import base_factor

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "schedulefree.npz")
EPOCHS = 4
OBSERVED = {
    "swa": {"method": "swa"},
    "ema": {"method": "ema", "horizon": 0.5},
    "lawa": {"method": "lawa", "last": 2},
}
both = pytest.mark.parametrize("optimizer", ["schedulefree_sgd", "schedulefree_adamw"])

pytestmark = pytest.mark.usefixtures("narrow_network")


def settings(optimizer: str, swa_start: int | None = None, lr: float = 5e-3, **train: object) -> RunSettings:
    given = {"epochs": EPOCHS, "batch_size": 8, "augment": ("hflip", "crop"), "optimizer": optimizer, **train}
    return RunSettings(
        lr=lr,
        swa_start=swa_start,
        swa_lr=None if swa_start is None else 2e-3,
        seed=11,
        train=TrainSpec.model_validate(given),
        averaging=AveragingSpec(anneal_epochs=1),
    )


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


# -- the formula


class Point(torch.nn.Module):
    """A vector to minimise a function of."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.point = torch.nn.Parameter(start.clone())


def quad_gradient(y: torch.Tensor) -> torch.Tensor:
    matrix, centre = (torch.from_numpy(GOLDEN[f"quad_{name}"]).to(y) for name in ("A", "c"))
    return matrix @ (y - centre)


def logit_gradient(y: torch.Tensor) -> torch.Tensor:
    inputs, labels = (torch.from_numpy(GOLDEN[f"logit_{name}"]).to(y) for name in ("X", "y"))
    margins = labels * (inputs @ y)
    return -(inputs * (labels / (1 + margins.exp()))[:, None]).mean(0)


GRADIENTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quad": quad_gradient,
    "logit": logit_gradient,
}


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("problem", ["quad", "logit"])
@pytest.mark.parametrize("case", ["sgd_a", "sgd_b", "adamw_a", "adamw_b"])
def test_the_three_points_are_the_published_ones(case: str, problem: str, dtype: str) -> None:
    lr, beta, beta2, eps, decay, warmup, r, power = GOLDEN[f"{case}_settings"]
    start = torch.from_numpy(GOLDEN[f"{problem}_start"]).to(
        torch.float64 if dtype == "f64" else torch.float32
    )
    model = Point(start)
    train = TrainSpec(
        optimizer="schedulefree_" + case.partition("_")[0],  # type: ignore[arg-type]
        momentum=beta,
        weight_decay=decay,
        schedule="constant",
        warmup_epochs=max(0, int(warmup) - 1),
        unit="batch",
    )
    optimizer = build_optimizer(model, lr, train, NUMERICS)
    group = optimizer.param_groups[0]
    group.update(r=r, weight_lr_power=power)
    if "adamw" in case:
        group.update(betas=(beta, beta2), eps=eps)
    tolerance = {"f64": 1e-10, "f32": 1e-4}[dtype]
    for step in range(40):
        move_to_gradient_point(optimizer)
        group["lr"] = lr * base_factor(step, train, 1)
        model.point.grad = GRADIENTS[problem](model.point.detach())
        optimizer.step()
        found = {"y": model.point.detach().clone(), "z": optimizer.state[model.point]["z"].clone()}
        move_to_average(optimizer)
        found["x"] = model.point.detach()
        for name, point in found.items():
            expected = GOLDEN[f"{case}_{problem}_{dtype}_{name}"]
            gap = np.abs(point.numpy() - expected[step]).max() / np.abs(expected).max()
            assert gap < tolerance, (name, step, gap)


@both
def test_at_a_constant_rate_the_evaluated_weights_are_the_mean_of_all_steps(optimizer: str) -> None:
    model = Point(torch.from_numpy(GOLDEN["quad_start"]))
    train = settings(optimizer).train
    built = build_optimizer(model, 0.05, train, NUMERICS)
    visited = []
    for _ in range(30):
        move_to_gradient_point(built)
        model.point.grad = quad_gradient(model.point.detach())
        built.step()
        visited.append(built.state[model.point]["z"].clone())
    move_to_average(built)
    torch.testing.assert_close(model.point.detach(), torch.stack(visited).mean(0), rtol=0, atol=1e-14)


# -- the run


def documented_loop(
    wanted: RunSettings, data: Dataset, warmup_steps: int
) -> Iterator[tuple[float, float, dict[str, torch.Tensor]]]:
    """The loop of the library's documentation: yields accuracy, rate and weights after each epoch."""
    train = wanted.train
    batches = ImageBatches(data, data.train, "cpu", channels_last=True)
    validation = ImageBatches(data, data.val, "cpu", channels_last=True)

    def loader(epoch: int, purpose: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        drawn = batches.iterate_training(
            train.batch_size, augment=train.augment, seed=wanted.seed, epoch=epoch, purpose=purpose
        )
        return list(drawn)

    model = build_model(data.num_classes, wanted.seed, None).to(memory_format=torch.channels_last)
    given = {"lr": wanted.lr, "weight_decay": train.weight_decay, "warmup_steps": warmup_steps}
    if train.optimizer == "schedulefree_sgd":
        optimizer = SGDScheduleFree(model.parameters(), momentum=train.momentum, **given)
    else:
        optimizer = AdamWScheduleFree(model.parameters(), betas=(train.momentum, 0.999), **given)
    loss_fn = torch.nn.CrossEntropyLoss()
    for epoch in range(train.epochs):
        model.train()
        optimizer.train()
        for images, labels in loader(epoch, "train"):
            optimizer.zero_grad()
            loss_fn(model(images), labels).backward()
            optimizer.step()
        optimizer.eval()
        # on a copy, so that the running statistics of training go on as if nothing had been evaluated
        evaluated = copy.deepcopy(model)
        update_bn(loader(epoch, "bn"), evaluated)
        evaluated.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in validation.iterate_ordered(train.eval_batch_size):
                correct += int((evaluated(images).argmax(1) == labels).sum())
        rate = optimizer.param_groups[0]["scheduled_lr"]
        yield correct / len(data.val), rate, evaluated.state_dict()


@both
@pytest.mark.parametrize("warmup", [0, 5])
def test_a_baseline_equals_the_librarys_loop_bit_for_bit(
    optimizer: str, warmup: int, tiny_data: Dataset
) -> None:
    """Our warm-up over 5 batches gives rates of 1/6 to 5/6, as the library's over 6 steps does."""
    wanted = settings(optimizer, warmup_epochs=warmup, unit="batch", weight_decay=5e-4)
    run = Run(wanted, tiny_data, NUMERICS)
    for accuracy, rate, evaluated in documented_loop(wanted, tiny_data, warmup and warmup + 1):
        record = run.run_epoch()
        assert record.accuracy == record.live_accuracy == accuracy
        assert record.learning_rate == rate
        assert_same(run.shipped_model.state_dict(), evaluated)
    assert run.done


@both
@pytest.mark.parametrize("swa_start", [None, 1])
@pytest.mark.parametrize("averages", [(), ("swa", "ema", "lawa")])
def test_resuming_at_every_boundary_changes_nothing(
    optimizer: str, swa_start: int | None, averages: tuple[str, ...], tiny_data: Dataset, tmp_path: Path
) -> None:
    listed = [OBSERVED[name] for name in averages if name != "swa" or swa_start is not None]
    plain = settings(optimizer, swa_start, warmup_epochs=1)
    wanted = RunSettings.model_validate({**plain.model_dump(), "averages": listed})
    run, straight = resume_everywhere(wanted, tiny_data, tmp_path)
    assert {n: s.accuracy for n, s in run.scores.items()} == {
        n: s.accuracy for n, s in straight.scores.items()
    }
    assert len(run.scores) == len(listed)


@both
@pytest.mark.parametrize("swa_start", [None, 1])
def test_a_run_on_the_trunk_of_another_equals_one_that_trains_alone(
    optimizer: str, swa_start: int | None, tiny_data: Dataset, tmp_path: Path
) -> None:
    wanted = settings(optimizer, swa_start)
    alone = Run(wanted, tiny_data, NUMERICS)
    expected = [facts(record) for record in alone]
    trunk = Run(settings(optimizer), tiny_data, NUMERICS)
    for published in range(3):
        trunk.begin_epoch()
        checkpoints.save_checkpoint(trunk.trunk_state(), tmp_path / f"{published}.pt")
        trunk.finish_epoch()
        taken = Run(wanted, tiny_data, NUMERICS)
        taken.load_state_dict(checkpoints.load_checkpoint(tmp_path / f"{published}.pt"))
        if published == wanted.fork_epoch:  # trained by the other one, averaged by this one
            assert taken.live_record is not None
            assert taken.live_record.bn_seconds == 0
            assert taken.epoch == published
        begun = taken.epoch
        assert [facts(record) for record in taken] == expected[begun:]
        assert_same(taken.shipped_model.state_dict(), alone.shipped_model.state_dict())
        if published == wanted.fork_epoch:
            break


@both
def test_statistics_of_the_average_do_not_reach_the_training(optimizer: str, tiny_data: Dataset) -> None:
    straight, other = (Run(settings(optimizer), tiny_data, NUMERICS) for _ in range(2))
    for _ in range(EPOCHS):
        expected = facts(straight.run_epoch())
        other.model.bn1.running_mean.fill_(100)
        other.model.bn1.running_var.fill_(0.1)
        assert facts(other.run_epoch()) == expected
        other.predict_test_images(refresh=True)
    assert_same(other.model.state_dict(), straight.model.state_dict())


@both
def test_swa_averages_what_would_be_shipped_at_the_ends_of_epochs(optimizer: str, tiny_data: Dataset) -> None:
    run, plain = (Run(settings(optimizer, start), tiny_data, NUMERICS) for start in (0, None))
    assert facts(run.run_epoch()) == facts(plain.run_epoch())
    live = []
    for epoch in range(1, EPOCHS):
        record = run.run_epoch()
        live.append(run.model.conv1.weight.detach().double().clone())
        average = run.shipped_model.conv1.weight.detach().double()
        torch.testing.assert_close(average, torch.stack(live).mean(0), rtol=0, atol=1e-6)
        if epoch == 1:  # the first average is the model that plain training would ship
            plain.run_epoch()
            assert record.accuracy == record.live_accuracy == plain.record.accuracy  # type: ignore[union-attr]
            assert_same(run.shipped_model.state_dict(), plain.shipped_model.state_dict())
    assert run.record is not None
    assert run.record.learning_rate == pytest.approx(2e-3)


@both
def test_what_is_shipped_has_the_reported_accuracy(
    optimizer: str, tiny_data: Dataset, tmp_path: Path
) -> None:
    run = Run(settings(optimizer), tiny_data, NUMERICS)
    *_, last = run
    checkpoints.save_checkpoint(run.state_dict(), tmp_path / "c.pt")
    model = build_model(tiny_data.num_classes, 0, None)
    model.load_state_dict(checkpoints.extract_shipped_weights(checkpoints.load_checkpoint(tmp_path / "c.pt")))
    assert run._evaluate_on_validation(model).accuracy == last.accuracy
    assert last.bn_seconds > 0


# -- settings


@both
def test_no_setting_is_inert(optimizer: str, tiny_data: Dataset) -> None:
    def losses(**changes: object) -> list[float]:
        wanted = settings(optimizer, **{"epochs": 2, **changes})  # type: ignore[arg-type]
        return [record.train_loss for record in Run(wanted, tiny_data, NUMERICS)]

    plain = losses()
    for change in ({"momentum": 0.5}, {"weight_decay": 0.1}, {"warmup_epochs": 1}, {"lr": 1e-2}):
        assert losses(**change) != plain, change
    assert losses(schedule="cosine", t_max=1) == plain  # those of a search's other optimizers


@both
@pytest.mark.parametrize("fused", [True, False])
def test_fused_is_one_kernel_per_operation(optimizer: str, fused: bool, tiny_data: Dataset) -> None:
    run = Run(settings(optimizer), tiny_data, replace(NUMERICS, fused=fused))
    assert run.optimizer.param_groups[0]["foreach"] is fused


@both
def test_a_compiled_network_trains_and_evaluates_the_same(
    optimizer: str, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs see the weights where they are, at either point."""
    compile_with = torch.compile

    def keep_graph(graph: Any, inputs: list[torch.Tensor]) -> Any:
        return graph

    monkeypatch.setattr(
        torch, "compile", lambda model, **given: compile_with(model, backend=keep_graph, **given)
    )
    records = [
        [facts(r) for r in Run(settings(optimizer, epochs=2), tiny_data, replace(NUMERICS, compile=compiled))]
        for compiled in (True, False)
    ]
    assert records[0] == records[1]
