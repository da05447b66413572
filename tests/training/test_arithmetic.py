"""Training in low precision: what is rounded, and that a run is the same however it is interrupted."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.resumed_runs import NUMERICS, assert_same_weights, facts, resume_everywhere
from tune_swa.config import ArithmeticSpec, AveragingSpec, RunSettings, TrainSpec
from tune_swa.config.averages import EmaAverage, LawaAverage, SwaAverage
from tune_swa.data.dataset import Dataset
from tune_swa.execution.trial_checkpoints import restore
from tune_swa.hardware.torch_probe import Gpu
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.storage import FolderStore
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.arithmetic import ACCUMULATOR
from tune_swa.training.block_rounding import round_blocks
from tune_swa.training.metrics import evaluate_model
from tune_swa.training.model import build_model
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")


def settings(
    arithmetic: dict[str, Any] | None = None, swa_start: int | None = 1, **train: Any
) -> RunSettings:
    return RunSettings(
        lr=5e-3,
        swa_start=swa_start,
        swa_lr=None if swa_start is None else 3e-3,
        train=TrainSpec(
            **{"epochs": 5, "batch_size": 8, "optimizer": "sgd", "augment": ("hflip",), **train},
            arithmetic=None if arithmetic is None else ArithmeticSpec(**arithmetic),
        ),
        averaging=AveragingSpec(anneal_epochs=2),
    )


def list_blocks(values: Tensor) -> list[Tensor]:
    return list(values) if values.dim() > 1 else [values]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_weights_and_optimizer_state_are_on_the_grid(
    rounding: str, momentum: float, tiny_data: Dataset
) -> None:
    run = Run(settings({"bits": 4, "rounding": rounding}, momentum=momentum), tiny_data, NUMERICS)
    run.run_epoch()
    for name, parameter in run.model.named_parameters():
        state = run.optimizer.state[parameter]
        weights, momenta = parameter.detach(), state.get("momentum_buffer")
        assert (momenta is not None) == (momentum > 0)
        for tensor in (weights, state[ACCUMULATOR], *([] if momenta is None else [momenta])):
            assert all(len(block.unique()) <= 2**4 for block in list_blocks(tensor)), name
        assert torch.equal(round_blocks(weights, 4), weights), name


def test_layers_read_rounded_outputs_and_errors(tiny_data: Dataset) -> None:
    run = Run(settings({"bits": 3}), tiny_data, NUMERICS)
    read: list[Tensor] = []
    errors: list[Tensor] = []

    def keep_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read.append(inputs[0])

    def keep_error(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        output.register_hook(errors.append)  # of the output before it is rounded: the rounded error

    convolutions = [layer for layer in run.model.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        layer.register_forward_pre_hook(keep_input)
        layer.register_forward_hook(keep_error)
    run.model.train()
    run.arithmetic.seed_noise(0, "train")
    images, labels = next(iter(run.draw_batches("train")))
    run.train_batch(images, labels)
    assert len(read) == len(errors) == len(convolutions)
    for tensor in (*read[1:], *errors):  # the first reads images; of each image at most 2^3 numbers
        assert all(len(image.unique()) <= 2**3 for image in tensor)


def test_the_average_is_fp32_and_so_is_its_evaluation(tiny_data: Dataset) -> None:
    run = Run(settings({"bits": 6}), tiny_data, NUMERICS)
    live: list[Tensor] = []
    for record in run:
        if record.phase == "branch":
            live.append(run.model.conv1.weight.detach().double().clone())
    average = run.shipped_model
    mean = torch.stack(live).mean(dim=0)
    torch.testing.assert_close(average.conv1.weight.double(), mean, rtol=0, atol=1e-6)
    assert not any(layer._forward_hooks for layer in (*average.modules(), *run.model.modules()))
    assert run.record is not None
    in_fp32 = evaluate_model(copy.deepcopy(average), run.images.read_validation(), nullcontext())
    assert (run.record.accuracy, run.record.nll) == (in_fp32.accuracy, in_fp32.nll)


def test_the_live_model_is_evaluated_as_it_trains(tiny_data: Dataset) -> None:
    """A baseline's predictions are of the rounded network, and the same each time."""
    wanted = settings({"bits": 6}, swa_start=None)
    run = Run(wanted, tiny_data, NUMERICS)
    list(run)
    first, second = run.predict_test_images(), run.predict_test_images()
    assert torch.equal(first.probability, second.probability)
    refreshed = run.predict_test_images(refresh=True)
    assert not torch.equal(first.probability, refreshed.probability)
    plain = Run(settings(swa_start=None), tiny_data, NUMERICS)
    plain.model.load_state_dict(run.model.state_dict())
    assert not torch.equal(first.probability, plain.predict_test_images().probability)


@pytest.mark.parametrize("swa_start", [None, 1])
def test_resuming_at_every_boundary_changes_nothing(
    swa_start: int | None, tiny_data: Dataset, tmp_path: Path
) -> None:
    run, straight = resume_everywhere(settings({}, swa_start), tiny_data, tmp_path)
    assert torch.equal(run.predict_test_images().nll, straight.predict_test_images().nll)


