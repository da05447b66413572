"""What is tried next: baselines, then the points of the space file, then the sampler.

Suggestion k of a kind depends only on the seed, on k and on what was known when it was made, so a
search that is resumed from its journal proposes what it would have proposed.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState as OptunaState

from tune_swa.config import (
    Experiment,
    Parameter,
    Params,
    Value,
    count_space,
    drop_repeated,
    enumerate_space,
    params_key,
)
from tune_swa.config.optuna_distributions import decode_value, encode_value, to_distribution
from tune_swa.errors import RequestError
from tune_swa.experiment.events import Event, Kind, Stage
from tune_swa.search.sobol_points import sobol_point
from tune_swa.seeds import derive_seed

ATTEMPTS = 16
"""How often a sampler may repeat a configuration before an untried one is drawn at random."""

_OUTCOMES = {
    "completed": OptunaState.COMPLETE,
    "pruned": OptunaState.PRUNED,
    "failed": OptunaState.FAIL,
}


@dataclass(frozen=True)
class Suggestion:
    """One configuration to try."""

    kind: Kind
    index: int
    """Counts the suggestions of its kind, from 0."""
    params: Params
    source: str
    """Where it comes from: `baseline`, `point`, or the sampler's name; `confirm`."""
    stage: Stage = "search"
    seed: int | None = None
    """Of the training; None: the search's."""
    name: str = ""
    """Of the trial; by default its kind and number."""

    @property
    def trial(self) -> str:
        """The trial's stable name."""
        return self.name or f"{self.kind}-{self.index:04d}"


class Later(Enum):
    """Why there is nothing to begin now although there will be."""

    HELD_BACK = "everything left waits for something"
    UNDECIDED = "what follows depends on how the live trials end"


PlannedTrial = tuple[Kind, Params, int | None]
"""What a trial will be: its kind, its parameters, and its seed if that is not the search's."""

Accept = Callable[[Kind, Params, int | None], bool]


class Planner(Protocol):
    """Says what is tried next in one stage of an experiment, and learns what becomes of it."""

    def next_suggestion(
        self, accept: Accept = lambda kind, params, seed: True, *, draw: bool = True
    ) -> Suggestion | Later | None:
        """Make the next suggestion, or return None when everything planned has been suggested.

        The suggestion counts once its `suggested` event arrives at `apply_event`.

        Args:
            accept: says of a configuration that was fixed beforehand whether its turn has come; the
                first one in their order that is accepted is suggested.
            draw: whether a sampler may be asked, which commits to what it says.
        """

    def planned_trials(self) -> Iterator[PlannedTrial]:
        """What was known beforehand, suggested or not."""

    def unsuggested_trials(self) -> Iterator[PlannedTrial]:
        """What of it was not suggested yet."""

    def draws_more(self) -> bool:
        """Whether a sampler has suggestions left to make."""

    def report_value(self, trial: str, epoch: int, value: float) -> None:
        """Take in what a trial of the stage had at an epoch."""

    def apply_event(self, event: Event) -> None:
        """Take in one event of the journal, new or replayed. Only its own stage is learned from.

        Raises:
            ValueError: the event does not fit those before it.
        """


class _Source(Protocol):
    """Proposes the parameters of one kind of trial, and learns from their outcome."""

    @property
    def known(self) -> list[Params]: ...
    def propose_params(self, index: int) -> tuple[Params, str] | None: ...
    def confirm_suggestion(self, index: int) -> None: ...
    def restore_suggestion(self, index: int, params: Params) -> None: ...
    def report_value(self, index: int, epoch: int, value: float) -> None: ...
    def finish_trial(self, index: int, status: str, value: float | None) -> None: ...
    def reopen_trial(self, index: int) -> None: ...


