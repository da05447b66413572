"""A trial on `cuda:0` whose tensors have no numbers: nothing mixes devices, and no step waits for the GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from fake_cuda import FakeCuda, fake_cuda  # type: ignore[import-not-found]
from made_up_gpus import Card, MadeUpGpus  # type: ignore[import-not-found]
from torch import Tensor
from torchvision.models.resnet import BasicBlock, ResNet

from helpers.drawn_arrays import draw_dataset
from tune_swa.averaging.swa import Averaging, refresh_bn
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.metrics import evaluate_model
from tune_swa.training.model import build_model
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.optimizers import build_optimizer
from tune_swa.training.run import Run

GPU = torch.device("cuda", 0)
BATCH = 8
AUGMENT = ("hflip", "vflip", "crop", "trivial_augment", "mixup", "cutmix")
SCORES = ("nll", "ece", "brier")
ROOMY = Card()
FULL = Card(context_bytes=2**30, memory=2**30 + 4096)
"""Beside the context there is no room for images."""
CASES = {
    "fp32-streamed": ("fp32", FULL),
    "bf16-resident": ("bf16", ROOMY),
    "fp16-resident": ("fp16", ROOMY),
}
cases = pytest.mark.parametrize(("precision", "card"), CASES.values(), ids=CASES)


def draw_batches(count: int) -> Dataset:
    """Images that make `count` batches of training and of validation, and two of testing."""
    dataset: Dataset = draw_dataset(train=count * BATCH, val=count * BATCH, test=2 * BATCH)
    return dataset


def settings(precision: str = "bf16", optimizer: str = "adam", epochs: int = 3) -> RunSettings:
    train = TrainSpec.model_validate(
        {
            "epochs": epochs, "batch_size": BATCH, "eval_batch_size": BATCH, "optimizer": optimizer,
            "precision": precision, "augment": AUGMENT, "warmup_epochs": 1,
        }
    )  # fmt: skip
    averaging = AveragingSpec(anneal_epochs=2)
    return RunSettings(lr=1e-3, swa_start=0, swa_lr=5e-4, train=train, averaging=averaging)


def start_run(data: Dataset, precision: str = "bf16", optimizer: str = "adam") -> Run:
    wanted = settings(precision, optimizer)
    return Run(wanted, data, decide_numerics(wanted.train, 16, device="cuda", threads=1))


def find_devices(value: Any) -> set[torch.device]:
    """Devices of all tensors inside."""
    if isinstance(value, Tensor):
        return {value.device}
    if isinstance(value, dict):
        value = list(value.values())
    return set().union(*map(find_devices, value)) if isinstance(value, list | tuple) else set()


def list_moments(run: Run) -> list[Tensor]:
    """What the optimizer keeps for each parameter."""
    return [value for values in run.optimizer.state.values() for value in values.values()]


@pytest.fixture(autouse=True)
def _short_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 with one block in each stage instead of two: the same layers in half the time."""
    monkeypatch.setattr(
        torchvision.models, "resnet18", lambda num_classes: ResNet(BasicBlock, [1, 1, 1, 1], num_classes)
    )


@pytest.fixture
def fake(make_up_gpus: Callable[..., MadeUpGpus]) -> Iterator[FakeCuda]:
    make_up_gpus(ROOMY)
    with fake_cuda() as mode:
        yield mode


# -- the parts


@pytest.mark.parametrize("limit", [10**9, 0], ids=["resident", "streamed"])
def test_batches_are_gathered_without_waiting(limit: int, fake: FakeCuda) -> None:
    data = draw_batches(3)
    batches = ImageBatches(data, data.train, GPU, channels_last=True, max_resident_bytes=limit)
    assert batches.resident is (limit > 0)
    fake.waits.clear()
    augment = ("hflip", "vflip", "crop")
    drawn = list(batches.iterate_training(BATCH, augment=augment, seed=0, epoch=0, purpose="train"))
    drawn += batches.iterate_ordered(BATCH)
    assert len(drawn) == 6
    for images, labels in drawn:
        assert images.device == labels.device == GPU
        assert images.shape == (BATCH, 3, 16, 16)
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert not fake.waits


