"""Plays Ray to a searcher: trials run and report as a test wants, and nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_swa.journal import ExperimentState
from tune_swa.search.placement import Placement
from tune_swa.search.recorder import Recorder
from tune_swa.search.searcher import TrialSearcher
from tune_swa.spec import Experiment

NOTHING = b"PK\5\6" + bytes(18)
"""An archive without files."""


class Driver:
    """Plays Ray: asks for trials, and reports for them."""

    def __init__(
        self, spec: Experiment, folder: Path, slots: int, gpus: int = 0, *, confirm: bool = False
    ) -> None:
        self.recorder = Recorder(spec, folder, ExperimentState(), confirm=confirm)
        self.recorder.record(
            "created", format=1, version="0", spec=spec.model_dump(mode="json", by_alias=True),
            identity=spec.identity(), numerics={}, hardware={}, versions={},
            data={"fingerprint": "f", "class_names": [], "num_classes": 2, "train": 4, "val": 3, "test": 2},
        )  # fmt: skip
        placement = Placement(gpus, 8, slots, gpus / slots, 1)
        self.searcher = TrialSearcher(self.recorder, placement)
        self._asked = 0
        self._ids: dict[str, str] = {}

    def suggest(self) -> dict[str, Any] | None:
        """The next trial; None if it has to wait. A worker that only warms up is at once done."""
        while True:
            self._asked += 1
            answer = self.searcher.suggest(f"ray-{self._asked}")
            if not isinstance(answer, dict):
                return None
            if answer["trial"] is not None:
                self._ids[answer["trial"]] = f"ray-{self._asked}"
                self.recorder.start(answer["trial"], device="", node="", from_epoch=0, damaged=[])
                return answer
            self.searcher.on_trial_complete(f"ray-{self._asked}")

    def epoch(self, config: dict[str, Any]) -> int:
        """Report the next epoch, as a worker does that publishes what it is asked to."""
        trial = self.recorder.state.trials[config["trial"]]
        epoch = trial.next_epoch
        averaged = 0 if trial.first_average is None else max(0, epoch - trial.first_average + 1)
        record = {
            "epoch": epoch, "phase": "branch" if averaged else "trunk", "learning_rate": 1.0,
            "train_loss": 1.0, "accuracy": 0.5, "live_accuracy": 0.5, "nll": 1.0, "ece": 0.1,
            "n_averaged": averaged, "train_seconds": 1.0, "bn_seconds": 0.0, "eval_seconds": 0.0,
            "images_per_second": 1.0,
        }  # fmt: skip
        unaveraged = averaged <= 1 and epoch in config["publish"] and epoch not in config["published"]
        self.recorder.report(
            trial.name, record, None, taken_over=epoch in config["published"] and averaged == 1,
            published={**record, "phase": "trunk", "n_averaged": 0} if unaveraged else None,
        )  # fmt: skip
        return epoch

    def end(self, config: dict[str, Any]) -> None:
        self.searcher.on_trial_complete(self._ids[config["trial"]])

    def run(self, config: dict[str, Any]) -> None:
        """To its end."""
        trial = self.recorder.state.trials[config["trial"]]
        while not trial.ended:
            if config["test"] and trial.next_epoch == self.recorder.experiment.train.epochs - 1:
                metrics = {"accuracy": 0.5, "nll": 1.0, "ece": 0.1, "brier": 0.5}
                self.recorder.test(trial.name, images=2, shipped=metrics, refreshed=None, predictions=NOTHING)
            self.epoch(config)
        self.end(config)

    def states(self) -> list[list[int]]:
        return [sorted(trunk.published) for trunk in self.recorder.state.trunks.values()]