class Proposer:
    """The search stage's planner: baselines, points and samplers."""

    def __init__(self, experiment: Experiment) -> None:
        self._limits: dict[Kind, int] = {
            "baseline": experiment.baseline_trials,
            "swa": experiment.swa_trials,
        }
        self._sources: dict[Kind, _Source] = {
            "baseline": _baseline_source(experiment),
            "swa": _swa_source(experiment),
        }
        self._next: dict[Kind, int] = {"baseline": 0, "swa": 0}
        self._trials: dict[str, tuple[Kind, int]] = {}
        self._taken: set[tuple[Kind, int]] = set()
        self._pending: Suggestion | None = None

    def next_suggestion(
        self, accept: Accept = lambda kind, params, seed: True, *, draw: bool = True
    ) -> Suggestion | Later | None:
        held = False
        for kind, source in self._sources.items():
            if isinstance(source, FixedSource):
                found = source.first(lambda params, kind=kind: accept(kind, params, None))  # type: ignore[misc]
                if found is not None:
                    self._pending = Suggestion(kind, *found)
                    return self._pending
                held = held or bool(source.left)
                continue
            index = self._next[kind]
            if index >= self._limits[kind]:
                continue
            if not draw:
                held = True
                continue
            proposal = source.propose_params(index)
            if proposal is None:  # a finite space is used up
                self._limits[kind] = index
                continue
            self._pending = Suggestion(kind, index, *proposal)
            return self._pending
        return Later.HELD_BACK if held else None

    def planned_trials(self) -> Iterator[PlannedTrial]:
        for kind, source in self._sources.items():
            for params in source.known:
                yield kind, params, None

    def unsuggested_trials(self) -> Iterator[PlannedTrial]:
        for kind, source in self._sources.items():
            if isinstance(source, FixedSource):
                for params in source.left.values():
                    yield kind, params, None
            else:
                for params in source.known[self._next[kind] : self._limits[kind]]:
                    yield kind, params, None

    def draws_more(self) -> bool:
        return any(
            not isinstance(source, FixedSource) and self._next[kind] < self._limits[kind]
            for kind, source in self._sources.items()
        )

    def report_value(self, trial: str, epoch: int, value: float) -> None:
        if trial in self._trials:
            kind, index = self._trials[trial]
            self._sources[kind].report_value(index, epoch, value)

    def apply_event(self, event: Event) -> None:
        if event["event"] == "suggested" and event["stage"] == "search":
            kind, index = event["kind"], event["index"]
            if (kind, index) in self._taken:
                raise ValueError(f"{kind} trial number {index} stands twice")
            self._taken.add((kind, index))
            self._trials[event["trial"]] = (kind, index)
            self._next[kind] = max(self._next[kind], index + 1)
            if self._pending is not None and self._pending.trial == event["trial"]:
                self._sources[kind].confirm_suggestion(index)
            else:
                self._sources[kind].restore_suggestion(index, _from_json(event["params"]))
            self._pending = None
            return
        if event.get("trial") not in self._trials:
            return
        kind, index = self._trials[event["trial"]]
        if event["event"] == "epoch":
            record = event["record"]
            self._sources[kind].report_value(index, record["epoch"], record["accuracy"])
        elif event["event"] == "ended" and event["status"] in _OUTCOMES:
            self._sources[kind].finish_trial(index, event["status"], event.get("value"))
        elif event["event"] == "reopened":
            self._sources[kind].reopen_trial(index)


class FixedSource:
    """A list that is known beforehand: a grid, the points, or a small baseline."""

    def __init__(self, params: Iterable[Params], source: str) -> None:
        self.known = list(params)
        self.left = dict(enumerate(self.known))
        """By index, what was not suggested yet."""
        self._source = source

    def first(self, accept: Callable[[Params], bool]) -> tuple[int, Params, str] | None:
        """The first configuration left that is accepted."""
        for index, params in self.left.items():
            if accept(params):
                return index, params, self._source
        return None

    def propose_params(self, index: int) -> tuple[Params, str] | None:
        return (self.left[index], self._source) if index in self.left else None

    def confirm_suggestion(self, index: int) -> None:
        """A suggestion counts."""
        self.left.pop(index, None)

    def restore_suggestion(self, index: int, params: Params) -> None:
        """A suggestion of an earlier session counts."""
        self.left.pop(index, None)

    def report_value(self, index: int, epoch: int, value: float) -> None:
        """Nothing to learn: the list is fixed."""

    def finish_trial(self, index: int, status: str, value: float | None) -> None:
        """Nothing to learn: the list is fixed."""

    def reopen_trial(self, index: int) -> None:
        """Nothing to learn: the list is fixed."""


