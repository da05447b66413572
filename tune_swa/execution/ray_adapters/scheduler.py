"""Ray's scheduler interface over the coordinator: every report passes here first."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune_swa.experiment.layout import PAYLOAD
from tune_swa.search.coordinator import Coordinator


class PhaseScheduler(FIFOScheduler):
    """Starts trials in order; records what they report and stops those that the coordinator stops.

    Args:
        coordinator: keeps the journal.
        workers: how many are kept for the next trial; None: as Ray does, which keeps those that a
            waiting trial can use. To be given only where all trials ask for the same resources: a kept
            worker keeps its share of a GPU, and no trial of another size would ever get that.
    """

    def __init__(self, coordinator: Coordinator, workers: int | None = None) -> None:
        super().__init__()
        self.coordinator = coordinator
        self._workers = workers
        self._lost: dict[str, str] = {}
        """Why a trial's last worker has ended itself, by the trial's name."""

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
            if name is not None:
                self._lost[name] = f"{message['reason']}, on {message['device']} of {message['node']}"
            return str(TrialScheduler.CONTINUE)  # the worker waits for this, and ends
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
        # what a worker that has to start again is given
        known = self.coordinator.state.trials[name]
        trial.config["recorded_epochs"] = known.next_epoch
        trial.config["checkpoints"] = list(known.checkpoints)
        if message.get("published") is not None:
            epochs = {*trial.config["published"], message["record"]["epoch"]}
            trial.config["published"] = sorted(epochs & self.coordinator.state.trunks[known.trunk].published)
        return str(TrialScheduler.STOP if decision == "stop" else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Record the failure if the worker died once too often; Ray says this before a retry too."""
        name = trial.config["trial"]
        if name is not None and not trial.should_recover():
            self.coordinator.fail_trial(name, worker_error(trial, self._lost.get(name)))


def worker_error(trial: Trial, lost: str | None = None) -> str:
    """Describe a worker's death in one line.

    Args:
        trial: Ray's.
        lost: why it could not use its GPU any more; None: as far as anybody knows, it could.
    """
    times = trial.run_metadata.num_failures
    died = f"its worker process died ({times} time{'s' * (times > 1)})"
    if lost is not None:
        return f"{died}: the GPU could not be used any more ({lost})"
    try:
        text = Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    last = text.rpartition("Failure #")[2]
    detail = last.partition("Worker exit detail:")[2] or last.partition("\n")[2]
    known = " ".join(detail.split())[:300]
    return f"{died}: {known or 'Ray does not know why'}"
