"""A recipe followed on a seed: the mean of its members, bit for bit as the uniform soup of the same runs."""

from __future__ import annotations

import pytest
import torch

from helpers.resumed_runs import NUMERICS
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.training.checkpoint import extract_shipped_weights
from tune_swa.training.merging import evaluate_recipe, merge_runs
from tune_swa.training.metrics import Evaluation
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")


def build_run(data: Dataset, swa_lr: float = 5e-4) -> Run:
    settings = RunSettings(
        lr=1e-3,
        swa_start=0,
        swa_lr=swa_lr,
        train=TrainSpec(epochs=3, batch_size=8, augment=("hflip",)),
        averaging=AveragingSpec(anneal_epochs=1),
    )
    return Run(settings, data, NUMERICS)


def test_one_member_is_the_run_itself(tiny_data: Dataset) -> None:
    run = build_run(tiny_data)
    list(run)
    evaluation, predictions = evaluate_recipe(
        build_run(tiny_data), iter([extract_shipped_weights(run.state_dict())])
    )
    assert run.record is not None
    own = (run.record.accuracy, run.record.nll, run.record.ece)
    assert (evaluation.accuracy, evaluation.nll, evaluation.ece) == own
    alone = run.predict_test_images()
    assert torch.equal(predictions.nll, alone.nll)
    assert predictions.compute_metrics() == alone.compute_metrics()


def test_several_members_are_the_uniform_soup(tiny_data: Dataset) -> None:
    runs = [build_run(tiny_data, swa_lr) for swa_lr in (5e-4, 1e-2, 3e-3)]
    for run in runs:
        list(run)
    weights = [extract_shipped_weights(run.state_dict()) for run in runs]
    first = runs[0].record
    assert first is not None
    soup, _ = merge_runs(
        build_run(tiny_data),
        iter(weights),
        Evaluation(first.accuracy, first.nll, first.ece),
        "accuracy",
        greedy=False,
    )
    evaluation, _ = evaluate_recipe(build_run(tiny_data), iter(weights))
    assert evaluation == soup.tried[-1].score
    assert evaluation != evaluate_recipe(build_run(tiny_data), iter(weights[:2]))[0]