class OptunaSource:
    """Points first, then an Optuna sampler (or Sobol points), without repeating a configuration.

    The sampler is made anew and seeded by (seed, kind, k) for every suggestion, so no generator's
    state has to survive. CMA-ES keeps its own state in the study's attributes; rebuilding it means
    asking again in the same order, which `restore_suggestion` does and checks.
    """

    def __init__(
        self,
        sampler: str,
        parameters: tuple[Parameter, ...],
        points: list[Params],
        seed: int,
        kind: Kind,
    ) -> None:
        self._sampler = sampler
        self._parameters = parameters
        self.known = points
        """Configurations that are proposed before the sampler is asked."""
        self._seed = seed
        self._kind = kind
        self._distributions = {p.name: to_distribution(p) for p in parameters}
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, direction="maximize")
        self._numbers: dict[int, int] = {}  # our index to Optuna's trial number
        self._tried: set[tuple[tuple[str, Value], ...]] = set()
        self._size = count_space(parameters)
        self._quasi_position = 0

    def propose_params(self, index: int) -> tuple[Params, str] | None:
        if self._size is not None and len(self._tried) >= self._size:
            return None
        if index < len(self.known):
            params, source = self._ask_fixed(index, self.known[index]), "point"
        elif self._sampler == "qmc":
            params, source = self._ask_fixed(index, self._next_quasi()), "qmc"
        else:
            params, source = self._ask(index), self._sampler
        self._tried.add(params_key(params))
        return params, source

    def confirm_suggestion(self, index: int) -> None:
        """A suggestion counts; the study has it already."""

    def restore_suggestion(self, index: int, params: Params) -> None:
        """Bring back a suggestion from the journal."""
        if self._sampler == "cmaes":
            again = self.propose_params(index)
            if again is None or again[0] != params:
                raise _not_repeated(index, params)
            return
        # moves the position to where it was
        if self._sampler == "qmc" and index >= len(self.known) and self._next_quasi() != params:
            raise _not_repeated(index, params)
        trial = optuna.create_trial(
            state=OptunaState.RUNNING,
            params={name: encode_value(value) for name, value in params.items()},
            distributions=self._distributions,
        )
        self._study.add_trial(trial)
        self._numbers[index] = len(self._study.get_trials(deepcopy=False)) - 1
        self._tried.add(params_key(params))

    def report_value(self, index: int, epoch: int, value: float) -> None:
        trial_id = self._study.get_trials(deepcopy=False)[self._numbers[index]]._trial_id
        self._storage.set_trial_intermediate_value(trial_id, epoch, value)

    def finish_trial(self, index: int, status: str, value: float | None) -> None:
        """Tell the outcome. Stopped trials are told as pruned, so that no sampler ranks the raw
        model of an early epoch beside an averaged one of the last."""
        number = self._numbers[index]
        if status == "completed":
            self._study.tell(number, value)
        else:
            self._study.tell(number, state=_OUTCOMES[status])

    def reopen_trial(self, index: int) -> None:
        """Have a trial that was told as failed run again.

        A study's trials do not leave that state, so a copy goes on in its place: with all that was reported,
        and with the attributes in which CMA-ES keeps what it asked for.
        """
        failed = self._study.get_trials(deepcopy=False)[self._numbers[index]]
        copy = optuna.create_trial(
            state=OptunaState.RUNNING,
            params=failed.params,
            distributions=failed.distributions,
            user_attrs=failed.user_attrs,
            system_attrs=failed.system_attrs,
            intermediate_values=failed.intermediate_values,
        )
        self._study.add_trial(copy)
        self._numbers[index] = len(self._study.get_trials(deepcopy=False)) - 1

    @property
    def study(self) -> optuna.Study:
        """The study as it stands, for those who want to look into it."""
        return self._study

    def _ask(self, index: int) -> Params:
        for attempt in range(ATTEMPTS):
            self._study.sampler = make_sampler(
                self._sampler, derive_seed(self._seed, self._kind, index, attempt)
            )
            params = self._ask_study(index)
            if params_key(params) not in self._tried:
                return params
            # runs are deterministic, so a repetition would only spend time. Samplers ignore FAIL
            self._study.tell(self._numbers[index], state=OptunaState.FAIL)
        return self._ask_fixed(index, self._untried(index))

    def _ask_study(self, index: int) -> Params:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental features and independent sampling
            trial = self._study.ask(self._distributions)
        self._numbers[index] = trial.number
        return {p.name: decode_value(p, trial.params[p.name]) for p in self._parameters}

    def _ask_fixed(self, index: int, params: Params) -> Params:
        self._study.sampler = RandomSampler(seed=0)  # has nothing to draw: every parameter is given
        self._study.enqueue_trial({name: encode_value(value) for name, value in params.items()})
        return self._ask_study(index)

    def _next_quasi(self) -> Params:
        """The next Sobol point that was not tried. Few distinct values repeat soon, so in a finite
        space the sequence is given up for a random untried point after a while."""
        for _ in range(1024):
            params = sobol_point(self._parameters, self._quasi_position, derive_seed(self._seed, self._kind))
            self._quasi_position += 1
            if params_key(params) not in self._tried:
                return params
        return self._untried(self._quasi_position)

    def _untried(self, index: int) -> Params:
        """An untried configuration of a finite space, drawn by the seed and the index."""
        left = [p for p in enumerate_space(self._parameters) if params_key(p) not in self._tried]
        return left[derive_seed(self._seed, self._kind, "untried", index) % len(left)]


