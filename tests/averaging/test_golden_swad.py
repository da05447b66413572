"""Dense averaging over a window of low validation loss, by the rule of its paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.golden import deviation, join_tensors, load_golden
from tune_swa.averaging.observers import Member, load_member
from tune_swa.averaging.swad import Swad

SWAD = load_golden("swad")
SETTINGS = int(SWAD["converge"]), int(SWAD["tolerance"]), float(SWAD["ratio"])


class Vector(nn.Module):
    """A model of eight weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(8, dtype=torch.float64))


def observe_segment(average: Swad, model: nn.Module, segment: Any, loss: float) -> None:
    """Three steps whose mean is the segment."""
    for offset in (-1.0, 0.25, 0.75):
        load_member(model, Member([torch.as_tensor(segment) + offset]))
        average.after_step(model)
    average.after_epoch(model)
    average.after_validation(loss)


def find_window(losses: Any, converge: int, tolerance: int, ratio: float) -> tuple[int, int]:
    """First and last epoch by the paper's algorithm, all losses at hand."""
    for now in range(converge - 1, len(losses)):
        first = now - converge + 1
        if losses[first] == min(losses[first : now + 1]):
            threshold = (1 + ratio) * np.mean(losses[first : now + 1])
            for end in range(now + 1, len(losses)):
                if end >= tolerance - 1 and min(losses[end - tolerance + 1 : end + 1]) > threshold:
                    return first, end - tolerance
            return first, len(losses) - 1
    return 0, len(losses) - 1


@pytest.mark.parametrize("script", "ABCDE")
def test_scripted_losses(script: str) -> None:
    average, model = Swad("swad", *SETTINGS), Vector()
    stopped_at = -1
    for epoch, (segment, loss) in enumerate(
        zip(SWAD[f"{script}_segments"], SWAD[f"{script}_loss"], strict=True)
    ):
        observe_segment(average, model, segment, float(loss))
        if average.ended and stopped_at < 0:
            stopped_at = epoch
    assert [average.first, average.last] == SWAD[f"{script}_window"].tolist()
    threshold = float(SWAD[f"{script}_threshold"])
    assert average.threshold is None if np.isnan(threshold) else average.threshold == pytest.approx(threshold)
    assert stopped_at == SWAD[f"{script}_stopped_at"]
    found = join_tensors(next(average.members(final=True)).parameters)
    assert deviation(found, SWAD[f"{script}_average"]) <= 1e-12


@pytest.mark.parametrize(("converge", "tolerance"), [(2, 1), (2, 4), (3, 6), (5, 2), (4, 4)])
@pytest.mark.parametrize("seed", range(6))
def test_after_every_epoch_it_is_the_window_of_the_losses_so_far(
    converge: int, tolerance: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    losses = 1 + 0.4 * np.cos(np.linspace(0, 9, 30)) + generator.uniform(0, 0.3, 30)
    segments = generator.normal(size=(30, 8))
    means = segments.copy()
    average, model = Swad("swad", converge, tolerance, 0.2), Vector()
    for epoch in range(30):
        observe_segment(average, model, segments[epoch], float(losses[epoch]))
        first, last = find_window(losses[: epoch + 1], converge, tolerance, 0.2)
        assert (average.first, average.last) == (first, last)
        found = join_tensors(next(average.members(final=False)).parameters)
        assert deviation(found, means[first : last + 1].mean(axis=0)) <= 1e-12
        average.after_step(model)  # a checkpoint may come within a segment
        state = average.state_dict()
        assert len(state["recent"]) + 1 <= max(converge, tolerance) + 1
        assert len(state["losses"]) <= max(converge, tolerance)
        resumed = Swad("swad", converge, tolerance, 0.2)
        resumed.load_state_dict(state)
        average = resumed
        if epoch < 29:
            means[epoch + 1] = (3 * segments[epoch + 1] + model.weights.detach().numpy()) / 4


def test_the_first_segment_may_be_a_model_alone() -> None:
    """Of the epoch at the fork, no step was observed."""
    average, model = Swad("swad", 3, 6, 0.3), Vector()
    load_member(model, Member([torch.ones(8, dtype=torch.float64)]))
    average.after_epoch(model)
    average.after_validation(1.0)
    observe_segment(average, model, np.full(8, 3.0), 0.9)
    np.testing.assert_allclose(join_tensors(next(average.members(final=False)).parameters), 2.0)
