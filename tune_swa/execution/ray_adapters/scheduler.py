"""Ray's scheduler interface over the coordinator: every report passes here first."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune_swa.execution.worker_deaths import WorkerDeaths
from tune_swa.experiment.layout import PAYLOAD
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.merging import MergeJob


class PhaseScheduler(FIFOScheduler):
    """Starts trials in order; records what they report and stops those that the coordinator stops.

    Args:
        coordinator: keeps the journal.
        deaths: decides what follows the death of a worker.
        workers: how many are kept for the next trial; None: as Ray does, which keeps those that a
            waiting trial can use. To be given only where all trials ask for the same resources: a kept
            worker keeps its share of a GPU, and no trial of another size would ever get that.
    """

    def __init__(self, coordinator: Coordinator, deaths: WorkerDeaths, workers: int | None = None) -> None:
        super().__init__()
        self.coordinator, self.deaths = coordinator, deaths
        self._workers = workers

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Have Ray keep the workers of all slots; by itself it keeps one when no trial waits."""
        super().on_trial_add(tune_controller, trial)
        cache = getattr(tune_controller, "_actor_cache", None)
        if cache is not None and self._workers is not None:
            cache.increase_max(trial.placement_group_factory, self._workers)
            self._workers = None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if result.get("done"):  # Ray repeats the last result when a function returns
            return str(TrialScheduler.CONTINUE)
        name = trial.config["trial"]
        message = json.loads(result[PAYLOAD])
        if message["event"] == "started":
            del message["event"]
            self.coordinator.record_start(name, **message)
            return str(TrialScheduler.CONTINUE)
        if message["event"] == "halted":
            self.coordinator.halt_search(message["error"])
            return str(TrialScheduler.STOP)
        if message["event"] == "lost":
            del message["event"]
            self.coordinator.record_lost_gpu(name, **message)
            where = f"on {message['device']} of {message['node']}"
            self.deaths.note_lost_gpu(name, f"{message['reason']}, {where}")
            return str(TrialScheduler.CONTINUE)  # the worker waits for this, and ends
        if message["event"] == "exhausted":
            self.deaths.note_exhausted_memory(name, message["reason"])
            return str(TrialScheduler.CONTINUE)  # as above
        if "job" in trial.config:  # what else a merge reports is above
            self.coordinator.merging.take_report(MergeJob(**trial.config["job"]), message)
            return str(TrialScheduler.CONTINUE)
        if message["event"] == "tested":
            del message["event"]
            self.coordinator.record_test(
                name, **{**message, "predictions": b64decode(message["predictions"])}
            )
            return str(TrialScheduler.CONTINUE)
        if message["event"] == "failed":
            self.coordinator.fail_trial(
                name, message["error"], message.get("trunk_epoch"), message.get("exhausted")
            )
            return str(TrialScheduler.STOP)
        del message["event"]
        decision = self.coordinator.record_epoch(name, **message)
        return str(TrialScheduler.STOP if decision == "stop" else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Decide what follows the death of a worker. Ray itself starts no trial again."""
        slots = self.deaths.slots
        self.deaths.take_death(trial.config["trial"], trial)
        cache = getattr(tune_controller, "_actor_cache", None)
        if cache is not None and self.deaths.slots < slots:  # an idle worker keeps its memory
            cache.decrease_max(trial.placement_group_factory, slots - self.deaths.slots)