@pytest.mark.parametrize("published", [0, 1, 2])
def test_a_branch_of_a_shared_trunk_is_what_it_would_have_been(
    published: int, tiny_data: Dataset, tmp_path: Path
) -> None:
    wanted = settings({})
    alone = Run(wanted, tiny_data, NUMERICS)
    expected = [facts(record) for record in alone]
    trunk = Run(settings({}, swa_start=3), tiny_data, NUMERICS)
    (tmp_path / "trunk").mkdir()
    while trunk.epoch <= published:
        trunk.begin_epoch()
        if trunk.epoch == published:
            state = trunk.trunk_state()
            checkpoints.save_checkpoint(state, tmp_path / "trunk" / f"epoch-{published:05d}.pt")
        trunk.finish_epoch()
    run = Run(wanted, tiny_data, NUMERICS)
    restore(run, FolderStore(tmp_path), "trial", 2, "trunk", [published])
    # an epoch at the fork is trained already, and yet to be averaged
    assert [facts(record) for record in run] == expected[min(published + 1, 2) :]
    assert_same_weights(run.shipped_model, alone.shipped_model)


def test_the_noise_is_the_seeds_and_the_epochs(tiny_data: Dataset) -> None:
    """Whoever else draws random numbers, or evaluates in between, changes nothing."""
    wanted = settings({})
    run, other = (Run(wanted, tiny_data, NUMERICS) for _ in range(2))
    for _ in range(2):
        torch.manual_seed(1)
        run.run_epoch()
        torch.manual_seed(2)
        other.predict_test_images()
        other.run_epoch()
    assert_same_weights(run.model, other.model)


def test_listing_averages_changes_no_bit_of_the_live_model(tiny_data: Dataset) -> None:
    wanted = settings({})
    averages = (SwaAverage(method="swa"), EmaAverage(method="ema"), LawaAverage(method="lawa", last=2))
    observed = Run(wanted.model_copy(update={"averages": averages}), tiny_data, NUMERICS)
    alone = Run(wanted, tiny_data, NUMERICS)
    assert [facts(record) for record in observed] == [facts(record) for record in alone]
    assert_same_weights(observed.model, alone.model)
    assert set(observed.scores) == {average.label for average in averages}


def test_each_seed_epoch_and_purpose_has_its_own_noise(tiny_data: Dataset) -> None:
    drawn = set()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = build_model(3, seed=0).eval()
    for seed, epoch, purpose in ((0, 0, "train"), (1, 0, "train"), (0, 1, "train"), (0, 0, "test")):
        run = Run(settings({}).model_copy(update={"seed": seed}), tiny_data, NUMERICS)
        run.arithmetic.seed_noise(epoch, purpose)
        with torch.no_grad(), run.arithmetic.round_outputs(model):
            drawn.add(tuple(model(images).flatten().tolist()))
    assert len(drawn) == 4


def test_an_all_zero_filter_trains_on(tiny_data: Dataset) -> None:
    run = Run(settings({}, weight_decay=0.0), tiny_data, NUMERICS)
    with torch.no_grad():
        run.model.layer1[0].conv1.weight[0].zero_()
        run.model.fc.weight.zero_()  # and with it all errors, at first
    assert all(torch.isfinite(torch.tensor([r.train_loss, r.nll, r.accuracy])).all() for r in run)
    assert all(torch.isfinite(p).all() for p in run.shipped_model.parameters())


def test_settings_take_effect(tiny_data: Dataset) -> None:
    kinds = (None, {}, {"bits": 6}, {"rounding": "nearest"})
    losses = {Run(settings(kind), tiny_data, NUMERICS).run_epoch().train_loss for kind in kinds}
    assert len(losses) == len(kinds)


def test_16_bits_give_nearly_the_gradients_of_fp32(tiny_data: Dataset) -> None:
    gradients = []  # of a network that is sensitive: batches of 8, one pixel in the last layers
    for kind in (None, {"bits": 16, "rounding": "nearest"}):
        run = Run(settings(kind), tiny_data, NUMERICS)
        run.model.train()
        run.train_batch(*next(iter(run.draw_batches("train"))))
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None]))
    assert (gradients[1] - gradients[0]).norm() < 0.2 * gradients[0].norm()


def test_a_trunk_is_named_for_its_arithmetic_alone_where_it_has_one() -> None:
    names = TrunkNamer.by_settings()
    plain = RunSettings(lr=0.1, train=TrainSpec(optimizer="sgd"))
    assert names.name_trunk(plain) == "058e9252c3f3256b"  # of before there was a choice
    others = {
        names.name_trunk(
            plain.model_copy(update={"train": TrainSpec(optimizer="sgd", arithmetic=arithmetic)})
        )
        for arithmetic in (ArithmeticSpec(), ArithmeticSpec(bits=7), ArithmeticSpec(rounding="nearest"))
    }
    assert len(others | {names.name_trunk(plain)}) == 4


def test_gpus_compute_in_fp32() -> None:
    """What is rounded is not rounded to bf16 before."""
    gpu = Gpu("H100", 80_000_000_000, 80_000_000_000, "9.0", bf16=True)
    train = TrainSpec(optimizer="sgd", arithmetic=ArithmeticSpec())
    for spec, precision in ((train, "fp32"), (TrainSpec(), "bf16")):
        assert decide_numerics(spec, 32, device="cpu", threads=1).precision == "fp32"
        assert decide_numerics(spec, 32, device="cuda", threads=1, gpus=[gpu]).precision == precision
