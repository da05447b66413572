"""Subspace inference against the numbers of the published implementation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.golden import (
    GoldenNet,
    deviation,
    join_tensors,
    load_golden,
    predict_probabilities,
    set_weights,
    split_vector,
)
from tune_swa.averaging.elliptical_slice import sample_elliptical_slices
from tune_swa.averaging.mean_trajectory import MeanTrajectory
from tune_swa.averaging.observers import Member, list_parameters, load_member
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.averaging.subspace_basis import compute_principal_components, locate_weights
from tune_swa.averaging.swa import refresh_bn
from tune_swa.training.likelihood import sum_log_likelihood

GOLDEN = load_golden("subspace")
PRECISION, CENTRE = torch.as_tensor(GOLDEN["toy_precision"]), torch.as_tensor(GOLDEN["toy_centre"])


def join_axes(basis: list[Tensor]) -> Any:
    """One tensor [r, *shape] per parameter, as [r, P]."""
    return torch.cat([axes.flatten(start_dim=1) for axes in basis], dim=1).numpy()


def split_axes(model: GoldenNet, rows: Any) -> list[Tensor]:
    split = [split_vector(model, row) for row in rows]
    return [torch.stack(axes) for axes in zip(*split, strict=True)]


def compare_evaluations(name: str, found: list[float], tolerance: float) -> None:
    """The reference evaluates the present point anew for each sample; we know its likelihood already."""
    expected, start = GOLDEN[f"{name}_loglik"], 0
    kept = []
    for number, consumed in enumerate(GOLDEN[f"{name}_uniforms_per_sample"]):
        kept += list(expected[start + (number > 0) : start + consumed])
        start += consumed
    assert start == len(expected)
    assert deviation(found, kept) <= tolerance


@torch.no_grad()
def test_the_deviations_from_the_mean() -> None:
    model = GoldenNet(GOLDEN)
    snapshots = Snapshots(20)
    trajectory = MeanTrajectory(model, snapshots, 20)
    for epoch, weights in enumerate(GOLDEN["trajectory"]):
        set_weights(model, weights)
        snapshots.add_model(model, epoch)
        trajectory.take_in(list_parameters(model))
    assert deviation(join_tensors(trajectory.tensors), GOLDEN["mean"]) <= 1e-6
    deviations = [join_tensors(row) for row in trajectory.compute_deviations()]
    assert deviation(deviations, GOLDEN["dev"]) <= 5e-6


@pytest.mark.parametrize("rank", [2, 5])
def test_the_basis(rank: int) -> None:
    model = GoldenNet(GOLDEN)
    rows = [split_vector(model, row) for row in GOLDEN["dev"]]
    found = join_axes(compute_principal_components(rows, rank))
    exact = GOLDEN[f"basis_exact_r{rank}"]
    found *= np.sign((found * exact).sum(axis=1, keepdims=True))
    assert deviation(found, exact) <= 1e-5
    assert deviation(found, GOLDEN[f"basis_r{rank}"]) <= 1e-4
    lengths = np.linalg.norm(found.astype(np.float64), axis=1)
    assert deviation(lengths, GOLDEN["singular_values"][:rank]) <= 1e-6


@pytest.mark.parametrize("rank", [2, 5])
def test_weights_at_coordinates(rank: int) -> None:
    model = GoldenNet(GOLDEN)
    mean, basis = split_vector(model, GOLDEN["mean"]), split_axes(model, GOLDEN[f"basis_r{rank}"])
    found = [
        join_tensors(locate_weights(mean, basis, torch.as_tensor(coordinates)))
        for coordinates in GOLDEN[f"coords_r{rank}"]
    ]
    assert deviation(found, GOLDEN[f"weights_r{rank}"]) <= 1e-6


@pytest.mark.parametrize("temperature", [1, 100])
def test_the_chain_of_a_gaussian_likelihood(temperature: int) -> None:
    name, found = f"toy_T{temperature}", []

    def measure(point: Tensor) -> float:
        found.append(float(-4 / temperature * (PRECISION * (point - CENTRE).square()).sum()))
        return found[-1]

    uniforms = iter(GOLDEN[f"{name}_uniforms"])
    draws = torch.as_tensor(GOLDEN[f"{name}_prior_draws"])
    chain = sample_elliptical_slices(measure, draws, lambda: float(next(uniforms)))
    assert next(uniforms, None) is None
    assert deviation(chain, GOLDEN[f"{name}_samples"]) <= 1e-10
    compare_evaluations(name, found, 1e-10)


@pytest.mark.parametrize("temperature", [1, 100])
@pytest.mark.parametrize("rank", [2, 5])
def test_the_chain_and_the_predictions_of_a_network(rank: int, temperature: int) -> None:
    name, found, model = f"net_r{rank}_T{temperature}", [], GoldenNet(GOLDEN)
    size = int(GOLDEN["fit_batch_size"])
    images, labels = torch.as_tensor(GOLDEN["fit_images"]), torch.as_tensor(GOLDEN["fit_labels"])
    batches = list(zip(images.split(size), labels.split(size), strict=True))
    mean, basis = split_vector(model, GOLDEN["mean"]), split_axes(model, GOLDEN[f"basis_r{rank}"])

    def measure(point: Tensor) -> float:
        load_member(model, Member(locate_weights(mean, basis, point)))
        total, count = sum_log_likelihood(model, batches, nullcontext())
        assert count == len(labels)
        found.append(total / temperature)
        return found[-1]

    uniforms = iter(GOLDEN[f"{name}_uniforms"])
    draws = torch.as_tensor(GOLDEN[f"{name}_prior_draws"])
    chain = sample_elliptical_slices(measure, draws, lambda: float(next(uniforms)))
    assert next(uniforms, None) is None
    assert deviation(chain, GOLDEN[f"{name}_samples"]) <= 1e-5
    compare_evaluations(name, found, 1e-5)

    probabilities = []
    for point in chain:
        load_member(model, Member(locate_weights(mean, basis, point)))
        refresh_bn(model, images.split(size))
        probabilities.append(predict_probabilities(model, GOLDEN))
    means = np.cumsum(probabilities, axis=0) / np.arange(1, len(chain) + 1)[:, None, None]
    assert deviation(means[-1], GOLDEN[f"{name}_mean_probs"]) <= 1e-5
    of_label = means[:, np.arange(len(GOLDEN["labels"])), GOLDEN["labels"]]
    assert deviation(-np.log(of_label + 1e-12).mean(axis=1), GOLDEN[f"{name}_nll_running"]) <= 1e-5
