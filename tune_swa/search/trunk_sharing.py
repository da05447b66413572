"""Which trials go on from whose trunk, and when it pays to wait for it.

A trunk is published after its fork points: the epochs at whose end a run of the space can begin to
average. Whoever trains a trunk publishes it; a trial begins from the newest published state that
is not beyond its own fork, and is held back while a live trial is about to publish a newer one.
Nothing here changes a result: what is taken over is bit for bit what the trial would have trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from tune_swa.config import Choices, Experiment, Params, RunSettings, count_space, params_key
from tune_swa.experiment.events import Kind, Stage
from tune_swa.experiment.layout import epoch_of
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState, TrunkState
from tune_swa.search.asha import PhaseAsha
from tune_swa.search.planner import Planner
from tune_swa.search.proposer import Proposer
from tune_swa.search.trunk_names import TrunkNamer

MAX_STATES = 8
"""States of a trunk that are kept at most: where averaging can begin at more epochs than these, every
second or third or ... is published, and branches train the epochs in between."""


def fork_points(experiment: Experiment) -> tuple[int, ...]:
    """Epochs (from 0) after whose training a run of the space can leave its trunk, thinned out."""
    return _thin({start + 1 for start in _starts(experiment)})


def trunks_recur(experiment: Experiment) -> bool:
    """Whether the sampler will propose trials with the same trunk: there are fewer trunks than trials."""
    trunks = count_space(experiment.baseline_parameters)
    return trunks is not None and trunks <= experiment.swa_trials


def newest_start(experiment: Experiment, settings: RunSettings) -> int:
    """The last epoch of the trunk that a trial can take over. A baseline trains its last one itself."""
    return experiment.train.epochs - 2 if settings.fork_epoch is None else settings.fork_epoch


def max_states(experiment: Experiment) -> int:
    """Published states that there can be at one time in the search."""
    asha = PhaseAsha(experiment.scheduler, experiment.train.epochs)
    sharing = TrunkSharing(experiment, TrunkNamer.plain(), ExperimentState(), Proposer(experiment), asha)
    return sharing.max_states()


def planned_epochs(experiment: Experiment) -> int | None:
    """Epochs that are trained if no trial is stopped; None where a sampler will choose the trunks."""
    everyone = Proposer(experiment)
    if everyone.draws_more():
        return None
    asha = PhaseAsha(experiment.scheduler, experiment.train.epochs)
    state = ExperimentState()
    sharing = TrunkSharing(experiment, TrunkNamer.plain(), state, everyone, asha)
    total = 0
    for kind, params, seed in everyone.planned_trials():
        trunk, limit = sharing.locate_trunk(kind, params, seed)
        newest = sharing.newest_state(trunk, limit)
        begins = 0 if newest is None else newest + 1
        total += experiment.train.epochs - begins
        fork_epoch = None if kind == "baseline" else limit
        points = sharing.epochs_to_publish(TrialState("", kind, "search", {}, 0, "", 0, trunk, fork_epoch))
        state.trunks.setdefault(trunk, TrunkState()).published.update(p for p in points if p >= begins)
    return total


class TrunkSharing:
    """What trials of one experiment take over from one another.

    Args:
        experiment: the settings.
        namer: names trunks.
        state: the fold of the journal, which goes on.
        proposer: what is still to come.
        asha: verdicts over trunks.
        recur: whether trunks are published wherever a run of the space could begin to average, rather
            than where one that is known beforehand will; default: as `trunks_recur` says, if a sampler
            will be asked.
        stage: of the trials. Those that failed in it for GPU memory may yet be tried again.
    """

    def __init__(
        self,
        experiment: Experiment,
        namer: TrunkNamer,
        state: ExperimentState,
        proposer: Planner,
        asha: PhaseAsha,
        *,
        recur: bool | None = None,
        stage: Stage = "search",
    ) -> None:
        self._experiment = experiment
        self._namer = namer
        self._state = state
        self._proposer = proposer
        self._asha = asha
        self._stage = stage
        self._places: dict[tuple[Kind, object, int | None], tuple[str, int]] = {}
        self._recur = trunks_recur(experiment) and proposer.draws_more() if recur is None else recur
        self._points = fork_points(experiment) if self._recur else ()
        self._fixed = {} if self._recur else self._points_of_fixed()

    def locate_trunk(self, kind: Kind, params: Params, seed: int | None = None) -> tuple[str, int]:
        """The trunk of a configuration, and the last epoch of it that can be taken over."""
        key = (kind, params_key(params), seed)
        if key not in self._places:
            settings = self._experiment.run_settings(kind, params, seed)
            self._places[key] = self._namer.name(settings), newest_start(self._experiment, settings)
        return self._places[key]

    def last_shared_epoch(self, trial: TrialState) -> int:
        """The last epoch of its trunk that a trial can take over."""
        return self._experiment.train.epochs - 2 if trial.fork_epoch is None else trial.fork_epoch

    def epochs_to_publish(self, trial: TrialState) -> list[int]:
        """Epochs after which a trial publishes its state, should it train them itself."""
        points = self._points or self._fixed.get(trial.trunk, ())
        return sorted(p for p in points if trial.fork_epoch is None or p <= trial.fork_epoch)

    def max_states(self) -> int:
        """States that can be published at one time, if the number of trunks is known."""
        if self._recur:
            return (count_space(self._experiment.baseline_parameters) or 1) * len(self._points)
        return sum(map(len, self._fixed.values()))

    def newest_state(self, trunk: str, limit: int) -> int | None:
        """The newest published epoch that is not beyond `limit`."""
        known = self._state.trunks.get(trunk)
        return max((e for e in known.published if e <= limit), default=None) if known else None

    def is_ready(self, trunk: str, limit: int, live: Iterable[str]) -> bool:
        """Whether a trial should begin now: no live one is about to publish a newer state for it.

        Waiting for one never takes longer than training again, for the other one is ahead.
        """
        newest = self.newest_state(trunk, limit)
        if (
            newest == limit
            or self._asha.stopped_at(trunk, limit) is not None
            or self.find_divergence(trunk, limit)
        ):
            return True
        for name in live:
            other = self._state.trials[name]
            if other.trunk != trunk or other.ended:
                continue
            to_come = max(-1 if newest is None else newest, other.next_epoch - 1)
            if any(to_come < epoch <= limit for epoch in self.epochs_to_publish(other)):
                return False
        return True

    def find_divergence(self, trunk: str, limit: int | None) -> tuple[int, str, str] | None:
        """Where a trunk stopped being finite, if a trial that leaves it after `limit` trains that epoch.

        Args:
            trunk: its name.
            limit: the last epoch of it that the trial trains; None: all of them.

        Returns:
            The epoch, who trained it, and the reason; None if nobody has met that.
        """
        known = self._state.trunks.get(trunk)
        if known is None or known.diverged is None or (limit is not None and known.diverged[0] > limit):
            return None
        return known.diverged

    def count_shared_epochs(self, trial: TrialState) -> int:
        """How many epochs of its trunk a trial that has none can have from others."""
        stopped = None
        if trial.fork_epoch is not None:
            stopped = self._asha.stopped_at(trial.trunk, trial.fork_epoch)
        newest = self.newest_state(trial.trunk, self.last_shared_epoch(trial))
        known = self._state.trunks[trial.trunk].records
        if stopped is not None:
            return min(stopped + 1, len(known))
        if (diverged := self.find_divergence(trial.trunk, trial.fork_epoch)) is not None:
            return min(diverged[0], len(known))  # as far as the trial would have come by itself
        # the epoch of the first average is trained by the other one, but averaged and reported by this one
        most = self._experiment.train.epochs if trial.fork_epoch is None else trial.fork_epoch
        return 0 if newest is None else min(newest + 1, most)

    def unneeded_states(self, trunk: str) -> list[int]:
        """Published epochs of a trunk that no trial needs any more, now or to come."""
        known = self._state.trunks[trunk]
        return sorted(known.published - set(self._needed(trunk, known))) if known.published else []

    def _needed(self, trunk: str, known: TrunkState) -> Iterator[int]:
        if self._recur and self._proposer.draws_more():
            yield from known.published
        limits = [
            limit
            for kind, params, seed in self._proposer.unsuggested_trials()
            for name, limit in (self.locate_trunk(kind, params, seed),)
            if name == trunk
        ]
        for limit in limits:
            yield from self._newest_of(known, limit)
        for name in known.trials:
            trial = self._state.trials[name]
            if trial.ended and not trial.may_reopen(self._stage):
                continue
            for epoch in self._newest_of(known, self.last_shared_epoch(trial)):
                if _own_state(trial) < epoch:
                    yield epoch

    def _newest_of(self, known: TrunkState, limit: int) -> list[int]:
        return sorted(e for e in known.published if e <= limit)[-1:]

    def _points_of_fixed(self) -> dict[str, tuple[int, ...]]:
        """Fork points of the trunks that several of the configurations given beforehand have."""
        users: Counter[str] = Counter()
        forks: dict[str, set[int]] = {}
        for kind, params, seed in self._proposer.planned_trials():
            trunk, limit = self.locate_trunk(kind, params, seed)
            users[trunk] += 1
            if kind == "swa":
                forks.setdefault(trunk, set()).add(limit)
        return {trunk: _thin(points) for trunk, points in forks.items() if users[trunk] > 1}


def _own_state(trial: TrialState) -> int:
    """Epoch of a trial's own newest checkpoint; -1 without one."""
    return epoch_of(trial.checkpoints[-1]) if trial.checkpoints else -1


def _starts(experiment: Experiment) -> set[int]:
    found = {int(params["swa_start"]) for params in experiment.swa_points if "swa_start" in params}  # type: ignore[arg-type]
    fixed = experiment.constants.get("swa_start")
    if isinstance(fixed, int):
        return found | {fixed}
    domain = next(p.domain for p in experiment.parameters if p.name == "swa_start")
    if isinstance(domain, Choices):
        return found | {int(value) for value in domain.values}  # type: ignore[arg-type]
    return found | set(range(int(domain.low), int(domain.high) + 1, int(domain.step or 1)))


def _thin(points: Iterable[int]) -> tuple[int, ...]:
    """At most `MAX_STATES` of the points, evenly; the first one stays, since all others can use it."""
    ordered = sorted(points)
    return tuple(ordered[:: -(-len(ordered) // MAX_STATES) or 1])
