"""Subspace inference as an observer: what its settings do, and its two limits, the prior and the mean."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from helpers.golden import GoldenNet, load_golden, set_weights
from tune_swa.averaging.observers import Member, list_parameters, load_member
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.averaging.subspace import Subspace
from tune_swa.config import SubspaceAverage
from tune_swa.training.likelihood import sum_log_likelihood

GOLDEN = load_golden("subspace")
IMAGES, LABELS = torch.as_tensor(GOLDEN["fit_images"]), torch.as_tensor(GOLDEN["fit_labels"])


class GoldenLikelihood:
    """Of the golden images' labels; counts how often it is asked."""

    images = len(LABELS)

    def __init__(self) -> None:
        self._model = GoldenNet(GOLDEN)
        self.asked: list[int | None] = []

    def __call__(self, parameters: Sequence[Tensor], max_batches: int | None) -> float:
        self.asked.append(max_batches)
        load_member(self._model, Member(parameters))
        return sum_log_likelihood(self._model, [(IMAGES, LABELS)], nullcontext())[0]


class Trajectory:
    """The golden trajectory, and an average that observes it."""

    def __init__(self, seed: int = 0, *, samples: int = 30, **settings: Any) -> None:
        average = SubspaceAverage(method="subspace", **settings)
        self._model, self.snapshots = GoldenNet(GOLDEN), Snapshots(average.last)
        self.average = Subspace(average, self._model, self.snapshots, samples=samples, seed=seed)

    @torch.no_grad()
    def observe(self, models: int = 24) -> Subspace:
        """Go on up to so many models."""
        for epoch in range(self.average.count, models):
            set_weights(self._model, GOLDEN["trajectory"][epoch])
            self.snapshots.add_model(self._model, epoch)
            self.average.after_epoch(self._model)
        return self.average


def draw_chain(seed: int = 0, **settings: Any) -> Tensor:
    average = Trajectory(seed, **settings).observe()
    average.finish(GoldenLikelihood())
    chain: Tensor = average.state_dict()["chain"]
    return chain


def test_a_high_temperature_gives_the_prior() -> None:
    chain = draw_chain(rank=2, samples=1000, temperature=1e12, prior=3.0)
    torch.testing.assert_close(chain.std(dim=0), torch.full((2,), 3.0).double(), rtol=0.1, atol=0)


def test_a_low_temperature_narrows_the_posterior() -> None:
    spread = [draw_chain(rank=2, samples=200, temperature=t).std(dim=0).mean() for t in (0.01, 1, 1e6)]
    assert spread[0] < 0.5 * spread[1] < 0.5 * spread[2]


def test_a_narrow_prior_gives_the_mean_of_swa() -> None:
    """Bit for bit the weights that torch's average has."""
    model = GoldenNet(GOLDEN)
    swa = AveragedModel(model)
    for weights in GOLDEN["trajectory"]:
        set_weights(model, weights)
        swa.update_parameters(model)
    average = Trajectory(samples=3, prior=1e-30).observe()
    average.finish(GoldenLikelihood())
    for member in [*average.members(final=False), *average.members(final=True)]:
        for found, expected in zip(member.parameters, list_parameters(swa), strict=True):
            assert torch.equal(found, expected)


def test_the_samples_are_drawn_once() -> None:
    average, likelihood = Trajectory().observe(), GoldenLikelihood()
    average.finish(likelihood)
    asked = len(likelihood.asked)
    first, again = list(average.members(final=True)), list(average.members(final=True))
    average.finish(likelihood)
    assert len(likelihood.asked) == asked
    for one, other in zip(first, again, strict=True):
        assert all(map(torch.equal, one.parameters, other.parameters))


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    average, likelihood = Trajectory().observe(), GoldenLikelihood()
    state = torch.random.get_rng_state()
    average.finish(likelihood)
    assert torch.equal(torch.random.get_rng_state(), state)
    chain = average.state_dict()["chain"]
    torch.manual_seed(2)
    assert torch.equal(draw_chain(), chain)
    assert not torch.equal(draw_chain(seed=1), chain)


def test_settings_of_the_samples() -> None:
    assert draw_chain(rank=3, samples=7).shape == (7, 3)
    assert torch.equal(draw_chain(temperature="auto"), draw_chain(temperature=len(LABELS) / 10))
    weights = []
    for last in (6, 7):
        average = Trajectory(last=last).observe()
        average.finish(GoldenLikelihood())
        weights.append(next(average.members(final=True)).parameters[0])
    assert not torch.equal(*weights)
    average, likelihood = Trajectory(fit_batches=5).observe(), GoldenLikelihood()
    average.finish(likelihood)
    assert set(likelihood.asked) == {5}


@pytest.mark.parametrize("models", [1, 10, 22, 24])
def test_a_restored_state_goes_on_alike(models: int) -> None:
    """At any epoch, or with the samples drawn."""
    expected = Trajectory().observe()
    saved, restored = Trajectory(), Trajectory()
    saved.observe(models)
    if models == 24:
        saved.average.finish(GoldenLikelihood())
    restored.snapshots.load_state_dict(saved.snapshots.state_dict())
    restored.average.load_state_dict(saved.average.state_dict())
    restored.observe()
    likelihood = GoldenLikelihood()
    restored.average.finish(likelihood)
    assert bool(likelihood.asked) == (models < 24)
    expected.finish(GoldenLikelihood())
    for found, member in zip(restored.average.members(final=True), expected.members(final=True), strict=True):
        assert all(map(torch.equal, found.parameters, member.parameters))


def test_labels_name_what_is_not_by_default() -> None:
    assert SubspaceAverage(method="subspace").label == "subspace-5"
    other = SubspaceAverage(method="subspace", rank=2, temperature=100, fit_batches=None)
    assert other.label == "subspace-2-temperature-100-fit_batches-all"
