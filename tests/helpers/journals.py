"""Made-up experiments: journals written with the real writer, without any training."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tune_swa.config import Experiment
from tune_swa.experiment.event_lines import decode_event
from tune_swa.experiment.events import FORMAT, Event
from tune_swa.experiment.journal import Journal
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference.looks import spend_alpha

SPACE: dict[str, Any] = {
    "lr": {"choice": [1e-3, 3e-3]},
    "swa_start": {"int": [0, 2]},
    "swa_lr": {"log_uniform": [1e-4, 1e-2]},
}


def experiment(**changes: Any) -> Experiment:
    """Four epochs of a space with the three core parameters; `changes` replace whole sections."""
    plain = {"name": "made-up", "train": {"epochs": 4}, "space": SPACE, "search": {"seed": 7}}
    return Experiment.model_validate({**plain, **changes})


def make_event(event: str, **fields: Any) -> Event:
    """An event as it would be read from a journal."""
    return decode_event(json.dumps({"event": event, "time": time.time(), **fields}).encode())


def append_event(journal: Journal, event: str, **fields: Any) -> None:
    """Write one event."""
    journal.append(make_event(event, **fields))


def first_events(spec: Experiment) -> list[dict[str, Any]]:
    """The events with which the journal of an experiment on ten made-up classes begins, in this format."""
    images = {"train": 4, "val": 3, "test": 2}
    return [
        {
            "event": "created", "time": 1.0, "format": FORMAT, "version": "0.1", "seed": 0,
            "spec": spec.model_dump(mode="json", by_alias=True), "identity": spec.fixed_settings(),
            "data": {"fingerprint": "f", "class_names": [], "num_classes": 10, **images},
            "weights": "none", "numerics": {}, "hardware": {}, "versions": {"torch": "0.0"},
        },
        {"event": "session", "time": 2.0, "number": 1, "storage": None},
    ]  # fmt: skip


class Writer:
    """Writes the events that a search would, with values of our choice."""

    def __init__(self, folder: Path, spec: Experiment | None = None, images: int = 200) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "journal.jsonl"
        self.spec = spec or experiment()
        self.journal = Journal(self.path)
        append_event(
            self.journal,
            "created",
            format=1,
            version="0.1.0",
            spec=self.spec.model_dump(mode="json", by_alias=True),
            identity={},
            data={
                "name": "digits",
                "fingerprint": "f00d",
                "left_out": {},
                "num_classes": 2,
                "class_names": ["a", "b"],
                "train": 400,
                "val": images,
                "test": 100,
            },
            weights="cafe",
            numerics={"device": "cpu", "precision": "fp32"},
            hardware={"cpu": "made-up", "gpus": []},
            versions={"python": "3.11", "torch": "2.0"},
            seed=self.spec.seed,
        )
        self.session(1)

    def session(self, number: int, spec: Experiment | None = None) -> None:
        """With the settings that it goes on with; None: as older versions wrote it, without."""
        present = {} if spec is None else {"spec": spec.model_dump(mode="json", by_alias=True)}
        append_event(
            self.journal, "session", number=number, slots=1, gpus=0, cpus=1, resumed=number > 1, **present
        )

    def suggest(
        self,
        name: str,
        params: dict[str, Any],
        stage: str = "search",
        seed: int | None = None,
        average: str | None = None,
    ) -> None:
        """A trial is a baseline where its name says so; `average`: was chosen for it before."""
        baseline = name.startswith("base")
        start = None if baseline else params.get("swa_start", self.spec.constants.get("swa_start"))
        append_event(
            self.journal,
            "suggested",
            trial=name,
            kind="baseline" if baseline else "swa",
            stage=stage,
            params=params,
            seed=self.spec.seed if seed is None else seed,
            source="sampler",
            index=int("".join(c for c in name if c.isdigit()) or 0),
            trunk="t",
            first_average=None if start is None else start + 1,
            **({} if average is None else {"average": average}),
        )

    def start(self, name: str) -> None:
        append_event(self.journal, "started", trial=name, device="cpu", attempt=1, from_epoch=0)

    def epoch(
        self,
        name: str,
        number: int,
        accuracy: float,
        *,
        nll: float | None = 0.5,
        shared_from: str | None = None,
        averaged: int = 0,
        checkpoint: str | None = None,
        average: str | None = None,
        scores: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """With the average that it reports, where one is chosen, and what all of them score."""
        own = shared_from is None
        append_event(
            self.journal,
            "epoch",
            trial=name,
            record={
                "epoch": number,
                "phase": "branch" if averaged else "trunk",
                "learning_rate": 1e-3,
                "train_loss": 0.7,
                "accuracy": accuracy,
                "live_accuracy": accuracy - 0.01,
                "nll": nll,
                "ece": 0.05,
                "n_averaged": averaged,
                "train_seconds": 2.0 if own else None,
                "bn_seconds": 0.5 if own else None,
                "eval_seconds": 0.25 if own else None,
                "images_per_second": 200.0 if own else None,
                "shared_from": shared_from,
                **({} if average is None else {"average": average}),
            },
            decision="continue",
            rung=None,
            checkpoint=checkpoint,
            **({} if scores is None else {"scores": scores}),
        )

    def end(
        self,
        name: str,
        status: str = "completed",
        error: str | None = None,
        value: float | None = None,
    ) -> None:
        append_event(self.journal, "ended", trial=name, status=status, value=value, error=error)

    def trial(
        self,
        name: str,
        params: dict[str, Any],
        accuracies: list[float],
        *,
        status: str | None = "completed",
        nll: float = 0.5,
        stage: str = "search",
        seed: int | None = None,
        error: str | None = None,
    ) -> None:
        """A whole trial; status None leaves it running."""
        self.suggest(name, params, stage, seed)
        self.start(name)
        for number, accuracy in enumerate(accuracies):
            self.epoch(name, number, accuracy, nll=nll)
        if status is not None:
            self.end(name, status, error, accuracies[-1] if status == "completed" else None)

    def look(self, arms: Sequence[dict[str, Any]], seeds: Sequence[int], number: int = 1) -> None:
        """What is to be run on fresh seeds, as older versions wrote it."""
        append_event(self.journal, "confirm", look=number, arms=list(arms), seeds=list(seeds), searched=4)

    def planned_look(
        self,
        arms: Sequence[dict[str, Any]],
        seeds: Sequence[int],
        number: int = 1,
        looks: Sequence[int] | None = None,
        plan: int = 1,
    ) -> None:
        """A look of a plan; by default the only one."""
        looks = looks or (len(seeds),)
        append_event(
            self.journal, "confirm", look=number, arms=list(arms), seeds=list(seeds), searched=4, plan=plan,
            looks=list(looks), levels=list(spend_alpha(looks, plan)),
        )  # fmt: skip

    def race(self, arms: Sequence[dict[str, Any]], accuracies: dict[str, Sequence[float]]) -> None:
        """A race of one round, by the validation accuracy of each arm on the seeds from 100 on."""
        seeds = range(100, 100 + max(map(len, accuracies.values())))
        swa = sum(arm["kind"] == "swa" for arm in arms)
        rounds = [{"seeds": len(seeds), "swa": swa, "plain": len(arms) - swa}]
        append_event(
            self.journal, "race", round=1, rounds=rounds, arms=list(arms), seeds=list(seeds), searched=4
        )
        for arm in arms:
            for seed, accuracy in zip(seeds, accuracies[arm["name"]], strict=False):
                curve = [0.5, 0.5, 0.5, accuracy]
                self.trial(f"{arm['name']}-race{seed}", arm["params"], curve, stage="race", seed=seed)

    def tested(
        self,
        arm: dict[str, Any],
        seed: int,
        right: np.ndarray,
        *,
        validation: float = 0.9,
        averages: Mapping[str, np.ndarray] | None = None,
        temperature: float | None = 2.0,
        probabilities: bool = False,
        nll: np.ndarray | None = None,
        refreshed: bool = True,
    ) -> None:
        """A run on a fresh seed that is right on the images that `right` (shape (N,), bool) says, and whose
        averages are on those of `averages`; `probabilities`: of both classes are kept; `nll` (nats): of each
        image, or a usual one. Without a temperature it is of a version that fitted none; not `refreshed`: of
        a network without batch normalisation."""
        name = f"{arm['name']}-seed{seed}"
        self.suggest(name, arm["params"], "confirm", seed, arm.get("average"))
        self.start(name)
        for number in range(3):
            self.epoch(name, number, 0.5)
        self.epoch(name, 3, validation, averaged=int("average" in arm))
        label = np.arange(len(right)) % 2
        variants = {
            "shipped": right,
            **({"refreshed": right} if refreshed and arm["kind"] == "baseline" else {}),
        }
        variants.update(averages or {})
        said = {
            variant: made_up_predictions(label, values, temperature, nll)
            for variant, values in variants.items()
        }
        folder = self.path.parent / "predictions"
        folder.mkdir(exist_ok=True)
        arrays = {f"{variant}.{key}": value for variant in said for key, value in said[variant].items()}
        if probabilities:
            for variant in said:
                of_label = said[variant]["probability"]
                both = np.where(np.eye(2, dtype=bool)[label], of_label[:, None], 1 - of_label[:, None])
                arrays[f"{variant}.probabilities"] = both.astype(np.float32)
        np.savez(folder / f"{name}.npz", label=label, **arrays)
        metrics = {
            variant: {
                "accuracy": float(right.mean()),
                **{
                    name: float(v.mean())
                    for name, v in said[variant].items()
                    if "nll" in name or "brier" in name
                },
                "ece": 0.1,
                **({} if temperature is None else {"temperature": temperature, "ece_calibrated": 0.05}),
            }
            for variant, right in variants.items()
        }
        of_averages = {"averages": {label: metrics[label] for label in averages}} if averages else {}
        append_event(
            self.journal, "tested", trial=name, images=len(right), shipped=metrics["shipped"],
            refreshed=metrics.get("refreshed"), **of_averages,
        )  # fmt: skip
        self.end(name, value=validation if self.spec.objective.metric == "accuracy" else 0.5)

    def finish(self) -> None:
        append_event(self.journal, "finished", reason="completed")

    def state(self) -> ExperimentState:
        return ExperimentState.read(self.path)


def made_up_predictions(
    label: np.ndarray, right: np.ndarray, temperature: float | None, nll: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Predictions of two classes that are right where `right` says, also at a temperature."""
    probability = np.where(right, 0.9, 0.2) if nll is None else np.exp(-nll)
    said = {
        "predicted": np.where(right, label, 1 - label),
        "probability": probability,
        **made_up_scores(probability),
    }
    if temperature is not None:
        scores = made_up_scores(1 / (1 + (1 / probability - 1) ** (1 / temperature)))
        said |= {f"{name}_calibrated": values for name, values in scores.items()}
    return said


