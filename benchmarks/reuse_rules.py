"""Rules for the replay: when a suggestion goes along a known trunk, and along which."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from tune_swa.config import Experiment, Params
from tune_swa.experiment.events import Kind, TrialSuggested
from tune_swa.search.trunk_reuse import KNOWN_TRUNKS, MOVED_IN_A_ROW, TrunkReuse, _measure_gap


@dataclass
class EqualSpending(TrunkReuse):
    """The package's rule, with other numbers."""

    share: float = 0.5
    """Of the epochs, for branches."""
    most: int = KNOWN_TRUNKS
    turn: float = MOVED_IN_A_ROW + 1
    """One suggestion in so many opens a trunk at least."""

    def wants_branch(self) -> bool:
        trunks, branches = self.count_epochs()
        return branches < self.share * (trunks + branches) and self._in_a_row < self.turn - 1

    def known_trunks(self) -> list[str]:
        return self.rank_trunks()[: self.most]


@dataclass
class EveryOther(TrunkReuse):
    """One suggestion in `turn` opens a trunk."""

    turn: int = 3

    def wants_branch(self) -> bool:
        return sum(trial.kind == "swa" for trial in self._trials.values()) % self.turn != 0


@dataclass
class BestTrunk(TrunkReuse):
    """Equal spending; always along the best trunk."""

    def move_params(self, kind: Kind, params: Params) -> Params | None:
        names = self.known_trunks()
        return {**params, **self._settings[names[0]]} if names else None


@dataclass
class Bandit(TrunkReuse):
    """Equal spending; along the trunk of the highest upper confidence bound (UCB1, Auer et al. 2002)."""

    width: float = 0.01

    def move_params(self, kind: Kind, params: Params) -> Params | None:
        counts = dict.fromkeys(self.known_trunks(), 1)
        best = dict.fromkeys(counts, -math.inf)
        for trial in self._trials.values():
            if trial.trunk in counts and trial.kind == "swa":
                counts[trial.trunk] += 1
            if trial.trunk in best and trial.value is not None:
                best[trial.trunk] = max(best[trial.trunk], trial.value)
        if not counts:
            return None
        total = math.log(sum(counts.values()))
        chosen = max(counts, key=lambda n: best[n] + self.width * math.sqrt(2 * total / counts[n]))
        return {**params, **self._settings[chosen]}


@dataclass
class Within(TrunkReuse):
    """Every suggestion that is drawn near a known trunk goes along it."""

    reach: float = 0.1
    """As a part of the range."""

    def wants_branch(self) -> bool:
        return True

    def move_params(self, kind: Kind, params: Params) -> Params | None:
        moved = super().move_params(kind, params)
        return moved if moved and self._measure_distance(moved, params) <= self.reach**2 else params


@dataclass
class GainPerEpoch(TrunkReuse):
    """What is drawn stays or goes along one of the known trunks, by expected improvement per epoch to train.

    A Gaussian process (Matern 5/2) of the completed trials, with their noise; the cost is that of a trial
    that is not stopped.
    """

    experiment: Experiment | None = None
    cooling: float = 1.0
    """Exponent of the cost: 1 divides by it, 0 ignores it."""
    _params: dict[str, Params] = field(default_factory=dict)

    def wants_branch(self) -> bool:
        return True

    def apply_event(self, event: Any) -> None:
        super().apply_event(event)
        if isinstance(event, TrialSuggested):
            self._params[event.trial] = event.params

    def move_params(self, kind: Kind, params: Params) -> Params | None:
        done = [(n, t.value) for n, t in self._trials.items() if t.kind == "swa" and t.value is not None]
        names = self.known_trunks()
        if kind == "baseline" or not names:
            return params
        if len(done) < 4:  # a surrogate of less is none
            return super().move_params(kind, params)
        values = np.array([value for _, value in done])
        model = GaussianProcessRegressor(
            Matern(np.full(3, 0.5), (0.05, 5), nu=2.5) + WhiteKernel(0.1, (1e-3, 1)), normalize_y=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit([self._to_unit(self._params[n]) for n, _ in done], values)
        offers = [params] + [{**params, **self._settings[name]} for name in names]
        fork = int(params["swa_start"]) + 1  # type: ignore[arg-type]
        costs = np.array([self.epochs] + [self.epochs - fork - 1 + 1] * len(names), float)
        mean, deviation = model.predict([self._to_unit(o) for o in offers], return_std=True)
        z = (mean - values.max()) / np.maximum(deviation, 1e-9)
        gain = deviation * (z * norm.cdf(z) + norm.pdf(z))
        return offers[int(np.argmax(gain / costs**self.cooling))]

    def _to_unit(self, params: Params) -> list[float]:
        assert self.experiment is not None
        return [_measure_gap(p, params[p.name], p.domain.low) for p in self.experiment.parameters]  # type: ignore[union-attr]


CHOSEN = "equal spending, nearest trunk (chosen)"
Make = Callable[[Experiment], TrunkReuse | None]


def list_rules() -> dict[str, Make]:
    """Name every rule that is compared; None: today's, where each suggestion opens a trunk."""

    def make(rule: type[TrunkReuse], **settings: Any) -> Make:
        def build(experiment: Experiment) -> TrunkReuse:
            plain = TrunkReuse.of_experiment(experiment)
            assert plain is not None
            if rule is GainPerEpoch:
                settings["experiment"] = experiment
            return rule(plain.parameters, plain.epochs, plain.objective, **settings)

        return build

    return {
        "each a trunk of its own (today)": lambda experiment: None,
        CHOSEN: make(TrunkReuse),
        **{f"... of the best {n} trunks": make(EqualSpending, most=n) for n in (2, 8, 100)},
        **{f"... one in {n} opens at least": make(EqualSpending, turn=n) for n in (4, 8, math.inf)},
        **{f"... {round(100 * s)} % for branches": make(EqualSpending, share=s) for s in (0.35, 0.65)},
        **{f"one in {n} opens a trunk": make(EveryOther, turn=n) for n in (2, 3, 4)},
        "equal spending, best trunk": make(BestTrunk),
        "equal spending, bandit": make(Bandit),
        **{f"any within {w} of a trunk": make(Within, reach=w) for w in (0.05, 0.1, 0.15)},
        "expected gain per epoch": make(GainPerEpoch),
        "expected gain per root of epochs": make(GainPerEpoch, cooling=0.5),
    }
