"""Keep the checkpoints and trunk states that somebody may still need, and remove all others.

What is removed is recorded first: a file without a record is litter, a record without a file would be a lie.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tune_swa.config import Experiment, params_key
from tune_swa.experiment.events import CheckpointsRemoved, Event, Stage, TrunkCollected
from tune_swa.experiment.layout import CHECKPOINTS, TRUNKS, select_snapshots, state_name
from tune_swa.experiment.merge_recipe import MergeRecipe
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState, TrunkState
from tune_swa.search.planner import Planner
from tune_swa.search.trunk_sharing import TrunkSharing
from tune_swa.storage import Store

logger = logging.getLogger(__name__)


class Retention:
    """Decides which files of an experiment's store stay.

    Args:
        experiment: the settings.
        state: the fold of the journal, which goes on.
        store: where the files are.
        record_event: writes an event to the journal.
        sync_journal: has the journal reach the disk, unless that was done in so many seconds; returns
            whether it did.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: ExperimentState,
        store: Store,
        record_event: Callable[[Event], None],
        sync_journal: Callable[[float], bool],
    ) -> None:
        self._experiment, self._state, self._store = experiment, state, store
        self._record_event, self._sync_journal = record_event, sync_journal
        self._keeps_all = experiment.search.keep_checkpoints == "all"
        self._best: dict[object, list[str]] = {}
        """Trials whose last checkpoint is kept, the best first, by the group that they are compared in."""
        for trial in state.trials.values():
            if trial.status == "completed":
                self._rank_trial(trial)

    def begin_stage(self, stage: Stage, planner: Planner, sharing: TrunkSharing | None) -> None:
        """Keep what the trials of a stage need from now on."""
        self._stage, self._planner, self._sharing = stage, planner, sharing
        self._released = False  # whether all trunks were looked through since the sampler's last suggestion

    def tidy_ended_trial(self, trial: TrialState) -> None:
        """Remove what nobody needs any more now that a trial has ended."""
        self.tidy_trial(trial)
        if trial.ended and not self._released and not self._planner.draws_more():
            # a sampler that has made its last suggestion releases the trunks of all others, too
            self._released = True
            self._collect_trunks()
        elif trial.status == "completed" and self._stage == "search" and self._experiment.reuses_trunks:
            self._collect_trunks()  # it may have taken another trunk's place among the best

    def tidy_trial(self, trial: TrialState) -> None:
        """Remove a trial's checkpoints and the states of its trunk, as far as nobody needs them."""
        if not self._keeps_all and not trial.may_reopen(self._stage):
            self._tidy_checkpoints(trial)
        if trial.ended:
            self._collect_trunk(trial.trunk)

    def release_members(self, names: Iterable[str]) -> None:
        """Remove the checkpoints of runs that need not wait for a merge any more, where nobody needs them."""
        best = set().union(*self._best.values())
        if not self._keeps_all:
            self._drop_checkpoints(name for name in dict.fromkeys(names) if name not in best)

    def remove_leftovers(self) -> None:
        """Finish the removals that a kill cut off: recorded files first, then those without a record."""
        for name in self._store.folders(CHECKPOINTS):
            if name not in self._state.trials:  # its lines were cut off; another trial may get its name
                with _tolerate_leftovers():
                    self._store.keep_only(f"{CHECKPOINTS}/{name}", set())
        if not self._keeps_all:
            kept = self._list_members().union(*self._best.values())
            for trial in self._state.trials.values():
                needless = trial.checkpoints[: -1 if trial.name in kept else None]
                if trial.ended and needless and not trial.may_reopen(self._stage):
                    self._remove_checkpoints(trial, needless)
            for name in self._store.folders(CHECKPOINTS):
                known = self._state.trials.get(name)
                if known is not None and known.ended:
                    self._remove_checkpoints(known, [])
        self._collect_trunks()
        self.remove_stray_states()

    def remove_stray_states(self) -> None:
        """Remove files in the trunk folders that are not published states. Nothing may be running.

        A state may be one epoch ahead of the journal: its trial goes on from it, and has it recorded.
        """
        with _tolerate_leftovers():
            kept_any = False
            for trunk in self._store.folders(TRUNKS):
                known = self._state.trunks.get(trunk)
                epochs = known.published | self._list_next_epochs(known) if known else set()
                folder = f"{TRUNKS}/{trunk}"
                kept = {state_name("", e)[1:] for e in epochs}.intersection(self._store.names(folder))
                self._store.keep_only(folder, kept)
                kept_any = kept_any or bool(kept)
            if not kept_any:
                self._store.keep_only(TRUNKS, set())

    def _list_next_epochs(self, trunk: TrunkState) -> set[int]:
        """The epochs that the trials of a trunk which have not ended report next."""
        trials = (self._state.trials[name] for name in trunk.trials)
        return {trial.next_epoch for trial in trials if not trial.ended}

    def _collect_trunks(self) -> None:
        for trunk in self._state.trunks:
            self._collect_trunk(trunk)

    def _collect_trunk(self, trunk: str) -> None:
        """Remove the published states of a trunk that nobody needs any more."""
        if self._sharing is not None:
            unneeded = self._sharing.unneeded_states(trunk)
        else:
            unneeded = sorted(self._state.trunks[trunk].published)
        if not unneeded:
            return
        self._record_event(TrunkCollected(trunk=trunk, epochs=unneeded))
        with _tolerate_leftovers():
            for epoch in unneeded:  # one by one: a worker may be writing another one beside them
                self._store.remove(state_name(f"{TRUNKS}/{trunk}", epoch))

    def _tidy_checkpoints(self, trial: TrialState) -> None:
        """Keep the last checkpoints of the best completed trials, remove all others."""
        if trial.status != "completed":
            self._remove_checkpoints(trial, trial.checkpoints)
            if trial.stage == "confirm":  # what was to be merged with it never is
                trials = self._state.trials.values()
                self.release_members([t.name for t in trials if t.checkpoints and t.status == "completed"])
            return
        self._drop_checkpoints(self._rank_trial(trial))
        if trial.checkpoints:
            self._remove_checkpoints(trial, trial.checkpoints[:-1])

    def _drop_checkpoints(self, names: Iterable[str]) -> None:
        """Remove all checkpoints of some trials, but of those that are yet to be merged."""
        waiting = self._list_members()
        for trial in (self._state.trials[name] for name in names if name not in waiting):
            self._remove_checkpoints(trial, trial.checkpoints)

    def _list_members(self) -> set[str]:
        """Name the runs on fresh seeds that a recipe is still to merge: no member of theirs has failed."""
        waiting: set[str] = set()
        for look in self._state.confirmations:
            for recipe in map(MergeRecipe.from_event, look.merges or ()):
                for seed in look.seeds:
                    names = recipe.name_members(seed)
                    runs = [self._state.trials[name] for name in names if name in self._state.trials]
                    ended = [run for run in runs if run.ended and not run.may_reopen(self._stage)]
                    lost = any(run.status != "completed" for run in ended)
                    if not lost and recipe.name_run(seed) not in self._state.tested_merges:
                        waiting.update(names)
        return waiting

    def _rank_trial(self, trial: TrialState) -> list[str]:
        """Rank a completed trial among the best of its group; return those that drop out.

        Of the search as many are kept as there are finalists, or all that may be merged, and the best
        baseline; all members of SWAP; of each tested configuration the best run, or all if that is asked
        for; of the race none, since it only chooses.
        """
        if trial.stage == "race":
            return [trial.name]
        if trial.stage == "search":
            group: object = trial.kind
            most = self._experiment.confirm.top if trial.kind == "swa" else 1
            if trial.kind == "swa":
                most = max(most, self._count_candidates())
        elif trial.stage == "swap":
            group, most = "swap", len(self._state.trials)
        else:
            group, most = (trial.kind, params_key(trial.params), trial.average, trial.member), 1
            if self._experiment.confirm.keep_weights:  # all, of which ensembles are exported
                most = len(self._state.trials)
        best = self._best.setdefault(group, [])
        best.append(trial.name)
        best.sort(key=lambda name: self._state.objective.rank_trial(self._state.trials[name]))
        dropped = best[most:]
        del best[most:]
        return dropped

    def _count_candidates(self) -> int:
        """Count the SWA trials of the search that may be merged: of soups all, which a longer search merges
        anew, and of SWAP those that get members."""
        if any(merge.method == "soup" for merge in self._experiment.merge):
            return len(self._state.trials)
        return self._experiment.swap.top if self._experiment.swap else 0

    def _remove_checkpoints(self, trial: TrialState, checkpoints: list[str]) -> None:
        removed = list(checkpoints)
        if removed:
            self._record_event(CheckpointsRemoved(trial=trial.name, removed=removed))
        if not self._sync_journal(0.0):  # a power cut must not leave the record and take the file
            return
        # by what is there, not by what is recorded: a worker that died leaves files of its own
        folder = f"{CHECKPOINTS}/{trial.name}"
        kept = {name.rpartition("/")[2] for name in trial.checkpoints}
        with _tolerate_leftovers():
            self._store.keep_only(folder, kept | self._list_snapshots(trial, folder, kept))

    def _list_snapshots(self, trial: TrialState, folder: str, kept: set[str]) -> set[str]:
        """List the weights in a trial's folder that its kept checkpoints name."""
        if not kept:
            return set()
        settings = self._experiment.run_settings(trial.kind, trial.params, trial.seed, trial.average)
        span = settings.snapshot_span
        return select_snapshots(self._store.names(folder), kept, span) if span else set()


@contextmanager
def _tolerate_leftovers() -> Iterator[None]:
    """Log files that cannot be removed. They take room, but no result depends on them."""
    try:
        yield
    except OSError as error:
        logger.warning("files that are not needed any more could not be removed: %s", error)