def test_an_evaluation_waits_as_often_for_many_batches_as_for_one(fake: FakeCuda) -> None:
    model = build_model(3, 0).to(GPU)
    images, labels = (
        torch.zeros(BATCH, 3, 16, 16, device=GPU),
        torch.zeros(BATCH, dtype=torch.long, device=GPU),
    )

    def count_waits(batches: int) -> Counter[str]:
        fake.waits.clear()
        evaluate_model(model, [(images, labels)] * batches, torch.autocast("cuda", torch.bfloat16))
        return fake.waits.copy()

    assert count_waits(1) == count_waits(5)


def test_a_refresh_waits_as_often_for_many_batches_as_for_one(fake: FakeCuda) -> None:
    wanted = settings()
    model = build_model(3, 0).to(GPU)
    numerics = decide_numerics(wanted.train, 16, device="cuda", threads=1)
    optimizer = build_optimizer(model, wanted.lr, wanted.train, numerics)
    averaging = Averaging(model, optimizer, 5e-4, wanted.averaging)
    batch = torch.zeros(BATCH, 3, 16, 16, device=GPU), torch.zeros(BATCH, dtype=torch.long, device=GPU)

    def count_waits(batches: int) -> Counter[str]:
        fake.waits.clear()
        with numerics.autocast():
            refresh_bn(averaging.average, [batch[0]] * batches)
        return fake.waits.copy()

    assert count_waits(1) == count_waits(5)


# -- the trial


@cases
def test_a_trial_runs_from_the_first_epoch_to_the_test_images(
    precision: str, card: Card, make_up_gpus: Callable[..., MadeUpGpus]
) -> None:
    make_up_gpus(card)
    with fake_cuda():
        run = start_run(draw_batches(2), precision)
        assert run.images.train.resident is (card is ROOMY)
        assert run.scaler.is_enabled() is (precision == "fp16")
        records = list(run)
        assert [record.phase for record in records] == ["trunk", "branch", "branch"]
        assert [record.n_averaged for record in records] == [0, 1, 2]
        everything = [*run.model.state_dict().values(), *run.shipped_model.state_dict().values()]
        assert find_devices(everything) == {GPU}
        assert {t.dtype for t in everything} == {torch.float32, torch.int64}  # whatever the autocast
        for refresh in (False, True):
            found = run.predict_test_images(refresh=refresh).compute_metrics()
            assert set(found) == {
                "accuracy",
                "temperature",
                *SCORES,
                *(f"{name}_calibrated" for name in SCORES),
            }


@cases
def test_an_epoch_waits_as_often_with_many_batches_as_with_few(
    precision: str, card: Card, make_up_gpus: Callable[..., MadeUpGpus]
) -> None:
    gpus = make_up_gpus(card)
    counted = []
    for batches in (1, 3):
        with fake_cuda() as fake:
            run = start_run(draw_batches(batches), precision)
            for _ in range(2):
                fake.waits.clear()
                gpus.synchronisations = 0
                run.run_epoch()  # the second one averages, refreshes and evaluates the average
            assert run.averaging is not None
        counted.append((fake.waits.copy(), gpus.synchronisations))
    assert counted[0] == counted[1]


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [
        ("fp16", "adam"),  # the scaler asks after each step of what is not fused
        ("bf16", "schedulefree_sgd"),
        ("bf16", "schedulefree_adamw"),
    ],
)
def test_training_an_epoch_waits_once_for_its_loss(precision: str, optimizer: str, fake: FakeCuda) -> None:
    run = start_run(draw_batches(2), precision, optimizer)
    run.train_epoch()
    fake.waits.clear()
    run.train_epoch()
    assert sum(fake.waits.values()) == 1, fake.waits
    assert "a number read" in str(fake.waits)


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [
        ("fp32", "sgd"),
        ("bf16", "adam"),
        ("fp16", "adamw"),
        ("bf16", "schedulefree_sgd"),
        ("fp16", "schedulefree_adamw"),
    ],
)
def test_a_checkpoint_goes_over_the_cpu_and_back(
    precision: str, optimizer: str, fake: FakeCuda, tmp_path: Path
) -> None:
    run = start_run(draw_batches(2), precision, optimizer)
    for _ in range(2):
        run.run_epoch()
    state = read_back(run.state_dict())
    assert find_devices(state) == {torch.device("cpu")}
    checkpoints.save_checkpoint(state, tmp_path / "state.pt")
    restored = start_run(draw_batches(2), precision, optimizer)
    restored.load_state_dict(checkpoints.load_checkpoint(tmp_path / "state.pt"))
    assert restored.epoch == 2
    assert restored.averaging is not None
    assert restored.averaging.n_averaged == 1
    assert find_devices(restored.model.state_dict()) == {GPU}
    assert find_devices(restored.shipped_model.state_dict()) == {GPU}
    assert find_devices(list_moments(restored)) == find_devices(list_moments(run))
    assert [record.n_averaged for record in restored] == [2]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_branch_goes_on_from_a_trunks_state(precision: str, fake: FakeCuda) -> None:
    trunk = start_run(draw_batches(2), precision)
    trunk.run_epoch()
    trunk.begin_epoch()
    branch = start_run(draw_batches(2), precision)
    branch.load_state_dict(read_back(trunk.trunk_state()))
    assert branch.epoch == 1
    assert [record.n_averaged for record in branch] == [1, 2]
    assert find_devices(branch.shipped_model.state_dict()) == {GPU}


