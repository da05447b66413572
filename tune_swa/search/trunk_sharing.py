"""Share trunks: which states are published, who goes on from which, and who waits for one.

A trunk is published after the training of its fork points: the epochs at which a run of the space can begin
to average. Whoever trains a trunk publishes it; a trial begins from the newest published state that is not
beyond its own fork, and is held back while a live trial is about to publish a newer one. Nothing here
changes a result: what is taken over is bit for bit what the trial would have trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from tune_swa.config import Choices, Experiment, Params, count_space, params_key
from tune_swa.experiment.events import Kind, Stage
from tune_swa.experiment.layout import epoch_of
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState, TrunkState
from tune_swa.search.arms import choose_swa, rank_searched
from tune_swa.search.asha import PhaseAsha
from tune_swa.search.planner import Planner
from tune_swa.search.proposer import Proposer
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.search.trunk_reuse import KNOWN_TRUNKS

MAX_STATES = 8
"""Most states published per trunk. If averaging can begin at more epochs, every second or third of them is
published, and branches train the epochs in between."""


def fork_points(experiment: Experiment) -> tuple[int, ...]:
    """Return the fork epochs at which trunks are published: those of the space, at most `MAX_STATES`."""
    return _thin_out({start + 1 for start in _swa_starts(experiment)})


def trunks_recur(experiment: Experiment) -> bool:
    """Whether trials will have the same trunk: the sampler's, as there are fewer trunks than trials, or the
    members of SWAP."""
    if experiment.swap is not None:
        return True
    trunks = count_space(experiment.baseline_parameters)
    return trunks is not None and trunks <= experiment.swa_trials


def max_states(experiment: Experiment, slots: int = 1) -> int:
    """Count the published states that there can be at one time in the search, with so many trials at once."""
    return _share_before_training(experiment, ExperimentState()).max_states(slots)


def planned_epochs(experiment: Experiment) -> int | None:
    """Count the epochs that are trained if no trial is stopped; None where a sampler chooses the trunks."""
    proposer = Proposer(experiment)
    if proposer.draws_more():
        return None
    state = ExperimentState()
    sharing = _share_before_training(experiment, state)
    total = 0
    for kind, params, seed in proposer.planned_trials():
        trunk, last_shared = sharing.locate_trunk(kind, params, seed)
        newest = sharing.newest_state(trunk, last_shared)
        begins = 0 if newest is None else newest + 1
        total += experiment.train.epochs - begins
        points = sharing.epochs_to_publish(trunk, None if kind == "baseline" else last_shared)
        state.trunks.setdefault(trunk, TrunkState()).published.update(p for p in points if p >= begins)
    return total


def _share_before_training(experiment: Experiment, state: ExperimentState) -> TrunkSharing:
    """Make the sharing of a search of which nothing is trained yet."""
    asha = PhaseAsha(experiment.scheduler, experiment.train.epochs)
    return TrunkSharing(experiment, TrunkNamer.by_settings(), state, Proposer(experiment), asha)


class TrunkSharing:
    """Decides what the trials of one experiment take over from one another.

    Args:
        experiment: the settings.
        namer: names trunks.
        state: the fold of the journal, which goes on.
        planner: knows which trials are still to come.
        asha: its decisions on trunks.
        recur: whether trunks are published wherever a run of the space could begin to average, rather
            than where one that is known beforehand will; default: if a sampler will be asked and its
            trunks recur (see `trunks_recur`) or are reused.
        stage: of the trials. Those that failed in it for GPU memory may yet be tried again.
    """

    def __init__(
        self,
        experiment: Experiment,
        namer: TrunkNamer,
        state: ExperimentState,
        planner: Planner,
        asha: PhaseAsha,
        *,
        recur: bool | None = None,
        stage: Stage = "search",
    ) -> None:
        self._experiment, self._namer, self._state = experiment, namer, state
        self._planner, self._asha, self._stage = planner, asha, stage
        self._located: dict[tuple[Kind, object, int | None], tuple[str, int]] = {}
        if recur is None:
            recur = planner.draws_more() and (trunks_recur(experiment) or experiment.reuses_trunks)
        self._recur = recur
        self._fork_points = fork_points(experiment) if self._recur else ()
        self._fork_points_by_trunk = {} if self._recur else self._planned_fork_points()

    def locate_trunk(self, kind: Kind, params: Params, seed: int | None = None) -> tuple[str, int]:
        """Return the trunk of a configuration, and the last epoch of it that can be taken over."""
        key = (kind, params_key(params), seed)
        if key not in self._located:
            settings = self._experiment.run_settings(kind, params, seed)
            self._located[key] = self._namer.name_trunk(settings), self.last_shared_epoch(settings.fork_epoch)
        return self._located[key]

    def last_shared_epoch(self, fork_epoch: int | None) -> int:
        """Return the last epoch of its trunk that a trial can take over.

        Args:
            fork_epoch: where it leaves its trunk; None: a baseline, which trains its last epoch itself.

        Returns:
            The epoch; -1: none. A baseline that averages observe trains all of its epochs.
        """
        if fork_epoch is None:
            return -1 if self._experiment.baseline.averages else self._experiment.train.epochs - 2
        return fork_epoch

    def epochs_to_publish(self, trunk: str, fork_epoch: int | None) -> list[int]:
        """Return the epochs after which a trial publishes its state, should it train them itself.

        Args:
            trunk: of the trial.
            fork_epoch: where it leaves its trunk; None: nowhere.
        """
        points = self._fork_points or self._fork_points_by_trunk.get(trunk, ())
        return sorted(p for p in points if fork_epoch is None or p <= fork_epoch)

    def max_states(self, slots: int) -> int:
        """Count the states that can be published at one time: of all trunks, or of those that suggestions
        may return to and of the running trials."""
        if self._recur:
            trials = self._experiment.swa_trials + self._experiment.baseline_trials
            trunks = count_space(self._experiment.baseline_parameters) or KNOWN_TRUNKS + slots
            return min(trunks, trials) * len(self._fork_points)
        return sum(map(len, self._fork_points_by_trunk.values()))

    def newest_state(self, trunk: str, last: int) -> int | None:
        """Return the newest published epoch of a trunk that is not beyond epoch `last`."""
        known = self._state.trunks.get(trunk)
        return max(_newest_published(known, last), default=None) if known else None

    def is_ready(self, trunk: str, last_shared: int, live: Iterable[str]) -> bool:
        """Whether a trial should begin now: no live one is about to publish a newer state for it.

        Waiting for one never takes longer than training again, for the other one is ahead.

        Args:
            trunk: of the trial.
            last_shared: the last epoch that it can take over.
            live: names of the trials that run.
        """
        newest = self.newest_state(trunk, last_shared)
        if newest == last_shared or self._asha.stopped_at(trunk, last_shared) is not None:
            return True
        if self.find_divergence(trunk, last_shared):
            return True
        for name in live:
            other = self._state.trials[name]
            if other.trunk != trunk or other.ended:
                continue
            done = max(-1 if newest is None else newest, other.next_epoch - 1)
            to_publish = self.epochs_to_publish(other.trunk, other.fork_epoch)
            if any(done < epoch <= last_shared for epoch in to_publish):
                return False
        return True

    def find_divergence(self, trunk: str, last: int | None) -> tuple[int, str, str] | None:
        """Find where a trunk stopped being finite, up to an epoch.

        Args:
            trunk: its name.
            last: the last epoch of it that a trial trains; None: all of them.

        Returns:
            The epoch, who trained it, and the reason; None if nobody has met that.
        """
        known = self._state.trunks.get(trunk)
        if known is None or known.diverged is None or (last is not None and known.diverged[0] > last):
            return None
        return known.diverged

    def count_shared_epochs(self, trial: TrialState) -> int:
        """Count the epochs of its trunk that a trial which has none can take over."""
        fork_epoch, known = trial.fork_epoch, self._state.trunks[trial.trunk].records
        if fork_epoch is not None:
            stopped = self._asha.stopped_at(trial.trunk, fork_epoch)
            if stopped is not None:
                return min(stopped + 1, len(known))
        if (diverged := self.find_divergence(trial.trunk, fork_epoch)) is not None:
            return min(diverged[0], len(known))  # as far as the trial would have come by itself
        newest = self.newest_state(trial.trunk, self.last_shared_epoch(fork_epoch))
        if newest is None:
            return 0
        # the fork epoch is trained by the other one, but averaged and reported by this one
        return newest + 1 if fork_epoch is None else min(newest + 1, fork_epoch)

    def unneeded_states(self, trunk: str) -> list[int]:
        """Return the published epochs of a trunk that no trial needs any more, now or to come."""
        known = self._state.trunks[trunk]
        return sorted(known.published - set(self._needed_states(trunk, known))) if known.published else []

    def _needed_states(self, trunk: str, known: TrunkState) -> Iterator[int]:
        if self._recur and self._planner.draws_more(trunk):
            yield from known.published
        for kind, params, seed in self._planner.unsuggested_trials():
            name, last_shared = self.locate_trunk(kind, params, seed)
            if name == trunk:
                yield from _newest_published(known, last_shared)
        first_members = self._list_first_members(known)
        for name in known.trials:
            trial = self._state.trials[name]
            if name in first_members:
                yield from _newest_published(known, self.last_shared_epoch(trial.fork_epoch))
            if trial.ended and not trial.may_reopen(self._stage):
                continue
            own = epoch_of(trial.checkpoints[-1]) if trial.checkpoints else -1
            for epoch in _newest_published(known, self.last_shared_epoch(trial.fork_epoch)):
                if own < epoch:
                    yield epoch

    def _list_first_members(self, trunk: TrunkState) -> set[str]:
        """Name the trials of a trunk that members of SWAP may yet go with: those that have not ended, and
        the best so far."""
        swap = self._experiment.swap
        if swap is None or self._stage != "search":
            return set()
        best = {arm.name for arm in choose_swa(rank_searched(self._state), swap.top)}
        trials = [self._state.trials[name] for name in trunk.trials]
        return {t.name for t in trials if t.kind == "swa" and (t.name in best or not t.ended)}

    def _planned_fork_points(self) -> dict[str, tuple[int, ...]]:
        """Return the fork points of the trunks that several trials which are planned beforehand have, or
        members of SWAP will have."""
        users: Counter[str] = Counter()
        forks: dict[str, set[int]] = {}
        for kind, params, seed in self._planner.planned_trials():
            trunk, last_shared = self.locate_trunk(kind, params, seed)
            users[trunk] += 1
            if kind == "swa":
                forks.setdefault(trunk, set()).add(last_shared)
        members = self._experiment.swap is not None and self._stage == "search"
        return {trunk: _thin_out(points) for trunk, points in forks.items() if users[trunk] > 1 or members}


def _newest_published(trunk: TrunkState, last: int) -> list[int]:
    """Return the newest published epoch that is not beyond `last`; empty: there is none."""
    return sorted(epoch for epoch in trunk.published if epoch <= last)[-1:]


def _swa_starts(experiment: Experiment) -> set[int]:
    """Return every `swa_start` of the points and the space."""
    found = {int(params["swa_start"]) for params in experiment.swa_points if "swa_start" in params}  # type: ignore[arg-type]
    fixed = experiment.constants.get("swa_start")
    if isinstance(fixed, int):
        return found | {fixed}
    domain = next(p.domain for p in experiment.parameters if p.name == "swa_start")
    if isinstance(domain, Choices):
        return found | {int(value) for value in domain.values}  # type: ignore[arg-type]
    return found | set(range(int(domain.low), int(domain.high) + 1, int(domain.step or 1)))


def _thin_out(points: Iterable[int]) -> tuple[int, ...]:
    """Keep at most `MAX_STATES` of the points, evenly; the first one stays, since all others can use it."""
    ordered = sorted(points)
    return tuple(ordered[:: -(-len(ordered) // MAX_STATES) or 1])
