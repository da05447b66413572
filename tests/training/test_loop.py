"""The run: which models are averaged, resuming at every epoch, what evaluation must not touch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torchvision.models.resnet import BasicBlock, ResNet

from helpers.resumed_runs import NUMERICS, facts, resume_everywhere
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.metrics import NonFiniteError
from tune_swa.training.numerics import Numerics
from tune_swa.training.run import Run

NARROW = pytest.mark.usefixtures("narrow_network")


def settings(epochs: int = 5, swa_start: int | None = 1, **changes: object) -> RunSettings:
    values: dict[str, object] = {
        "lr": 1e-3,
        "swa_start": swa_start,
        "swa_lr": None if swa_start is None else 5e-4,
        "train": TrainSpec(epochs=epochs, batch_size=8, augment=("hflip",)),
        "averaging": AveragingSpec(anneal_epochs=2),
    }
    return RunSettings.model_validate({**values, **changes})


@NARROW
@pytest.mark.parametrize(
    ("epochs", "swa_start", "averaged"),
    [
        (5, 0, [1, 2, 3, 4]),
        (5, 1, [2, 3, 4]),
        (5, 3, [4]),
        (2, 0, [1]),
    ],
)
def test_which_epochs_are_averaged(
    epochs: int, swa_start: int, averaged: list[int], tiny_data: Dataset
) -> None:
    """Every epoch > swa_start, as in torch's documentation."""
    records = list(Run(settings(epochs, swa_start), tiny_data, NUMERICS))
    assert [r.epoch for r in records if r.phase == "branch"] == averaged
    assert [r.n_averaged for r in records] == [max(0, e - swa_start) for e in range(epochs)]


def test_the_tutorials_numbers_average_29_models() -> None:
    """swa_start=90, E=120: the models at the ends of epochs 91..119."""
    wanted = settings(120, 90)
    assert wanted.fork_epoch == 91
    assert wanted.fork_epoch is not None
    assert wanted.train.epochs - wanted.fork_epoch == 29


def test_the_average_is_the_mean_of_the_live_models(tiny_data: Dataset) -> None:
    run = Run(settings(5, 1), tiny_data, NUMERICS)
    live = []
    for record in run:
        if record.epoch > 1:
            live.append(run.model.conv1.weight.detach().double().clone())
    torch.testing.assert_close(
        run.shipped_model.conv1.weight.detach().double(), torch.stack(live).mean(0), rtol=0, atol=1e-6
    )


@NARROW
def test_before_averaging_the_shipped_model_is_the_live_one(tiny_data: Dataset) -> None:
    for record in Run(settings(4, 2), tiny_data, NUMERICS):
        if record.phase == "trunk":
            assert record.accuracy == record.live_accuracy
            assert record.n_averaged == 0


@NARROW
@pytest.mark.parametrize("swa_start", [None, 1])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resuming_at_every_boundary_changes_nothing(
    swa_start: int | None, optimizer: str, tiny_data: Dataset, tmp_path: Path
) -> None:
    wanted = settings(5, swa_start, train=TrainSpec(epochs=5, batch_size=8, optimizer=optimizer))
    resume_everywhere(wanted, tiny_data, tmp_path)


@NARROW
def test_resuming_keeps_an_immediate_anneal(tiny_data: Dataset, tmp_path: Path) -> None:
    """With anneal_epochs=0 building SWALR moves the rate, so it must be put back on a resume."""
    wanted = settings(4, 0, averaging=AveragingSpec(anneal_epochs=0))
    expected = [facts(r) for r in Run(wanted, tiny_data, NUMERICS)]
    assert [r["learning_rate"] for r in expected[2:]] == [5e-4, 5e-4]
    run = Run(wanted, tiny_data, NUMERICS)
    run.run_epoch()
    run.run_epoch()
    checkpoints.save_checkpoint(run.state_dict(), tmp_path / "c.pt")
    again = Run(wanted, tiny_data, NUMERICS)
    again.load_state_dict(checkpoints.load_checkpoint(tmp_path / "c.pt"))
    assert [facts(r) for r in again] == expected[2:]


@NARROW
def test_a_run_leaves_the_global_generators_alone(tiny_data: Dataset) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    list(Run(settings(2, 0), tiny_data, NUMERICS))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_evaluating_changes_nothing(tiny_data: Dataset) -> None:
    run = Run(settings(3, 0), tiny_data, NUMERICS)
    run.run_epoch()
    run.run_epoch()
    before = {n: t.clone() for n, t in run.model.state_dict().items()}
    average = {n: t.clone() for n, t in run.shipped_model.state_dict().items()}
    assert run._evaluate_on_validation(run.model) == run._evaluate_on_validation(run.model)
    assert run._evaluate_on_validation(run.shipped_model) == run._evaluate_on_validation(run.shipped_model)
    assert run.model.training
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for name, tensor in run.shipped_model.state_dict().items():
        assert torch.equal(tensor, average[name]), name


