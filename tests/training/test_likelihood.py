"""The likelihood of the training images: what it sums, and what it leaves as it was."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

from helpers.resumed_runs import NUMERICS
from tune_swa.averaging.observers import list_parameters
from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.training.likelihood import TrainingLikelihood, sum_log_likelihood
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")


@pytest.fixture
def run(tiny_data: Dataset) -> Run:
    train = TrainSpec(epochs=2, batch_size=8, augment=("hflip", "crop"))
    return Run(RunSettings(lr=1e-3, train=train), tiny_data, NUMERICS)


def test_each_image_of_the_training_set_counts_once(run: Run) -> None:
    """By the statistics of each batch, without augmentation, in double precision."""
    likelihood = TrainingLikelihood(copy.deepcopy(run.model), run.images, nullcontext)
    found = likelihood(list_parameters(run.model), None)
    batches = list(run.images.draw_fit_batches(None))
    model = copy.deepcopy(run.model).train()
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(model(images), labels, reduction="sum").double()
            for images, labels in batches
        ]
    assert found == pytest.approx(-float(torch.stack(losses).sum()), rel=1e-6)
    assert sum(len(labels) for _, labels in batches) == likelihood.images == len(run.images.train)
    plain = torch.cat([images for images, _ in run.images.train.iterate_ordered(64)])
    for images, _ in batches:
        assert all(bool((image == plain).flatten(1).all(dim=1).any()) for image in images)


def test_a_few_batches_estimate_the_whole(run: Run) -> None:
    likelihood = TrainingLikelihood(copy.deepcopy(run.model), run.images, nullcontext)
    weights = list_parameters(run.model)
    (images, labels), *_ = run.images.draw_fit_batches(1)
    total, count = sum_log_likelihood(copy.deepcopy(run.model), [(images, labels)], nullcontext())
    assert count == 8
    assert likelihood(weights, 1) == pytest.approx(total * len(run.images.train) / 8, rel=1e-12)
    assert likelihood(weights, 1) == likelihood(weights, 1) != likelihood(weights, 2)


def test_the_model_keeps_its_mode_and_draws_nothing(run: Run) -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), copy.deepcopy(run.model))
    state = torch.random.get_rng_state()
    batches = list(run.images.draw_fit_batches(None))
    found = [sum_log_likelihood(model.train(mode), batches, nullcontext())[0] for mode in (True, False)]
    assert found[0] == found[1]
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)
