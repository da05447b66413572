"""The run against the loop that torch documents for SWA, side by side, bit for bit.

The loop is written out here with torch's own AveragedModel, SWALR and update_bn, on the same
batches. Weights, batch-normalisation statistics and accuracies are compared after every epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from helpers.drawn_arrays import draw_dataset
from helpers.resumed_runs import NUMERICS
from tune_swa.config import AveragingSpec, ModelSpec, RunSettings, TrainSpec
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.seeds import derive_seed
from tune_swa.training.optimizers import build_optimizer
from tune_swa.training.run import Run
from tune_swa.training.schedule import base_factor

EPOCHS = 7


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(NUMERICS.threads)
    yield
    torch.set_num_threads(before)


def settings(swa_start: int, arch: str = "resnet18", **train: object) -> RunSettings:
    return RunSettings(
        model=ModelSpec(arch=arch),
        lr=2e-3,
        swa_start=swa_start,
        swa_lr=5e-4,
        seed=11,
        train=TrainSpec.model_validate(
            {"epochs": EPOCHS, "batch_size": 8, "warmup_epochs": 2, "augment": ["hflip", "crop"], **train}
        ),
        averaging=AveragingSpec(anneal_epochs=3),
    )


def documented_loop(
    wanted: RunSettings, data: Dataset
) -> Iterator[tuple[float, float, dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Yield (accuracy, learning rate, live weights, evaluated weights) after every epoch."""
    train = wanted.train
    batches = ImageBatches(data, data.train, "cpu", channels_last=NUMERICS.channels_last)
    validation = ImageBatches(data, data.val, "cpu", channels_last=NUMERICS.channels_last)

    def loader(epoch: int, purpose: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(
            batches.iterate_training(
                train.batch_size,
                augment=train.augment,
                crop_padding=train.crop_padding,
                seed=wanted.seed,
                epoch=epoch,
                purpose=purpose,
            )
        )

    torch.manual_seed(derive_seed(wanted.seed, "initialisation"))
    model = torchvision.models.get_model(wanted.model.arch, num_classes=data.num_classes)
    model = model.to(memory_format=NUMERICS.memory_format)
    optimizer = build_optimizer(model, wanted.lr, train, NUMERICS)
    per_epoch = batches.batch_count(train.batch_size)
    scheduler = LambdaLR(optimizer, lambda index: base_factor(index, train, per_epoch))
    swa_model = AveragedModel(model)
    swa_scheduler = SWALR(optimizer, swa_lr=wanted.swa_lr, anneal_epochs=wanted.averaging.anneal_epochs)
    loss_fn = torch.nn.CrossEntropyLoss()
    for epoch in range(train.epochs):
        model.train()
        torch.manual_seed(derive_seed(wanted.seed, epoch, "layers"))  # of dropout and stochastic depth
        for images, labels in loader(epoch, "train"):
            optimizer.zero_grad()
            loss_fn(model(images), labels).backward()
            optimizer.step()
        rate = optimizer.param_groups[0]["lr"]
        if epoch > wanted.swa_start:
            swa_model.update_parameters(model)
            swa_scheduler.step()
            # the documentation refreshes once, at the end; an evaluation after every epoch needs it
            # after every epoch, on a copy, so that the loop itself goes on as documented
            evaluated = copy.deepcopy(swa_model)
            torch.manual_seed(derive_seed(wanted.seed, epoch, "layers", "bn"))
            update_bn(loader(epoch, "bn"), evaluated)
            evaluated = evaluated.module
        else:
            scheduler.step()
            evaluated = copy.deepcopy(model)
        evaluated.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in validation.iterate_ordered(train.eval_batch_size):
                correct += int((evaluated(images).argmax(1) == labels).sum())
        yield correct / len(data.val), rate, model.state_dict(), evaluated.state_dict()


@pytest.mark.parametrize("swa_start", [0, 3, EPOCHS - 2])
def test_equals_the_documented_loop_bit_for_bit(swa_start: int, tiny_data: Dataset) -> None:
    run = Run(settings(swa_start), tiny_data, NUMERICS)
    epochs = 0
    for accuracy, rate, live, evaluated in documented_loop(settings(swa_start), tiny_data):
        record = run.run_epoch()
        assert record.accuracy == accuracy
        assert record.learning_rate == rate
        assert_same(run.model.state_dict(), live)
        assert_same(run.shipped_model.state_dict(), evaluated)
        epochs += 1
    assert run.done
    assert epochs == EPOCHS


@pytest.mark.parametrize(
    "train",
    [
        {"optimizer": "sgd", "weight_decay": 5e-4, "augment": ["random_resized_crop", "mixup", "cutmix"]},
        {"optimizer": "adamw", "augment": []},
    ],
    ids=["sgd", "adamw"],
)
def test_other_settings_equal_it_too(train: dict[str, object], tiny_data: Dataset) -> None:
    wanted = settings(2, epochs=5, **train)
    run = Run(wanted, tiny_data, NUMERICS)
    for _, rate, live, evaluated in documented_loop(wanted, tiny_data):
        assert run.run_epoch().learning_rate == rate
        assert_same(run.model.state_dict(), live)
        assert_same(run.shipped_model.state_dict(), evaluated)


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "convnext_tiny"])
def test_other_networks_equal_it_too(arch: str) -> None:
    """The first has dropout, also in the refresh; the second has stochastic depth, and nothing to refresh."""
    data = draw_dataset(train=16, val=8, test=4, size=32)
    wanted = settings(0, arch, epochs=3)
    run = Run(wanted, data, NUMERICS)
    for accuracy, rate, live, evaluated in documented_loop(wanted, data):
        record = run.run_epoch()
        assert (record.accuracy, record.learning_rate) == (accuracy, rate)
        assert arch != "convnext_tiny" or record.bn_seconds == 0
        assert_same(run.model.state_dict(), live)
        assert_same(run.shipped_model.state_dict(), evaluated)
    assert run.done


def test_a_baseline_is_a_trunk_run_to_its_end(tiny_data: Dataset) -> None:
    """Until the fork, a baseline and an SWA run are the same, whatever the SWA settings."""
    baseline = Run(RunSettings(lr=2e-3, seed=11, train=settings(0).train), tiny_data, NUMERICS)
    other = Run(settings(3).model_copy(update={"swa_lr": 0.3}), tiny_data, NUMERICS)
    for epoch in range(5):
        baseline.train_epoch()
        other.train_epoch()
        # epoch swa_start+1 is still trained at the base rate: the fork is after its training
        assert_same(baseline.model.state_dict(), other.model.state_dict())
        for run in (baseline, other):
            run.average_epoch()
            run.epoch = epoch + 1


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