def test_the_refreshed_statistics_are_not_the_live_models(tiny_data: Dataset) -> None:
    """Forgetting the refresh would leave the live model's buffers in the average."""
    run = Run(settings(3, 0), tiny_data, NUMERICS)
    for _ in run:
        pass
    assert not torch.equal(run.shipped_model.bn1.running_mean, run.model.bn1.running_mean)
    assert run.shipped_model.bn1.momentum == run.model.bn1.momentum


@NARROW
def test_bn_batches_and_bn_batch_size_take_effect(tiny_data: Dataset) -> None:
    def final(**averaging: int) -> tuple[torch.Tensor, int]:
        run = Run(settings(2, 0, averaging=AveragingSpec(**averaging)), tiny_data, NUMERICS)
        list(run)
        return run.shipped_model.bn1.running_mean, int(run.shipped_model.bn1.num_batches_tracked)

    whole, whole_batches = final()
    part, part_batches = final(bn_batches=2)
    larger, larger_batches = final(bn_batch_size=14)
    assert (whole_batches, part_batches, larger_batches) == (4, 2, 2)
    assert not torch.equal(whole, part)
    assert not torch.equal(whole, larger)


@NARROW
@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd"},
        {"weight_decay": 0.1},
        {"batch_size": 7},
        {"warmup_epochs": 1},
        {"schedule": "constant"},
        {"t_max": 1},
        {"unit": "batch"},
        {"augment": ("hflip",)},
        {"augment": ("vflip",)},
        {"augment": ("crop",)},
        {"label_smoothing": 0.1},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
def test_no_training_setting_is_inert(change: dict[str, object], tiny_data: Dataset) -> None:
    plain = {"epochs": 2, "batch_size": 8}
    left = Run(settings(2, None, train=TrainSpec.model_validate(plain)), tiny_data, NUMERICS)
    right = Run(settings(2, None, train=TrainSpec.model_validate({**plain, **change})), tiny_data, NUMERICS)
    assert [r.train_loss for r in left] != [r.train_loss for r in right]


@NARROW
def test_crop_padding_and_momentum_take_effect(tiny_data: Dataset) -> None:
    def losses(**train: object) -> list[float]:
        wanted = settings(2, None, train=TrainSpec.model_validate({"epochs": 2, "batch_size": 8, **train}))
        return [r.train_loss for r in Run(wanted, tiny_data, NUMERICS)]

    assert losses(augment=("crop",)) != losses(augment=("crop",), crop_padding=2)
    assert losses(optimizer="sgd") != losses(optimizer="sgd", momentum=0.0)


@NARROW
def test_the_anneal_takes_effect(tiny_data: Dataset) -> None:
    def rates(**averaging: object) -> list[float]:
        wanted = settings(6, 0, averaging=AveragingSpec.model_validate(averaging))
        return [r.learning_rate for r in Run(wanted, tiny_data, NUMERICS)]

    assert rates(anneal_epochs=3) != rates(anneal_epochs=1)
    assert rates(anneal_epochs=3) != rates(anneal_epochs=3, anneal_strategy="linear")


@NARROW
def test_the_seed_decides_everything(tiny_data: Dataset) -> None:
    first = [facts(r) for r in Run(settings(2, 0, seed=1), tiny_data, NUMERICS)]
    again = [facts(r) for r in Run(settings(2, 0, seed=1), tiny_data, NUMERICS)]
    other = [facts(r) for r in Run(settings(2, 0, seed=2), tiny_data, NUMERICS)]
    assert first == again
    assert first != other


def test_a_non_finite_loss_is_an_error_not_a_value(tiny_data: Dataset) -> None:
    run = Run(settings(3, None, lr=1e30), tiny_data, NUMERICS)
    with pytest.raises(NonFiniteError, match="not finite|nan|inf") as trunk:
        list(run)
    assert trunk.value.trunk_epoch == run.epoch
    run = Run(settings(6, 0, swa_lr=1e30), tiny_data, NUMERICS)
    with pytest.raises(NonFiniteError) as branch:  # says nothing about others with its trunk
        list(run)
    assert branch.value.trunk_epoch is None


