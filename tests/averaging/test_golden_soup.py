"""Soups against reference numbers: the accuracy of every subset of six models is known."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch

from helpers.golden import deviation, load_golden
from tune_swa.averaging.soup import Soup, Weights, cook_soup

SOUPS = load_golden("soup")


def cook(part: str, rule: str) -> tuple[Soup[float], list[int], list[int]]:
    """The soup, the subsets that were tried, and the models in it."""
    weights, accuracy = SOUPS[f"{part}_weights"], SOUPS[f"{part}_accuracy"]
    order = [int(i) for i in SOUPS[f"{part}_order"]]
    subsets = np.array([weights[[i for i in range(6) if n >> i & 1] or [0]].mean(axis=0) for n in range(64)])
    tried: list[int] = []

    def look_up(mean: Weights) -> float:
        distance = np.abs(subsets - torch.cat(list(mean)).numpy()).max(axis=1)
        distance[0] = np.inf
        tried.append(int(distance.argmin()))
        assert distance[tried[-1]] < 1e-5
        return float(accuracy[tried[-1]])

    better = {"greedy": operator.gt, "greedy_ties": operator.ge, "uniform": None}[rule]
    models = (torch.from_numpy(weights[i]).split([10, 6]) for i in order)
    soup = cook_soup(models, float(accuracy[1 << order[0]]), look_up, better)
    kept = [order[0], *(i for i, step in zip(order[1:], soup.tried, strict=True) if step.kept)]
    return soup, tried, kept


@pytest.mark.parametrize("part", ["A", "B"])
@pytest.mark.parametrize("rule", ["greedy", "greedy_ties", "uniform"])
def test_soups_are_those_of_the_paper(part: str, rule: str) -> None:
    soup, tried, kept = cook(part, rule)
    expected = [int(i) for i in SOUPS[f"{part}_{rule}"]]
    assert (sorted(kept) if rule == "uniform" else kept) == expected
    assert deviation(torch.cat(soup.weights), SOUPS[f"{part}_{rule}_weights"]) < 1e-6
    if rule == "greedy":
        assert tried == [int(i) for i in SOUPS[f"{part}_tried"]]
    if rule != "greedy_ties":
        scores = [step.score for step in soup.tried if step.kept]
        assert scores[-1] == float(SOUPS[f"{part}_{rule}_accuracy"])


def test_equal_models_average_to_themselves() -> None:
    model = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    soup = cook_soup(([model] for _ in range(7)), 0.5, lambda mean: 0.5, None)
    assert torch.equal(soup.weights[0], model)
    assert [step.kept for step in soup.tried] == [True] * 6
