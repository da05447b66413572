"""Count the time of a search before it: its coordinator decides, on made-up results and by a made-up clock.

What is shared, who waits for a trunk, what a rung stops and which runs follow on fresh seeds is decided by
the code that decides it in a search. Accuracies are drawn, so rungs stop as many trials as they do where no
configuration is better than another: in a search whose sampler learns, fewer of the later ones.
"""

from __future__ import annotations

import heapq
import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tune_swa.config import Experiment
from tune_swa.experiment.events import FORMAT, ExperimentCreated, SessionStarted, Stage
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.scratch import scratch_folder
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.samplers import quiet_optuna
from tune_swa.seeds import derive_seed

TESTED_IMAGES = 64
"""Made-up test images of a run: what is decided by them depends on chance alone."""


@dataclass(frozen=True)
class TrialTimes:
    """Seconds that the parts of a trial take where all slots are taken."""

    train: float
    """An epoch's training."""
    refresh: float
    """A refresh of the batch-normalisation statistics."""
    evaluate: float
    """A pass over the validation images."""
    test: float
    """Test images and, for the temperature, validation images of one model."""
    epoch: float
    """Whatever else an epoch takes."""
    save: float
    """Writing a state: a trial's last one, or a trunk's that is published."""
    trial: float
    """From a free slot to the first epoch of a trial in a worker that is there."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """A score of each average besides the leading one, by label."""
    tests: Mapping[str, float] = field(default_factory=dict)
    """Predictions of the test images by each of these, by label."""


@dataclass
class StageTime:
    """What a stage took."""

    runs: int = 0
    epochs: int = 0
    """Epochs that its trials trained themselves."""
    ends: float = 0.0
    """Seconds from the beginning of the search."""


@dataclass
class SimulatedSearch:
    """What a search took by the made-up clock."""

    stages: dict[Stage, StageTime] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return max((stage.ends for stage in self.stages.values()), default=0.0)

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages.values())


def simulate_search(
    experiment: Experiment, slots: int, times: TrialTimes, *, confirm: bool = True, draw: int = 0
) -> SimulatedSearch:
    """Run a search by a made-up clock. Merges are left out.

    Args:
        experiment: the settings.
        slots: trials at once.
        times: of the parts of a trial.
        confirm: whether fresh seeds follow.
        draw: seed of the accuracies.

    Raises:
        OSError: the journal of the made-up search cannot be written to TMPDIR.
    """
    quiet_optuna()
    with scratch_folder("forecast-") as folder:
        simple = _simplify_space(experiment)
        return _Simulation(simple, folder, slots, times, confirm=confirm, draw=draw).run()


def _simplify_space(experiment: Experiment) -> Experiment:
    """Have the values drawn at random where a sampler takes its time over them, and merge nothing."""
    dumped = experiment.model_dump(mode="json", by_alias=True)
    if dumped["search"]["sampler"] in ("tpe", "gp"):
        dumped["search"]["sampler"] = "random"
    dumped.pop("merge", None)
    dumped["confirm"].pop("merges", None)
    return Experiment.model_validate(dumped)


@dataclass
class _Running:
    """A trial that runs."""

    trial: TrialState
    publishes: set[int]
    published: set[int]
    """States of its trunk that it could begin from."""

    @property
    def is_averaged(self) -> bool:
        """Whether the next epoch is evaluated as an average."""
        fork = self.trial.fork_epoch
        return fork is not None and self.trial.next_epoch >= fork

    @property
    def is_taken_over(self) -> bool:
        """Whether the next epoch was trained by whoever published its trunk."""
        epoch = self.trial.next_epoch
        return epoch == self.trial.fork_epoch and epoch in self.published


class _Simulation:
    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        slots: int,
        times: TrialTimes,
        *,
        confirm: bool,
        draw: int,
    ) -> None:
        self.draw = draw
        self.experiment, self.slots, self.times = experiment, slots, times
        self.coordinator = Coordinator(experiment, folder, ExperimentState(), confirm=confirm)
        self.running: dict[str, _Running] = {}
        self.due: list[tuple[float, int, str]] = []
        """When the next epoch of each running trial ends."""
        self.order = itertools.count()
        self.now = 0.0
        self.result = SimulatedSearch()
        self._begin()

    def _begin(self) -> None:
        spec = self.experiment.model_dump(mode="json", by_alias=True)
        images = {"fingerprint": "", "class_names": ["a", "b"], "num_classes": 2}
        self.coordinator.record_event(
            ExperimentCreated(
                format=FORMAT,
                version="0",
                spec=spec,
                identity=self.experiment.fixed_settings(),
                data={"name": "made up", "train": 2, "val": 2, "test": TESTED_IMAGES, **images},
                weights="",
                numerics={},
                hardware={},
                versions={},
                seed=0,
            )
        )
        self.coordinator.record_event(SessionStarted(number=1, slots=self.slots, resumed=False))

    def run(self) -> SimulatedSearch:
        try:
            while self._fill_slots():
                self.now, _, name = heapq.heappop(self.due)
                self._end_epoch(self.running[name])
        finally:
            self.coordinator.close()
        if self.coordinator.write_error is not None:  # its journal could not be written: the rest is missing
            raise self.coordinator.write_error
        return self.result

    def _fill_slots(self) -> bool:
        """Begin trials in all free slots; return whether anything runs."""
        while len(self.running) < self.slots:
            name = self.coordinator.next_trial(list(self.running), self.slots)
            if not isinstance(name, str):
                break
            self._begin_trial(self.coordinator.state.trials[name])
        return bool(self.running)

    def _begin_trial(self, trial: TrialState) -> None:
        sharing, known = self.coordinator.sharing, self.coordinator.state.trunks[trial.trunk].published
        publishes: set[int] = set()
        published: set[int] = set()
        if sharing is not None:
            last = sharing.last_shared_epoch(trial.fork_epoch)
            publishes = set(sharing.epochs_to_publish(trial.trunk, trial.fork_epoch))
            published = {epoch for epoch in known if epoch <= last}
        self.coordinator.record_start(trial.name, device="", node="", from_epoch=trial.next_epoch, damaged=[])
        running = self.running[trial.name] = _Running(trial, publishes, published)
        self.result.stages.setdefault(trial.stage, StageTime()).runs += 1
        self._schedule_epoch(running, self.times.trial)

    def _schedule_epoch(self, running: _Running, before: float = 0.0) -> None:
        ends = self.now + before + self._time_epoch(running)
        heapq.heappush(self.due, (ends, next(self.order), running.trial.name))

    def _time_epoch(self, running: _Running) -> float:
        """Seconds of the next epoch of a trial, with what it predicts after the last one."""
        times, trial = self.times, running.trial
        seconds = times.epoch
        if not running.is_taken_over:
            seconds += times.train + times.evaluate
        if running.is_averaged:
            seconds += times.refresh + times.evaluate
        last = trial.next_epoch == self.experiment.train.epochs - 1
        if last or self._is_published(running):
            seconds += times.save
        labels = self._list_scored(running)
        if last or self._scores_now(trial):
            seconds += sum(times.scores.get(label, 0.0) for label in labels)
        if last and trial.stage == "confirm":
            seconds += times.test + sum(times.tests.get(label, 0.0) for label in labels)
            if trial.kind == "baseline":  # also with refreshed statistics
                seconds += times.test + times.refresh
        return seconds

    def _list_scored(self, running: _Running) -> list[str]:
        """Labels of the averages besides the leading one that a trial has in its next epoch."""
        if running.trial.kind == "baseline":
            return [average.label for average in self.experiment.baseline.averages]
        if not running.is_averaged:
            return []
        return [average.label for average in self.experiment.averages[1:]]

    def _scores_now(self, trial: TrialState) -> bool:
        if self.experiment.averaging.score == "every":
            return True
        return trial.stage == "search" and trial.next_epoch in self.coordinator.asha.branch_rungs

    def _end_epoch(self, running: _Running) -> None:
        trial, epoch = running.trial, running.trial.next_epoch
        stage = self.result.stages[trial.stage]
        stage.epochs += not running.is_taken_over
        stage.ends = self.now
        accuracy = self._draw_accuracy(running)
        phase = "branch" if running.is_averaged else "trunk"
        record = {
            "epoch": epoch, "phase": phase, "learning_rate": 1.0, "train_loss": 1.0, "accuracy": accuracy,
            "live_accuracy": accuracy, "nll": 1.0 - accuracy, "ece": 0.1, "n_averaged": 0,
            "train_seconds": 1.0, "bn_seconds": 0.0, "eval_seconds": 0.0, "images_per_second": 1.0,
        }  # fmt: skip
        if self.experiment.objective.metric == "nll":
            record["nll_sd"] = 1.0
        if trial.stage == "confirm" and epoch == self.experiment.train.epochs - 1:
            self._report_test(trial)
        published = self._is_published(running)
        decision = self.coordinator.record_epoch(
            trial.name,
            record,
            None,
            taken_over=running.is_taken_over,
            published={**record, "phase": "trunk"} if published else None,
        )
        if decision == "stop":
            del self.running[trial.name]
        else:
            self._schedule_epoch(running)

    def _is_published(self, running: _Running) -> bool:
        """Whether the state after the next epoch's training is published by this trial."""
        return running.trial.next_epoch in running.publishes - running.published

    def _draw_accuracy(self, running: _Running) -> float:
        """Draw one accuracy for all models of a run that are averaged, and one for its trunk."""
        trial = running.trial
        what = trial.name if running.is_averaged else trial.trunk
        return float(np.random.default_rng(derive_seed(self.draw, what)).uniform(0.5, 0.9))

    def _report_test(self, trial: TrialState) -> None:
        right = np.random.default_rng(derive_seed(self.draw, "test", trial.name)).random(TESTED_IMAGES) < 0.5
        metrics = {"accuracy": float(right.mean()), "nll": 1.0, "ece": 0.1, "brier": 0.5}
        self.coordinator.record_test(
            trial.name,
            images=TESTED_IMAGES,
            shipped=metrics,
            refreshed=None,
            predictions=_pack_predictions(right),
        )


def _pack_predictions(right: Any) -> bytes:
    """The file of a run that is right on the images that `right`, [N] bool, says."""
    values = np.where(right, 0.9, 0.1)
    arrays: dict[str, Any] = {
        f"shipped.{name}": values for name in ("probability", "confidence", "nll", "brier")
    }
    arrays["label"] = np.zeros(len(right), np.int32)
    arrays["shipped.predicted"] = np.where(right, 0, 1).astype(np.int32)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
