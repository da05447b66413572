"""`train.freeze` and `train.head_lr_factor`: against plain torch code with two groups of parameters, in all
averages, and after a resume."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from helpers.resumed_runs import NUMERICS, facts, resume_everywhere
from helpers.same_tensors import same_tensors
from tune_swa.averaging.observers import list_parameters, list_statistics
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.seeds import derive_seed
from tune_swa.training.run import Run
from tune_swa.training.schedule import base_factor

pytestmark = pytest.mark.usefixtures("narrow_network")
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda groups, lr: torch.optim.SGD(
        groups, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
    ),
    "adam": lambda groups, lr: torch.optim.Adam(groups, lr=lr, weight_decay=1e-4, fused=True),
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr, weight_decay=1e-4, fused=True),
}
AVERAGES = [
    {"method": "swa"},
    {"method": "ema", "horizon": 0.5, "statistics": "average"},
    {"method": "lawa", "last": 3, "statistics": "average"},
    {"method": "power_ema", "length": 0.08},
    {"method": "swad", "converge": 2, "tolerance": 1, "ratio": 0.01},
    {"method": "swag", "rank": 2, "search_samples": 2, "samples": 2},
    {"method": "subspace", "rank": 2, "search_samples": 2, "samples": 2, "fit_batches": 2, "temperature": 1},
]


def make_settings(freeze: str, factor: float, averages: Any = (), **train: Any) -> RunSettings:
    known = {"epochs": 5, "batch_size": 8, "warmup_epochs": 2, "augment": ["hflip"]}
    return RunSettings(
        lr=2e-3,
        swa_start=1,
        swa_lr=7e-4,
        seed=3,
        train=TrainSpec.model_validate({**known, "freeze": freeze, "head_lr_factor": factor, **train}),
        averaging=AveragingSpec(anneal_epochs=2, score="every"),
        averages=averages,
    )


def iterate_plainly(
    wanted: RunSettings, data: Dataset
) -> Iterator[tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Yield (base rate, live weights, evaluated weights) after each epoch of the documented loop."""
    train, freeze, factor = wanted.train, wanted.train.freeze, wanted.train.head_lr_factor
    batches = ImageBatches(data, data.train, "cpu", channels_last=NUMERICS.channels_last)

    def load(epoch: int, purpose: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        drawn = {"augment": train.augment, "seed": wanted.seed, "epoch": epoch, "purpose": purpose}
        return list(batches.iterate_training(train.batch_size, **drawn))

    torch.manual_seed(derive_seed(wanted.seed, "initialisation"))
    model = torchvision.models.resnet18(num_classes=data.num_classes).to(memory_format=torch.channels_last)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    head = list(model.fc.parameters())
    body = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    if freeze == "bn":
        frozen = {id(parameter) for norm in norms for parameter in norm.parameters()}
        body = [parameter for parameter in body if id(parameter) not in frozen]
    groups = [{"params": body, "lr": wanted.lr}, {"params": head, "lr": wanted.lr * factor}]
    optimizer = OPTIMIZERS[train.optimizer](groups[freeze == "backbone" :], wanted.lr)
    scheduler = LambdaLR(optimizer, lambda index: base_factor(index, train, 1))
    average, swa_lr = AveragedModel(model), wanted.swa_lr
    assert swa_lr is not None
    rates = [swa_lr, swa_lr * factor][freeze == "backbone" :]
    swalr = SWALR(optimizer, swa_lr=rates, anneal_epochs=wanted.averaging.anneal_epochs)  # type: ignore[arg-type]
    for epoch in range(train.epochs):
        model.train()
        for norm in norms if freeze != "none" else []:
            norm.eval()
        for images, labels in load(epoch, "train"):
            optimizer.zero_grad()
            torch.nn.CrossEntropyLoss()(model(images), labels).backward()
            optimizer.step()
        rate = optimizer.param_groups[0]["lr"]
        if epoch > 1:
            average.update_parameters(model)
            swalr.step()
            evaluated = copy.deepcopy(average)
            if freeze == "none":
                update_bn(load(epoch, "bn"), evaluated)
            yield rate, model.state_dict(), evaluated.module.state_dict()
        else:
            scheduler.step()
            yield rate, model.state_dict(), model.state_dict()


@pytest.mark.parametrize(
    ("freeze", "factor", "optimizer"),
    [
        ("none", 10.0, "sgd"),
        ("none", 3.0, "adam"),
        ("bn", 7.0, "adamw"),
        ("bn", 1.0, "sgd"),
        ("backbone", 1.0, "adam"),
        ("backbone", 0.1, "sgd"),
    ],
)
def test_equals_plain_code_with_two_groups(
    freeze: str, factor: float, optimizer: str, tiny_data: Dataset
) -> None:
    wanted = make_settings(freeze, factor, optimizer=optimizer)
    run = Run(wanted, tiny_data, NUMERICS)
    for rate, live, evaluated in iterate_plainly(wanted, tiny_data):
        record = run.run_epoch()
        shown = rate if freeze != "backbone" else rate / factor
        assert record.learning_rate == shown
        assert same_tensors(dict(run.model.state_dict()), dict(live))
        assert same_tensors(dict(run.shipped_model.state_dict()), dict(evaluated))
        if freeze != "none":
            assert record.bn_seconds == 0


def select_frozen(model: torch.nn.Module, freeze: str) -> list[torch.Tensor]:
    """What must not change: statistics, and the parameters that the setting names."""
    if freeze == "backbone":
        named = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    else:
        named = [p for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters()]
    return [tensor.detach().clone() for tensor in [*named, *list_statistics(model)]]


@pytest.mark.parametrize("freeze", ["backbone", "bn"])
def test_all_averages_keep_what_is_frozen(freeze: str, tiny_data: Dataset, tmp_path: Path) -> None:
    """Also those whose arithmetic would round a mean of equal numbers, and those that draw."""
    run, straight = resume_everywhere(make_settings(freeze, 2.0, AVERAGES), tiny_data, tmp_path)
    assert run.scores.keys() == straight.scores.keys()
    fresh = Run(make_settings(freeze, 2.0), tiny_data, NUMERICS)
    start = select_frozen(fresh.model, freeze)
    trained = list_parameters(run.model)
    assert not same_tensors(trained, list_parameters(fresh.model))
    assert same_tensors(select_frozen(run.model, freeze), start)
    assert run.averaging is not None
    assert run.averages is not None
    assert same_tensors(select_frozen(run.averaging.average.module, freeze), start)
    for label in run.averages.labels:
        for member in run.averages.load_members(label, run.averaging):
            assert same_tensors(select_frozen(member, freeze), start), label


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("schedulefree_sgd", {}),
        ("schedulefree_adamw", {}),
        ("sgd", {"arithmetic": {"bits": 8}}),
        ("adamw", {"fused": False}),
    ],
)
def test_a_shared_trunk_and_a_resume_are_exact(
    optimizer: str, more: dict[str, Any], tiny_data: Dataset, tmp_path: Path
) -> None:
    for freeze in ("none", "backbone"):
        settings = make_settings(freeze, 5.0, optimizer=optimizer, epochs=4, **more)
        folder = tmp_path / freeze
        folder.mkdir()
        _, straight = resume_everywhere(settings, tiny_data, folder)
        trunk = Run(settings.model_copy(update={"swa_start": 2, "swa_lr": 0.1}), tiny_data, NUMERICS)
        for _ in range(2):
            trunk.run_epoch()
        trunk.begin_epoch()
        branch = Run(settings, tiny_data, NUMERICS)
        branch.load_state_dict(copy.deepcopy(trunk.trunk_state()))
        assert facts(list(branch)[-1]) == facts(straight.record)
        assert same_tensors(
            dict(branch.shipped_model.state_dict()), dict(straight.shipped_model.state_dict())
        )


def test_the_classifier_is_trained_at_its_multiple(tiny_data: Dataset) -> None:
    """In the warm-up, in the cosine, in cycles, and on the way to swa_lr."""
    for tail in ("constant", "cyclic", "base"):
        settings = make_settings("none", 4.0, epochs=7)
        changes = {
            "averaging": AveragingSpec(tail=tail, **({"anneal_epochs": 2} if tail == "constant" else {}))
        }
        if tail == "base":
            changes["swa_lr"] = None  # type: ignore[assignment]
        run = Run(settings.model_copy(update=changes), tiny_data, NUMERICS)
        rates = []
        for record in run:
            body, head = (group["lr"] for group in run.optimizer.param_groups)
            assert head == pytest.approx(4 * body, rel=1e-12)
            rates.append(record.learning_rate)
        assert len({round(a / b, 6) for a, b in itertools.pairwise(rates)}) > 2
