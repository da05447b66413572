"""Propose parameters from a fixed list, or by a sampler that is seeded anew for each suggestion.

No sampler's state is carried from one suggestion to the next: TPE and the Gaussian process draw from the
seed of the suggestion and the study, Sobol points are addressed by index, and CMA-ES keeps its state in the
study's attributes.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Literal

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState as OptunaState

from tune_swa.config import Parameter, Params, Value, count_space, enumerate_space, params_key
from tune_swa.config.optuna_distributions import decode_value, encode_value, to_distribution
from tune_swa.errors import RequestError
from tune_swa.experiment.events import Kind
from tune_swa.search.sobol_points import sobol_point
from tune_swa.seeds import derive_seed

logger = logging.getLogger(__name__)

ATTEMPTS = 16
"""Number of times a sampler may repeat a configuration before an untried one is drawn at random."""

SOBOL_ATTEMPTS = 1024
"""The same for points of the Sobol sequence: in a finite space they repeat soon."""

NUMERICAL_ERRORS = (ArithmeticError, AssertionError, RuntimeError, ValueError)
"""What samplers raise where their arithmetic fails, in ranges of few floats for example."""

Move = Callable[[Params], Params | None]
"""Gives a configuration in place of another one; None: there is none."""

OUTCOMES = {
    "completed": OptunaState.COMPLETE,
    "pruned": OptunaState.PRUNED,
    "failed": OptunaState.FAIL,
}
"""Statuses of a trial that end it, as the study has them."""


class FixedSource:
    """A list that is known beforehand: a grid, the points, or a small baseline."""

    def __init__(self, params: Iterable[Params], source: str) -> None:
        self.known = list(params)
        """Every configuration of the list."""
        self.left = dict(enumerate(self.known))
        """Configurations that were not suggested yet, by index."""
        self._source = source

    def first_accepted(self, accept: Callable[[Params], bool]) -> tuple[int, Params, str] | None:
        """Return the first configuration left that is accepted, with its index and source."""
        for index, params in self.left.items():
            if accept(params):
                return index, params, self._source
        return None

    def confirm_suggestion(self, index: int) -> None:
        """Take in that a suggestion became a trial."""
        self.left.pop(index, None)

    def restore_suggestion(self, index: int, params: Params) -> None:
        """Take in a suggestion of an earlier session, by its parameters if its number has others.

        Earlier versions counted anew where a resume had the keys of the space in another order. Whatever such
        a trial displaces is suggested under another number, so that each configuration runs.
        """
        displaced = self.left.pop(index, None)
        if displaced is not None and _are_same(displaced, params):
            return
        number = next((i for i, known in self.left.items() if _are_same(known, params)), None)
        if displaced is None:
            self.left.pop(-1 if number is None else number, None)
        elif number is not None:
            self.left[number] = displaced
        elif any(_are_same(known, params) for known in self.known):  # it ran before
            self.left[max(len(self.known), index + 1, *self.left, 0)] = displaced

    def report_value(self, index: int, epoch: int, value: float) -> None:
        """Learn nothing: the list is fixed."""

    def finish_trial(self, index: int, status: str, value: float | None) -> None:
        """Learn nothing: the list is fixed."""

    def reopen_trial(self, index: int) -> None:
        """Learn nothing: the list is fixed."""


class SampledSource:
    """Points first, then an Optuna sampler (or Sobol points), without repeating a configuration.

    Args:
        sampler: its name in the space file.
        parameters: what is searched.
        points: configurations that are proposed before the sampler is asked.
        seed: of the search.
        kind: of the trials; the two kinds draw apart.
        direction: what is to be done with the values that it is given.
    """

    def __init__(
        self,
        sampler: str,
        parameters: tuple[Parameter, ...],
        points: list[Params],
        seed: int,
        kind: Kind,
        direction: Literal["maximize", "minimize"] = "maximize",
    ) -> None:
        self.known = points
        """Configurations that are proposed before the sampler is asked."""
        self._sampler, self._parameters, self._seed, self._kind = sampler, parameters, seed, kind
        self._distributions = {p.name: to_distribution(p) for p in parameters}
        self._storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(storage=self._storage, direction=direction)
        """The Optuna study that the sampler learns from."""
        self._study_id = self._storage.get_study_id_from_name(self.study.study_name)
        self._numbers: dict[int, int] = {}  # our index to Optuna's trial number
        self._tried: set[tuple[tuple[str, Value], ...]] = set()
        self._size = count_space(parameters)
        self._sobol_position = 0

    def propose_params(self, index: int, move: Move | None = None) -> tuple[Params, str] | None:
        """Propose configuration `index` and name its source; None: the space is used up.

        Args:
            index: number of the suggestion.
            move: gives another configuration for what the sampler draws, or None where it has none.
        """
        if self._size is not None and len(self._tried) >= self._size:
            return None
        source = "point" if index < len(self.known) else self._sampler
        params = None
        if move is not None and index >= len(self.known):
            params = self._ask_untried(self._sampler, index, move=move)
        if params is not None:
            source = f"{self._sampler}, trunk reused"
        else:
            params = self._find_params(index)
        if params is None:
            return None
        self._tried.add(params_key(params))
        return params, source

    def _find_params(self, index: int) -> Params | None:
        if index < len(self.known):
            return self._enqueue_params(index, self.known[index])
        if self._sampler == "qmc":
            point = self._next_sobol_point()
            return None if point is None else self._enqueue_params(index, point)
        return self._ask_sampler(index)

    def confirm_suggestion(self, index: int) -> None:
        """Learn nothing: the study has had it since it was proposed."""

    def restore_suggestion(self, index: int, params: Params) -> None:
        """Bring back a suggestion of an earlier session.

        CMA-ES is asked again, which rebuilds its attributes; Sobol points are counted again.

        Raises:
            RequestError: the sampler gives another configuration now.
        """
        written, params = params, {p.name: _round_value(p, params[p.name]) for p in self._parameters}
        if self._sampler == "cmaes":
            repeated = self.propose_params(index)
            if repeated is None or repeated[0] != params:
                raise _changed_sampler(index, written)
            return
        if self._sampler == "qmc" and index >= len(self.known) and self._next_sobol_point() != params:
            raise _changed_sampler(index, written)
        self._add_trial(
            index,
            optuna.create_trial(
                state=OptunaState.RUNNING,
                params={name: encode_value(value) for name, value in params.items()},
                distributions=self._distributions,
            ),
        )
        self._tried.add(params_key(params))

    def report_value(self, index: int, epoch: int, value: float) -> None:
        """Give the study the value of an epoch."""
        number = self._numbers[index]  # `study.trials` would be a copy of the list, at every epoch
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        self._storage.set_trial_intermediate_value(trial_id, epoch, value)

    def finish_trial(self, index: int, status: str, value: float | None) -> None:
        """Give the study the outcome of a trial.

        A stopped trial becomes a pruned one, so that no sampler ranks the raw model of an early epoch beside
        an averaged one of the last.
        """
        if status == "completed":
            self.study.tell(self._numbers[index], value)
        else:
            self.study.tell(self._numbers[index], state=OUTCOMES[status])

    def reopen_trial(self, index: int) -> None:
        """Have a failed trial run again.

        A study's trials do not leave that state, so a copy goes on in its place: with all that was reported,
        and with the attributes in which CMA-ES keeps what it asked for.
        """
        failed = self._frozen_trial(index)
        self._add_trial(
            index,
            optuna.create_trial(
                state=OptunaState.RUNNING,
                params=failed.params,
                distributions=failed.distributions,
                user_attrs=failed.user_attrs,
                system_attrs=failed.system_attrs,
                intermediate_values=failed.intermediate_values,
            ),
        )

    def _frozen_trial(self, index: int) -> optuna.trial.FrozenTrial:
        return self.study.get_trials(deepcopy=False)[self._numbers[index]]

    def _add_trial(self, index: int, trial: optuna.trial.FrozenTrial) -> None:
        self.study.add_trial(trial)
        self._numbers[index] = len(self.study.get_trials(deepcopy=False)) - 1

    def _ask_sampler(self, index: int) -> Params | None:
        """Return an untried configuration of the sampler, or a random one; None: there is hardly any left."""
        params = self._ask_untried(self._sampler, index)
        if params is None and self._size is not None:
            return self._enqueue_params(index, self._draw_untried(index))
        return params or self._ask_untried("random", index, "untried")

    def _ask_untried(
        self, sampler: str, index: int, *purpose: str, move: Move | None = None
    ) -> Params | None:
        """Ask a sampler until it gives what was not tried; None: it repeats itself, or its arithmetic fails.

        The Gaussian process repeats itself in continuous spaces too, once it takes a bound for the best.
        What is moved is a trial of the study where it was moved to; where it was drawn it counts as failed.
        """
        for attempt in range(ATTEMPTS):
            seed = derive_seed(self._seed, self._kind, *purpose, index, attempt)
            self.study.sampler = make_sampler(sampler, seed)
            try:
                params = self._ask_study(index)
            except NUMERICAL_ERRORS as error:
                logger.warning(
                    "%s cannot suggest trial %d (%s); it is drawn at random", sampler, index, error
                )
                self.study.tell(len(self.study.get_trials(deepcopy=False)) - 1, state=OptunaState.FAIL)
                return None
            moved = params if move is None else move(params)
            if moved is not None and params_key(moved) not in self._tried:
                if moved == params:
                    return params
                self.study.tell(self._numbers[index], state=OptunaState.FAIL)
                return self._enqueue_params(index, moved)
            # runs are deterministic, so a repetition would only spend time. Samplers ignore FAIL
            self.study.tell(self._numbers[index], state=OptunaState.FAIL)
        return None

    def _ask_study(self, index: int) -> Params:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental features and independent sampling
            trial = self.study.ask(self._distributions)
        self._numbers[index] = trial.number
        return {p.name: decode_value(p, trial.params[p.name]) for p in self._parameters}

    def _enqueue_params(self, index: int, params: Params) -> Params:
        """Have the study propose the given configuration."""
        self.study.sampler = RandomSampler(seed=0)  # has nothing to draw: every parameter is given
        self.study.enqueue_trial({name: encode_value(value) for name, value in params.items()})
        return self._ask_study(index)

    def _next_sobol_point(self) -> Params | None:
        """Return the next Sobol point that was not tried; in a finite space at last one drawn at random, in
        another None."""
        seed = derive_seed(self._seed, self._kind)
        for _ in range(SOBOL_ATTEMPTS):
            params = sobol_point(self._parameters, self._sobol_position, seed)
            self._sobol_position += 1
            if params_key(params) not in self._tried:
                return params
        return None if self._size is None else self._draw_untried(self._sobol_position)

    def _draw_untried(self, index: int) -> Params:
        """Draw an untried configuration of a finite space, by the seed and the index."""
        left = [p for p in enumerate_space(self._parameters) if params_key(p) not in self._tried]
        return left[derive_seed(self._seed, self._kind, "untried", index) % len(left)]


def _round_value(parameter: Parameter, value: Value) -> Value:
    """Return a value of a journal in its present form: earlier versions wrote 0.30000000000000004."""
    return parameter.round_value(value) if value in parameter.domain else value


def _are_same(left: Params, right: Params) -> bool:
    """Whether configurations are equal, but for the last bits that other versions gave the numbers."""

    def agree(one: Value, other: Value) -> bool:
        numbers = isinstance(one, float) and isinstance(other, float)
        return math.isclose(one, other, rel_tol=1e-9) if numbers else one == other  # type: ignore[arg-type]

    return left.keys() == right.keys() and all(agree(value, right[name]) for name, value in left.items())


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Make an Optuna sampler that draws by a seed."""
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


def quiet_optuna() -> None:
    """Keep Optuna from logging every trial to stderr."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").propagate = False


def _changed_sampler(index: int, params: Params) -> RequestError:
    return RequestError(
        f"suggestion {index} of the journal ({params}) is not what the sampler gives now, so the search "
        "cannot go on as it would have. Use the versions of optuna, cmaes and scipy that it began with "
        "(its journal names them), or start anew with another --name"
    )
