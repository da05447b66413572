"""Model soups: the mean of the weights of several models that began with the same trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Weights = Sequence[Tensor]
"""Parameters of a model in their order."""
Score = TypeVar("Score")


@dataclass(frozen=True)
class Tried(Generic[Score]):
    """A mean of what was kept before and one model more."""

    score: Score
    kept: bool


@dataclass(frozen=True)
class Soup(Generic[Score]):
    """A finished soup."""

    weights: list[Tensor]
    tried: list[Tried[Score]]
    """For each model from the second one on."""


@torch.no_grad()
def average_models(models: Iterable[Weights]) -> list[Tensor]:
    """Average the weights of models at equal parts, bit for bit as `cook_soup` where it keeps all of them.

    Args:
        models: at least one, of equal shapes. Each is looked at once.
    """
    iterator = iter(models)
    weights = [tensor.clone() for tensor in next(iterator)]
    for number, model in enumerate(iterator, start=1):
        weights = _extend_mean(weights, model, number)
    return weights


@torch.no_grad()
def cook_soup(
    models: Iterable[Weights],
    first: Score,
    evaluate: Callable[[Weights], Score],
    is_better: Callable[[Score, Score], bool] | None,
) -> Soup[Score]:
    """Average the weights of models one after the other, at equal parts (Wortsman et al. 2022, arXiv
    2203.05482).

    The greedy rule keeps a model if the mean with it is better than the best mean so far, and never tries it
    again. The mean runs, as in torch's `AveragedModel`, so equal models average to themselves, bit for bit.

    Args:
        models: at least one, of equal shapes; for the greedy rule the best one by itself first. Each is
            looked at once, so they need not be in memory together.
        first: score of the first one.
        evaluate: scores weights, without changing them.
        is_better: whether its first argument is better than its second one; None: every model is kept (the
            uniform soup).
    """
    iterator = iter(models)
    weights = [tensor.clone() for tensor in next(iterator)]
    best, kept, tried = first, 1, []
    for model in iterator:
        mean = _extend_mean(weights, model, kept)
        score = evaluate(mean)
        keeps = is_better is None or is_better(score, best)
        tried.append(Tried(score, keeps))
        if keeps:
            weights, best, kept = mean, score, kept + 1
    return Soup(weights, tried)


def _extend_mean(mean: Weights, model: Weights, number: int) -> list[Tensor]:
    """Take one model more into the mean of so many."""
    return [torch.lerp(old, new, 1 / (number + 1)) for old, new in zip(mean, model, strict=True)]