def make_sampler(name: str, seed: int) -> BaseSampler:
    """An Optuna sampler, seeded."""
    seed %= 2**31  # numpy's legacy generator, which Optuna uses, takes 32 bits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "tpe":
            return TPESampler(seed=seed)
        if name == "gp":
            return GPSampler(seed=seed, deterministic_objective=False)
        if name == "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    raise ValueError(f"no sampler of Optuna: {name}")


def _baseline_source(experiment: Experiment) -> _Source:
    fixed = experiment.baseline_points
    if fixed is not None:
        return FixedSource(fixed, "baseline")
    return OptunaSource(
        experiment.search.sampler, experiment.baseline_parameters, [], experiment.search.seed, "baseline"
    )


def _swa_source(experiment: Experiment) -> _Source:
    points = drop_repeated(experiment.swa_points)
    if experiment.search.sampler == "grid" or not experiment.parameters:
        first = {params_key(p) for p in points}
        rest = (p for p in enumerate_space(experiment.parameters) if params_key(p) not in first)
        return FixedSource(itertools.islice(itertools.chain(points, rest), experiment.swa_trials), "grid")
    return OptunaSource(
        experiment.search.sampler, experiment.parameters, points, experiment.search.seed, "swa"
    )


def _not_repeated(index: int, params: Params) -> RequestError:
    return RequestError(
        f"suggestion {index} of the journal ({params}) is not what the sampler gives now, so the search "
        "cannot go on as it would have. Use the versions of optuna, cmaes and scipy that it began with "
        "(its journal names them), or start anew with another --name"
    )


def _from_json(params: dict[str, Any]) -> Params:
    """JSON has no tuples; parameters have no lists."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in params.items()}


def quiet_optuna() -> None:
    """Optuna logs every trial to stderr otherwise."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").propagate = False