def test_what_is_shipped_runs_on_the_cpu(fake: FakeCuda) -> None:
    run = start_run(draw_batches(1))
    run.run_epoch()
    run.run_epoch()
    weights = checkpoints.extract_shipped_weights(run.state_dict())
    assert find_devices(weights) == {torch.device("cpu")}
    network = build_model(3, 1)
    network.load_state_dict(weights)
    assert network.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def read_back(value: Any) -> Any:
    """A state with every tensor copied to the CPU, as a checkpoint's file holds it."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: read_back(inner) for key, inner in value.items()}
    return [read_back(inner) for inner in value] if isinstance(value, list | tuple) else value


# -- the bed itself


def test_what_would_wait_is_counted(fake: FakeCuda) -> None:
    numbers = torch.arange(4.0, device=GPU)
    number = numbers.sum()
    for wait in (
        number.item, lambda: float(number), lambda: bool(number > 0), number.cpu, numbers[:1].tolist,
        lambda: torch.zeros(4).copy_(numbers), lambda: torch.ones(4).to(GPU),
        lambda: torch.tensor(1.0, device=GPU),
        lambda: torch.ones(4).to(GPU, non_blocking=True), lambda: numbers[torch.tensor([0, 1])],
    ):  # fmt: skip
        fake.waits.clear()
        wait()
        assert sum(fake.waits.values()) == 1, fake.waits


def test_what_would_not_wait_is_not_counted(fake: FakeCuda) -> None:
    numbers = torch.arange(4.0, device=GPU)
    fake.waits.clear()
    numbers.add_(1).mul(torch.tensor(2.0))  # a number of the CPU is an argument of the kernel
    torch.ones(4).pin_memory().to(GPU, non_blocking=True)
    torch.empty(4, pin_memory=True).to(GPU, non_blocking=True)
    torch.ones(4).sum().item()
    assert not fake.waits


def test_operands_on_two_devices_are_refused(fake: FakeCuda) -> None:
    with pytest.raises(RuntimeError, match="cpu"):
        torch.ones(4, device=GPU) + torch.ones(4)


def test_sizes_that_only_the_gpu_knows_are_refused(fake: FakeCuda) -> None:
    with pytest.raises(RuntimeError):
        torch.arange(4, device=GPU).nonzero()


def test_gradients_are_those_of_the_real_engine() -> None:
    """The stand-in for autograd's engine, on the CPU with numbers."""
    from python_engine import run_backward  # type: ignore[import-not-found]

    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for patched in (False, True):
        model = build_model(3, 0)
        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            if patched:
                patch.setattr(torch.autograd, "_engine_run_backward", run_backward)
            for _ in range(2):  # the second one adds to what is there
                torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for real, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, real, rtol=0, atol=0)
