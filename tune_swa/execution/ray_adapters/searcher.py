"""Ray's searcher interface over the proposer: which trial is started next, under our own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from tune_swa.execution.slots import Placement
from tune_swa.execution.worker_deaths import WorkerDeaths
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.merging import MergeJob
from tune_swa.search.planner import Later


class TrialSearcher(Searcher):
    """Hands out unfinished trials of earlier sessions first, then what the proposer suggests.

    At most `slots` trials are out at once, so that a suggestion is made when a place is free for
    it, knowing everything that is known by then. One that would train again what a live trial is about
    to publish waits, and others get their turn. After a worker died for want of memory, all wait until
    there is some, and fewer are out at once.

    Args:
        coordinator: suggests trials.
        placement: what each of them gets.
        deaths: of workers; default: none is to be expected.
        tick: called while nothing is out and memory is waited for: Ray then sleeps, and calls nothing else.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        placement: Placement,
        deaths: WorkerDeaths | None = None,
        tick: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self.coordinator = coordinator
        self.placement = placement
        self.deaths = deaths
        self._tick = tick
        self._live: dict[str, str | None] = {}  # Ray's trial id to our name; None: warms up a worker
        self._jobs: dict[str, MergeJob] = {}
        """Merges that are out, by Ray's ids."""
        self._workers = 0
        """Highest number of trials handed out at once, and so of workers started."""
        self._whole: set[str] = set()
        """Ray's ids of trials that have a GPU to themselves."""
        self.stopping = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's configuration; None while it has to wait; FINISHED at the end.

        It waits while all slots are taken, or while live trials are about to publish the states that
        all others are to go on from. None without a live trial would put Ray to sleep.
        """
        if self.stopping or self.coordinator.is_stopping:
            return str(Searcher.FINISHED)
        if self._taken() >= self.slots or self._waits_for_memory():
            return None
        if self.coordinator.is_stopping:  # it has waited long enough
            return str(Searcher.FINISHED)
        name = self.coordinator.next_trial(self._live.values(), self.slots)
        if (
            name is None and self._live
        ):  # one of them may have to begin again, and Ray asks nobody who has finished
            return None
        if name is None:
            return str(Searcher.FINISHED)
        if name is Later.UNDECIDED:
            return None
        if name is Later.HELD_BACK:
            if len(self._live) < self._workers:
                return None
            # the place will be needed: have its worker start meanwhile, and be warmed up for a trial like
            # the one that is waited for
            like = self._settings(self.live[0])
            self._go_out(trial_id, None)
            return {"trial": None, "gpus": self.placement.gpus_per_trial, "settings": like}
        if isinstance(name, MergeJob):
            self._jobs[trial_id] = name
            self._go_out(trial_id, None)
            return self._describe_merge(name)
        self._go_out(trial_id, name)
        trial = self.coordinator.state.trials[name]
        config = {
            "trial": name,
            "settings": self._settings(name),
            "recorded_epochs": trial.next_epoch,
            "checkpoints": list(trial.checkpoints),
            "trunk": trial.trunk,
            "publish": [],
            "published": [],
            "gpus": self.placement.gpus_per_trial,
            "test": trial.stage == "confirm",
            "ensemble": self.coordinator.experiment.confirm.ensemble is not None,
            "score": sorted(self.coordinator.asha.branch_rungs) if trial.stage == "search" else [],
            "nll_sd": self.coordinator.objective.metric == "nll",
        }
        if (sharing := self.coordinator.sharing) is not None:
            known = self.coordinator.state.trunks[trial.trunk].published
            config["publish"] = sharing.epochs_to_publish(trial.trunk, trial.fork_epoch)
            config["published"] = sorted(e for e in known if e <= sharing.last_shared_epoch(trial.fork_epoch))
            if self._alone_on_its_gpu(trial):
                self._whole.add(trial_id)
                config["gpus"] = 1.0
        return config

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Free the slot. Ray also says this of trials that were stopped and have ended well.

        What becomes of one whose worker died is decided already.
        """
        self._whole.discard(trial_id)
        name = self._live.pop(trial_id, None)
        if trial_id in self._jobs:
            self.coordinator.merging.return_job(self._jobs.pop(trial_id))
        if error:
            self._workers = len(self._live)
        elif name is not None and not self.stopping and not self.coordinator.is_stopping:
            self.coordinator.fail_trial(name, "the worker ended without finishing its epochs")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The coordinator has it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal has everything."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what Ray cannot pickle into its snapshot, which is never read."""
        return {**self.__dict__, "_tick": None}

    @property
    def slots(self) -> int:
        """Trials that may be out at once."""
        return self.placement.slots if self.deaths is None else self.deaths.slots

    @property
    def has_whole_gpus(self) -> bool:
        """Whether a trial that others wait for may get a GPU to itself, and the others a part of one.

        It holds for a session. Suggestions that are moved to known trunks wait for nobody.
        """
        coordinator, placement = self.coordinator, self.placement
        waiting = coordinator.sharing is not None and not coordinator.experiment.reuses_trunks
        return waiting and placement.gpus > 1 and placement.slots_per_gpu > 1

    @property
    def live(self) -> list[str]:
        """Names of the trials that are out."""
        return [name for name in self._live.values() if name is not None]

    @property
    def merges(self) -> list[str]:
        """What workers merge now, in words."""
        return [job.describe() for job in self._jobs.values()]

    def _waits_for_memory(self) -> bool:
        """Whether no worker should be started now; stops the search if that lasts and nothing else runs."""
        if self.deaths is None or not self.deaths.memory.is_waiting():
            return False
        if self._live:
            self.deaths.memory.restart_patience()
            return True
        if self.deaths.memory.is_out_of_patience():
            self.deaths.stop_search()
            return False
        if self._tick is not None:
            self._tick()
        return True

    def _taken(self) -> int:
        """Slots that are taken; a trial with a GPU to itself has all of its slots."""
        return len(self._live) + len(self._whole) * (self.placement.slots_per_gpu - 1)

    def _alone_on_its_gpu(self, trial: TrialState) -> bool:
        """Whether others wait for this trial, on a machine with more GPUs than such trials.

        Ray packs fractions on the first GPU, so producers would share one while others idle. One GPU is
        always left to the branches. Where the fractions that are out may touch every GPU, however they
        are spread, a whole one could be waited for until the end of the search, so none is asked for.
        """
        gpus, whole = self.placement.gpus, len(self._whole)
        fractions = len(self._live) - 1 - whole  # without this trial, which is out already
        if not self.has_whole_gpus or whole + 1 >= gpus or fractions + whole >= gpus:
            return False
        assert self.coordinator.sharing is not None
        return any(
            epoch > trial.next_epoch
            for epoch in self.coordinator.sharing.epochs_to_publish(trial.trunk, trial.fork_epoch)
        )

    def _describe_merge(self, job: MergeJob) -> dict[str, Any]:
        """Return what the worker of a merge needs: the run of its first trial, and what is merged."""
        trials = [self.coordinator.state.trials[name] for name in job.candidates]
        first = trials[0].last or {}
        return {
            "trial": None,
            "job": vars(job),
            "merge": {
                **vars(job),
                "checkpoints": [trial.checkpoints[-1] for trial in trials],
                "first": {key: first[key] for key in ("accuracy", "nll", "ece")},
                "metric": self.coordinator.objective.metric,
            },
            "settings": self._settings(trials[0].name),
            "gpus": self.placement.gpus_per_trial,
            "score": [],
            "nll_sd": False,
            "test": False,
        }

    def _settings(self, name: str) -> dict[str, Any]:
        """Return a trial's settings in the form sent to the worker."""
        trial = self.coordinator.state.trials[name]
        experiment = self.coordinator.experiment
        settings = experiment.run_settings(trial.kind, trial.params, trial.seed, trial.average, trial.member)
        return settings.model_dump(mode="json")

    def _go_out(self, trial_id: str, name: str | None) -> None:
        self._live[trial_id] = name
        if self.deaths is not None:
            self.deaths.note_start(name)
        self._workers = max(self._workers, len(self._live))
