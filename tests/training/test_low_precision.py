"""Block floating point and the low-precision step against numbers of the method's reference code.

`golden/swalp.npz` has inputs, the noise that was drawn, and what came out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.golden import GoldenNet, join_tensors, load_golden, split_vector
from tune_swa.training.arithmetic import ACCUMULATOR, StepRounding
from tune_swa.training.block_rounding import find_saturated, round_blocks

GOLDEN = load_golden("swalp")
NETWORK = GoldenNet(GOLDEN)
RATE, MOMENTUM, DECAY = (float(GOLDEN[f"step_{name}"]) for name in ("lr", "momentum", "weight_decay"))
BITS = int(GOLDEN["step_bits"])


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name].copy())


def split_golden(name: str) -> list[Tensor]:
    """The tensors of a weight vector."""
    return split_vector(NETWORK, GOLDEN[name].copy())


def join(tensors: list[Tensor]) -> Tensor:
    return torch.from_numpy(join_tensors(tensors))


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("shape", ["1d", "2d", "4d"])
def test_blocks_are_rounded_bit_for_bit(shape: str, bits: int, rounding: str) -> None:
    noise = golden(f"noise_{shape}") if rounding == "stochastic" else None
    rounded = round_blocks(golden(f"x_{shape}"), bits, noise)
    assert torch.equal(rounded, golden(f"q_{shape}_{bits}_{rounding}"))


def test_the_memory_format_changes_no_number() -> None:
    last = {"memory_format": torch.channels_last}
    values, noise = golden("x_4d").contiguous(**last), golden("noise_4d").contiguous(**last)
    assert torch.equal(round_blocks(values, 8, noise), golden("q_4d_8_stochastic"))


def test_a_block_of_zeros_stays_zero() -> None:
    """The reference code gives NaN there, and passes zero vectors on."""
    assert torch.isnan(golden("zero_reference_q")).any()
    assert torch.equal(round_blocks(golden("zero_x"), 8), golden("zero_wanted_q"))
    noisy = round_blocks(golden("zero_x"), 8, torch.full_like(golden("zero_x"), 0.999))
    assert not noisy[int(GOLDEN["zero_block"])].any()
    for zeros in (torch.zeros(5), torch.zeros(2, 3)):
        assert not round_blocks(zeros, 8, torch.rand(zeros.shape)).any()


def test_extreme_blocks() -> None:
    """Tiny numbers lose nothing to infinite factors, and what is not a number stays that."""
    tiny = torch.tensor([[3.0, -1.0], [2.0, 2.0]]) * 2.0**-120
    assert torch.equal(round_blocks(tiny, 8), tiny)
    assert torch.equal(round_blocks(torch.tensor([1e-45, 0.0]), 8), torch.zeros(2))
    assert torch.isnan(round_blocks(torch.tensor([1.0, torch.nan]), 8)[1])
    assert round_blocks(torch.tensor([1.0, torch.inf]), 8)[1] > 1e38
    below = torch.nextafter(torch.tensor([2.0**100]), torch.tensor([0.0]))  # log2 takes it for 2^100
    assert torch.equal(round_blocks(below, 8), torch.tensor([127 * 2.0**93]))


def test_stochastic_rounding_keeps_the_mean() -> None:
    values = torch.full((10_000,), 1.3 / 64)
    values[0] = 1.0
    noise = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    rounded = round_blocks(values, 8, noise)[1:] * 64
    assert set(rounded.tolist()) == {1.0, 2.0}
    assert rounded.mean().item() == pytest.approx(1.3, abs=0.02)  # four standard errors


def test_the_lowest_number_is_found() -> None:
    values = torch.tensor([[-127.8, 3.0], [127.8, 3.0], [-127.0, 3.0], [-64.0, 0.0]])
    rounded = round_blocks(values, 8)
    assert find_saturated(rounded, values, 8).tolist() == [True, False, False, False]
    changed = (round_blocks(rounded, 8) != rounded).any(dim=1)
    assert changed.tolist() == [True, False, False, False]


class Replayed:
    """Draws the noise of one step in the order in which a step rounds."""

    def __init__(self, step: str) -> None:
        self._noise = self._in_order(step)

    @staticmethod
    def _in_order(step: str) -> Iterator[Tensor]:
        stages = {s: split_golden(f"{step}_noise_{s}") for s in ("grad", "acc", "weight_1", "mom")}
        yield from stages["grad"]
        for pair in zip(stages["acc"], stages["weight_1"], strict=True):
            yield from pair
        yield from stages["mom"]

    def __call__(self, values: Tensor) -> Tensor:
        noise = next(self._noise)
        assert noise.shape == values.shape
        return noise.clone()


def take_step(step: str, rounding: StepRounding, *, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, accumulators and momenta after a golden step.

    With `exact`, the reference's own sums take the place of the optimizer's, whose last bits may differ.
    """
    parameters = [nn.Parameter(w.clone()) for w in split_golden(f"{step}_weights_before")]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    if "step2" in step:
        before = step.replace("2", "1")
        accumulators = split_golden(f"{step}_acc_before")
        momenta = split_golden(f"{before}_mom_after")
        for parameter, a, m in zip(parameters, accumulators, momenta, strict=True):
            optimizer.state[parameter] = {ACCUMULATOR: a.clone(), "momentum_buffer": m.clone()}
    for parameter, gradient in zip(parameters, split_golden(f"{step}_grad"), strict=True):
        parameter.grad = gradient.clone()

    if exact:

        def compare_sums(*_: object) -> None:
            gradients = join([p.grad for p in parameters if p.grad is not None])
            assert torch.equal(gradients, golden(f"{step}_grad_q"))
            momenta = [optimizer.state[p]["momentum_buffer"] for p in parameters]
            for found, name in ((parameters, "acc_exact"), (momenta, "mom_exact")):
                wanted = golden(f"{step}_{name}")
                assert (join(found) - wanted).abs().max() <= 1e-6 * wanted.abs().max()
                with torch.no_grad():
                    for tensor, value in zip(found, split_golden(f"{step}_{name}"), strict=True):
                        tensor.copy_(value)

        optimizer.register_step_post_hook(compare_sums)
    rounding.attach(optimizer)
    optimizer.step()
    states = [optimizer.state[p] for p in parameters]
    return (
        join(parameters),
        join([s[ACCUMULATOR] for s in states]),
        join([s["momentum_buffer"] for s in states]),
    )


