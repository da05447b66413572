"""Exponential moving averages by power functions, of lengths that are solved for afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from tune_swa.averaging.decays import exponent_of_length, follow_power_function
from tune_swa.averaging.ema import Ema
from tune_swa.averaging.observers import Member, Observer
from tune_swa.config.averages import POWER_SNAPSHOTS, TRACKED_LENGTHS

OLDEST = 2
"""A snapshot goes first once this many times its steps have been taken: models from before have hardly any
part."""


class PowerTracker:
    """Averages that several observers have in common, and their snapshots at the ends of epochs.

    Args:
        lengths: that are asked for. If all of them are tracked ones, only they are updated and no snapshot
            is taken.
    """

    def __init__(self, lengths: Collection[float]) -> None:
        solved = set(lengths) - set(TRACKED_LENGTHS)
        self._averages = {
            length: Ema("", follow_power_function(exponent_of_length(length)))
            for length in TRACKED_LENGTHS
            if solved or length in lengths
        }
        self._keeps_snapshots = bool(solved)
        self.steps: list[int] = []
        """When each snapshot was taken, in optimizer steps."""
        self._snapshots: list[list[list[Tensor]]] = []
        """Of each of the steps and averages the weights, in the CPU's memory."""

    @property
    def count(self) -> int:
        """Number of models taken in."""
        return next(iter(self._averages.values())).count

    def after_step(self, model: nn.Module) -> None:
        for average in self._averages.values():
            average.after_step(model)

    def after_epoch(self, model: nn.Module) -> None:
        for average in self._averages.values():
            average.after_epoch(model)
        if not self._keeps_snapshots:
            return
        self.steps.append(self.count)
        self._snapshots.append(self._copy_averages())
        if len(self.steps) > POWER_SNAPSHOTS:
            dropped = choose_dropped(self.steps)
            del self.steps[dropped], self._snapshots[dropped]

    def compute_weights(self, length: float) -> Sequence[Tensor]:
        """The present average of a length: a tracked one, or solved for."""
        if length in self._averages:
            return _read_weights(self._averages[length])
        steps, snapshots = [*self.steps], [*self._snapshots]
        if steps[-1] != self.count:  # within a cycle, whose end is still to come
            steps.append(self.count)
            snapshots.append(self._copy_averages())
        coefficients = solve_coefficients(steps, TRACKED_LENGTHS, length)
        total = [torch.zeros_like(tensor) for tensor in snapshots[0][0]]
        for row, averages in zip(coefficients, snapshots, strict=True):
            for coefficient, weights in zip(row, averages, strict=True):
                torch._foreach_add_(total, weights, alpha=float(coefficient))
        return total

    def _copy_averages(self) -> list[list[Tensor]]:
        averages = [_read_weights(average) for average in self._averages.values()]
        return [[tensor.to("cpu", copy=True) for tensor in weights] for weights in averages]

    def state_dict(self) -> dict[str, Any]:
        return {
            "averages": [average.state_dict() for average in self._averages.values()],
            "steps": list(self.steps),
            "snapshots": list(self._snapshots),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for average, saved in zip(self._averages.values(), state["averages"], strict=True):
            average.load_state_dict(saved)
        self.steps = list(state["steps"])
        self._snapshots = [
            [[tensor.to("cpu", copy=True) for tensor in weights] for weights in averages]
            for averages in state["snapshots"]
        ]


class PowerEma(Observer):
    """An average in which the model after step s of t has a part proportional to s^g (Karras et al. 2024).

    It remembers a given part of the run so far, whatever that is: `length` is the standard deviation of the
    parts' steps over t.

    Args:
        label: name of the average in tables.
        length: of the tracker's.
        tracker: has the averages; several observers may share it.
        updates: whether this observer updates the tracker and saves its state: the first of those that
            share it.
    """

    def __init__(self, label: str, length: float, tracker: PowerTracker, *, updates: bool) -> None:
        super().__init__(label)
        self._length, self._tracker, self._updates = length, tracker, updates

    def after_step(self, model: nn.Module) -> None:
        if self._updates:
            self._tracker.after_step(model)
        self.count = self._tracker.count

    def after_epoch(self, model: nn.Module) -> None:
        if self._updates:
            self._tracker.after_epoch(model)
        self.count = self._tracker.count

    def members(self, *, final: bool) -> Iterator[Member]:
        yield Member(self._tracker.compute_weights(self._length))

    def state_dict(self) -> dict[str, Any]:
        return self._tracker.state_dict() if self._updates else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._updates:
            self._tracker.load_state_dict(state)
        self.count = self._tracker.count


def choose_dropped(steps: Sequence[int]) -> int:
    """Choose the snapshot that is missed least: the oldest if it is old, else one between close neighbours,
    so that they stay evenly spread in the logarithm of time.

    Args:
        steps: of three snapshots or more, growing.

    Returns:
        Its index.
    """
    if steps[0] * OLDEST < steps[-1]:
        return 0
    gaps = [after / before for before, after in zip(steps, steps[2:], strict=False)]
    return 1 + gaps.index(min(gaps))


def solve_coefficients(steps: Sequence[int], tracked: Sequence[float], length: float) -> NDArray[np.float64]:
    """Solve for the sum of snapshots that comes closest, by least squares over all steps, to the average of
    another length at the last of their steps; the coefficients add up to 1.

    Args:
        steps: at which the snapshots were taken, S of them.
        tracked: lengths of the K averages in each.
        length: that is wanted.

    Returns:
        [S, K] float64.
    """
    exponents = np.array([exponent_of_length(one) for one in tracked])
    times = np.repeat(np.asarray(steps, dtype=np.float64), len(exponents))  # [S * K]
    powers = np.tile(exponents, len(steps))
    overlaps = _integrate_profiles(times[:, None], powers[:, None], times, powers)
    wanted = _integrate_profiles(times, powers, float(steps[-1]), exponent_of_length(length))
    found = np.linalg.solve(overlaps, wanted)
    shares: NDArray[np.float64] = found / found.sum()
    return shares.reshape(len(steps), len(exponents))


def _integrate_profiles(
    time: ArrayLike, power: ArrayLike, other_time: ArrayLike, other_power: ArrayLike
) -> NDArray[np.float64]:
    """Integral of the product of two profiles (g + 1) s^g / t^(g + 1) over s from 0 to the earlier t."""
    t, g, u, h = (np.asarray(values, dtype=np.float64) for values in (time, power, other_time, other_power))
    ratio = (t / u) ** np.where(t < u, h, -g)
    product: NDArray[np.float64] = (g + 1) * (h + 1) * ratio / ((g + h + 1) * np.maximum(t, u))
    return product


def _read_weights(average: Ema) -> Sequence[Tensor]:
    return next(average.members(final=False)).parameters