def test_fused_compile_and_eval_batch_size_reach_what_they_name(
    tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    compiled: list[Any] = []
    ordered = ImageBatches.iterate_ordered

    def spy(batches: ImageBatches, size: int) -> Iterator[Any]:
        sizes.append(size)
        return ordered(batches, size)

    def compiling(model: Any, **_: object) -> Any:
        compiled.append(model)
        return model

    monkeypatch.setattr(ImageBatches, "iterate_ordered", spy)
    monkeypatch.setattr(torch, "compile", compiling)
    train = TrainSpec(epochs=3, batch_size=8, eval_batch_size=5)
    for fused in (True, False):
        run = Run(settings(3, 0, train=train), tiny_data, replace(NUMERICS, fused=fused, compile=fused))
        assert run.optimizer.param_groups[0]["fused"] is fused
        assert compiled[-1:] == [run.model] * fused
        compiled.clear()
    run.run_epoch()
    assert set(sizes) == {5}


def test_each_batch_size_is_compiled_into_a_graph_of_its_own(
    tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own compiler, whose graphs are kept and run as they are."""
    sizes: list[object] = []

    def keep_graph(graph: Any, inputs: list[torch.Tensor]) -> Any:
        sizes.extend(
            {i.shape[0] for i in inputs if isinstance(i, torch.Tensor) and i.shape[1:] == (3, 16, 16)}
        )
        sizes.extend(i for i in inputs if not isinstance(i, torch.Tensor))  # a batch of any size
        return graph

    compile_with = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **given: compile_with(model, backend=keep_graph, **given)
    )
    monkeypatch.setattr(
        torchvision.models, "resnet18", lambda num_classes: ResNet(BasicBlock, [1, 1, 1, 1], num_classes)
    )
    runs = [
        Run(settings(2, None, seed=7), tiny_data, replace(NUMERICS, compile=compiled))
        for compiled in (True, False)
    ]
    compiled_losses, losses = ([record.train_loss for record in run] for run in runs)
    assert sizes == [8, 4]  # 28 images; the second epoch compiles nothing more
    assert compiled_losses == losses


def test_a_run_sets_the_backends_of_its_numerics(tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Numerics] = []
    monkeypatch.setattr(Numerics, "set_backends", lambda numerics: seen.append(numerics))
    Run(settings(), tiny_data, NUMERICS)
    assert seen == [NUMERICS]


def test_shipped_weights_load_into_plain_torchvision(tiny_data: Dataset, tmp_path: Path) -> None:
    run = Run(settings(3, 0), tiny_data, NUMERICS)
    *_, last = run
    checkpoints.save_checkpoint(run.state_dict(), tmp_path / "c.pt")
    torch.save(
        checkpoints.extract_shipped_weights(checkpoints.load_checkpoint(tmp_path / "c.pt")), tmp_path / "w.pt"
    )
    model = torchvision.models.resnet18(num_classes=tiny_data.num_classes)
    model.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    model.eval()
    images = torch.from_numpy(np.asarray(tiny_data.images[tiny_data.val])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        predicted = model(images).argmax(1).numpy()
    assert (predicted == tiny_data.labels[tiny_data.val]).mean() == last.accuracy


def test_a_finished_state_leaves_the_optimizer_out(tiny_data: Dataset) -> None:
    run = Run(settings(2, 0), tiny_data, NUMERICS)
    run.run_epoch()
    assert "optimizer" in run.state_dict()
    run.run_epoch()
    assert "optimizer" not in run.state_dict()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_on_a_gpu(precision: str, tiny_data: Dataset) -> None:
    numerics = Numerics("cuda", precision, threads=1, channels_last=True, fused=True, compile=False)  # type: ignore[arg-type]
    run = Run(settings(4, 1), tiny_data, numerics)
    records = list(run)
    assert all(np.isfinite(r.train_loss) for r in records)
    assert all(p.dtype == torch.float32 for p in run.shipped_model.parameters())
    assert run.shipped_model.bn1.running_mean.dtype == torch.float32


def test_bf16_on_the_cpu_keeps_the_average_in_fp32(tiny_data: Dataset) -> None:
    numerics = Numerics("cpu", "bf16", threads=1, channels_last=True, fused=True, compile=False)
    run = Run(settings(3, 0), tiny_data, numerics)
    assert all(np.isfinite(r.nll) for r in run)
    assert all(p.dtype == torch.float32 for p in run.shipped_model.parameters())
    assert run.shipped_model.bn1.running_mean.dtype == torch.float32