@pytest.mark.parametrize(
    ("step", "everywhere"),
    [
        ("stochastic_step1", True),  # the noise is there for all blocks
        ("stochastic_step2", True),
        ("nearest_step1", True),
        ("nearest_step2", True),
        ("nearest_step1", False),
        ("nearest_step2", False),
    ],
)
def test_a_step_is_the_references(step: str, everywhere: bool) -> None:
    """Bit for bit from the reference's sums; from our own, but for one in a hundred."""
    names = ("weights_after", "acc_after", "mom_after")
    for exact in (True, False):
        draw = Replayed(step) if step.startswith("stochastic") else (lambda _: None)
        found = take_step(step, StepRounding(BITS, draw, everywhere=everywhere), exact=exact)
        for tensor, name in zip(found, names, strict=True):
            differing = (tensor != golden(f"{step}_{name}")).double().mean().item()
            assert differing <= (0 if exact else 0.01), name


def test_blocks_without_the_lowest_number_are_not_drawn_for_again() -> None:
    """Where only some blocks are rounded again, they are those that rounding all of them changes."""
    draws: list[tuple[int, ...]] = []

    def draw(values: Tensor) -> Tensor:
        draws.append(tuple(values.shape))
        return torch.full_like(values, 0.5)

    partly = take_step("stochastic_step1", StepRounding(BITS, draw), exact=False)
    few = sum(int(np.prod(shape)) for shape in draws)
    draws.clear()
    fully = take_step("stochastic_step1", StepRounding(BITS, draw, everywhere=True), exact=False)
    assert all(torch.equal(a, b) for a, b in zip(partly, fully, strict=True))
    assert not torch.equal(partly[0], partly[1])  # some blocks held it
    assert 3 * 658 < few < sum(int(np.prod(shape)) for shape in draws) == 4 * 658
