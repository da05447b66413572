"""Ray's scheduler interface over the recorder: every report passes here first."""

from __future__ import annotations

import json
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune_swa.search.recorder import Recorder

PAYLOAD = "payload"
"""The one key that a trial reports: JSON, since Ray flattens nested results and adds its own keys."""


class PhaseScheduler(FIFOScheduler):
    """Starts trials in order; records what they report and stops those that the recorder stops."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if result.get("done"):  # Ray repeats the last result when a function returns
            return str(TrialScheduler.CONTINUE)
        name = trial.config["trial"]
        message = json.loads(result[PAYLOAD])
        if message["event"] == "started":
            self.recorder.start(name, message["device"], message["from_epoch"])
            return str(TrialScheduler.CONTINUE)
        if message["event"] == "failed":
            self.recorder.fail(name, message["error"])
            return str(TrialScheduler.STOP)
        decision = self.recorder.report(name, message["record"], message["checkpoint"])
        return str(TrialScheduler.STOP if decision == "stop" else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The worker died as often as is allowed."""
        self.recorder.fail(trial.config["trial"], worker_error(trial))


def worker_error(trial: Trial) -> str:
    """What Ray knows of a worker's death, in one line."""
    error = trial.get_error() or trial.get_pickled_error()
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    known = next((line for line in lines if "died" in line.lower() or "killed" in line.lower()), "")
    text = known or (lines[-1] if lines else "the worker died for a reason that Ray does not know")
    return f"the worker process died: {text[:300]}"