def made_up_scores(probability: np.ndarray) -> dict[str, np.ndarray]:
    """Scores by the probability of the label, where there are two classes."""
    return {
        "confidence": np.maximum(probability, 1 - probability),
        "nll": -np.log(probability),
        "brier": 2 * (1 - probability) ** 2,
    }


def usual(folder: Path, name: str = "made-up", spec: Experiment | None = None) -> Writer:
    """Two baselines and an SWA trial on each, all completed; 200 validation images.

    base-0 (lr 1e-3) 0.90, base-1 (lr 3e-3) 0.88; swa-0 (lr 1e-3) 0.93, swa-1 (lr 3e-3) 0.89.
    """
    writer = Writer(folder, spec or experiment(name=name))
    writer.trial("base-0", {"lr": 1e-3}, [0.5, 0.92, 0.8, 0.90])
    writer.trial("base-1", {"lr": 3e-3}, [0.5, 0.6, 0.8, 0.88])
    writer.trial("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}, [0.5, 0.92, 0.91, 0.93])
    writer.trial("swa-1", {"lr": 3e-3, "swa_start": 0, "swa_lr": 2e-3}, [0.5, 0.6, 0.8, 0.89])
    return writer


SWA_ARM = {
    "name": "swa-0",
    "kind": "swa",
    "params": {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4},
    "roles": ["finalist"],
}
SECOND_ARM = {
    "name": "swa-1",
    "kind": "swa",
    "params": {"lr": 3e-3, "swa_start": 0, "swa_lr": 2e-3},
    "roles": ["finalist"],
}
TUNED_ARM = {"name": "base-0", "kind": "baseline", "params": {"lr": 1e-3}, "roles": ["baseline", "trunk"]}
TRUNK_ARM = {"name": "base-1", "kind": "baseline", "params": {"lr": 3e-3}, "roles": ["trunk"]}


def confirmed(
    folder: Path,
    *,
    gain: float = 0.1,
    seeds: Sequence[int] = (8, 9, 10, 11, 12),
    images: int = 400,
    writer: Writer | None = None,
    number: int = 1,
) -> Writer:
    """`usual`, and fresh seeds of two finalists, the tuned baseline and another trunk.

    Baselines are right on 80 % of the images, the first finalist on `gain` more, the second on as many.
    """
    writer = writer or usual(folder)
    drawn = np.random.default_rng(3)
    arms = [SWA_ARM, SECOND_ARM, TUNED_ARM, TRUNK_ARM]
    writer.look(arms, seeds, number)
    for seed in seeds:
        for arm in arms[::-1]:
            chance = 0.8 + (gain if arm is SWA_ARM else 0.0)
            validation = 0.95 if arm is SWA_ARM else 0.9
            writer.tested(arm, seed, drawn.random(images) < chance, validation=validation)
    return writer
