"""Plays Ray to a searcher: trials run and report as a test wants, and nothing is trained."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from helpers.journals import make_event
from tune_swa.config import Experiment
from tune_swa.execution.ray_adapters.searcher import TrialSearcher
from tune_swa.execution.slots import Placement
from tune_swa.experiment.folder import recall_reuse
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.resume import replay_events


def predictions_of(right: Any) -> bytes:
    """The file of a run that is right on the images that `right` (shape (N,), bool) says."""
    label = np.zeros(len(right), np.int32)
    values = np.where(right, 0.9, 0.1)
    said = dict.fromkeys(("probability", "confidence", "nll", "brier"), values)
    said["predicted"] = np.where(right, 0, 1).astype(np.int32)
    file = io.BytesIO()
    np.savez(file, label=label, **{f"shipped.{name}": array for name, array in said.items()})
    return file.getvalue()


def half_right(trial: TrialState) -> Any:
    """Right on half of the test images, on others for each run."""
    return np.random.default_rng(zlib.crc32(trial.name.encode())).random(200) < 0.5


class Driver:
    """Plays Ray: asks for trials, and reports for them."""

    def __init__(
        self,
        spec: Experiment,
        folder: Path,
        slots: int,
        gpus: int = 0,
        *,
        confirm: bool = False,
        accuracy: Callable[[TrialState], float] = lambda trial: 0.5,
        right: Callable[[TrialState], Any] = half_right,
    ) -> None:
        self.accuracy, self.right = accuracy, right
        """On the validation images, and on which test images a run is right."""
        self.coordinator = Coordinator(spec, folder, ExperimentState(), confirm=confirm)
        self.coordinator.record_event(make_event(
            "created", format=1, version="0", spec=spec.model_dump(mode="json", by_alias=True),
            identity=spec.fixed_settings(), numerics={}, hardware={}, versions={},
            data={"fingerprint": "f", "class_names": [], "num_classes": 2, "train": 4, "val": 3, "test": 2},
        ))  # fmt: skip
        self._play(slots, gpus)

    @classmethod
    def resume(cls, spec: Experiment, folder: Path, slots: int, **more: Any) -> Driver:
        """Go on from the journal in a folder, as a new session does."""
        self = cls.__new__(cls)
        self.accuracy = more.get("accuracy", lambda trial: 0.5)
        self.right = more.get("right", half_right)
        events = list(read_events(folder / "journal.jsonl"))
        state = ExperimentState.fold(events, folder / "journal.jsonl")
        spec = recall_reuse(spec, state.header)
        self.coordinator = Coordinator(spec, folder, state, confirm=True)
        replay_events(self.coordinator, events)
        self.coordinator.record_event(make_event(
            "session", number=state.sessions + 1, slots=slots, gpus=0, cpus=1, resumed=True, storage=None,
            spec=spec.model_dump(mode="json", by_alias=True),
        ))  # fmt: skip
        self._play(slots, 0)
        return self

    def _play(self, slots: int, gpus: int) -> None:
        placement = Placement(gpus, 8, slots, gpus / slots, 1)
        self.searcher = TrialSearcher(self.coordinator, placement)
        self._asked = 0
        self._ids: dict[str, str] = {}
        self.nll = 1.0
        self.nll_sd: float | None = None
        """Between validation images; None: not reported."""

    def suggest(self) -> dict[str, Any] | None:
        """The next trial; None if it has to wait. A worker that only warms up is at once done."""
        while True:
            self._asked += 1
            answer = self.searcher.suggest(f"ray-{self._asked}")
            if not isinstance(answer, dict):
                return None
            if answer["trial"] is not None:
                self._ids[answer["trial"]] = f"ray-{self._asked}"
                self.coordinator.record_start(answer["trial"], device="", node="", from_epoch=0, damaged=[])
                return answer
            self.searcher.on_trial_complete(f"ray-{self._asked}")

    def epoch(self, config: dict[str, Any]) -> int:
        """Report the next epoch, as a worker does that publishes what it is asked to."""
        trial = self.coordinator.state.trials[config["trial"]]
        epoch = trial.next_epoch
        averaged = 0 if trial.fork_epoch is None else max(0, epoch - trial.fork_epoch + 1)
        record = {
            "epoch": epoch, "phase": "branch" if averaged else "trunk", "learning_rate": 1.0,
            "train_loss": 1.0, "accuracy": self.accuracy(trial), "live_accuracy": 0.5,
            "nll": self.nll, "ece": 0.1,
            "n_averaged": averaged, "train_seconds": 1.0, "bn_seconds": 0.0, "eval_seconds": 0.0,
            "images_per_second": 1.0,
        }  # fmt: skip
        if self.nll_sd is not None:
            record["nll_sd"] = self.nll_sd
        unaveraged = averaged <= 1 and epoch in config["publish"] and epoch not in config["published"]
        self.coordinator.record_epoch(
            trial.name, record, None, taken_over=epoch in config["published"] and averaged == 1,
            published={**record, "phase": "trunk", "n_averaged": 0} if unaveraged else None,
        )  # fmt: skip
        return epoch

    def end(self, config: dict[str, Any]) -> None:
        self.searcher.on_trial_complete(self._ids[config["trial"]])

    def run(self, config: dict[str, Any]) -> None:
        """To its end."""
        trial = self.coordinator.state.trials[config["trial"]]
        while not trial.ended:
            if config["test"] and trial.next_epoch == self.coordinator.experiment.train.epochs - 1:
                right = self.right(trial)
                metrics = {"accuracy": float(right.mean()), "nll": 1.0, "ece": 0.1, "brier": 0.5}
                self.coordinator.record_test(
                    trial.name, images=len(right), shipped=metrics, refreshed=None,
                    predictions=predictions_of(right),
                )  # fmt: skip
            self.epoch(config)
        self.end(config)

    def run_all(self) -> list[str]:
        """Every trial to its end, until there are no more; returns their names."""
        names = []
        while (config := self.suggest()) is not None:
            names.append(config["trial"])
            self.run(config)
        return names

    def states(self) -> list[list[int]]:
        return [sorted(trunk.published) for trunk in self.coordinator.state.trunks.values()]
