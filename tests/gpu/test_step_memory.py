"""The meter counts what is alive, and finds in a trial what was counted by hand."""

from __future__ import annotations

import pytest
import torch
from made_up_gpus import Card  # type: ignore[import-not-found]
from step_memory import count_step_bytes, measure_trial, metered_gpu  # type: ignore[import-not-found]

from tune_swa.training.model import build_model

WEIGHTS = 4 * sum(parameter.numel() for parameter in build_model(10, 0).parameters())
"""Bytes of a ResNet-18 for ten classes."""


def test_tensors_are_counted_while_they_live() -> None:
    with metered_gpu(Card()) as (_, meter):
        numbers = torch.zeros(1024, device="cuda:0")
        assert meter.live == 4096
        view = numbers[:512].view(2, 256)
        assert meter.live == 4096  # the same memory
        numbers = numbers + 1
        assert meter.live == 2 * 4096
        del view
        assert meter.live == 4096
        assert meter.measure_peak(lambda: numbers * 2) == 2 * 4096
        assert meter.live == 4096
        torch.zeros(1024)
        assert meter.peak == 2 * 4096  # memory of the host is no matter


def test_what_a_node_saved_is_freed_when_it_has_run() -> None:
    """Of a chain of squares, a backward pass holds ever fewer factors."""
    with metered_gpu(Card()) as (_, meter):
        leaf = torch.zeros(1024, device="cuda:0", requires_grad=True)
        result = leaf
        for _ in range(8):
            result = result * 2.5 * result.detach()
        total = result.sum()
        del result
        before = meter.live
        assert meter.measure_peak(total.backward) <= before + 4 * 4096
        assert meter.live < before - 5 * 4096


@pytest.mark.parametrize(("precision", "gigabytes"), [("bf16", 3.98), ("fp32", 7.42)])
def test_saved_activations_are_those_counted_by_hand(precision: str, gigabytes: float) -> None:
    """ResNet-18 at 256 px, batch 256: what the forward pass keeps for the backward pass."""
    with metered_gpu(Card()) as (_, meter):
        model = build_model(10, 0).to("cuda:0", memory_format=torch.channels_last)
        images = torch.zeros(256, 3, 256, 256, device="cuda:0").contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(256, dtype=torch.long, device="cuda:0")
        before = meter.live
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        assert (meter.live - before) / 1e9 == pytest.approx(gigabytes, rel=0.03)
        loss.backward()
        gradients = WEIGHTS  # and nothing else is left
        assert meter.live - before == pytest.approx(gradients, rel=0.01)


def test_a_trial_of_256_pixels_fits_no_quarter_of_16_gb() -> None:
    counted = measure_trial(256, 256, "bf16")
    assert counted.peak == counted.training > 4e9
    assert counted.refresh < counted.training / 2
    assert counted.evaluation < counted.training / 2


def test_adam_holds_one_moment_more_than_sgd() -> None:
    adam, sgd = (count_step_bytes(8, 2, "fp32", optimizer) for optimizer in ("adam", "sgd"))
    assert adam - sgd == pytest.approx(WEIGHTS, rel=0.01)
