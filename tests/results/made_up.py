"""Made-up experiments: journals written with the real writer, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_swa.journal import ExperimentState, Journal
from tune_swa.spec import Experiment

SPACE: dict[str, Any] = {
    "lr": {"choice": [1e-3, 3e-3]},
    "swa_start": {"int": [0, 2]},
    "swa_lr": {"log_uniform": [1e-4, 1e-2]},
}


def experiment(**changes: Any) -> Experiment:
    """Four epochs of a space with the three core parameters; `changes` replace whole sections."""
    plain = {"name": "made-up", "train": {"epochs": 4}, "space": SPACE, "search": {"seed": 7}}
    return Experiment.model_validate({**plain, **changes})


class Writer:
    """Writes the events that a search would, with values of our choice."""

    def __init__(self, folder: Path, spec: Experiment | None = None, images: int = 200) -> None:
        self.path = folder / "journal.jsonl"
        self.spec = spec or experiment()
        self.journal = Journal(self.path)
        self.journal.append(
            "created",
            format=1,
            version="0.1.0",
            spec=self.spec.model_dump(mode="json", by_alias=True),
            identity={},
            data={
                "name": "digits",
                "fingerprint": "f00d",
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

    def session(self, number: int) -> None:
        self.journal.append("session", number=number, slots=1, gpus=0, cpus=1, resumed=number > 1)

    def suggest(
        self, name: str, params: dict[str, Any], stage: str = "search", seed: int | None = None
    ) -> None:
        """A trial is a baseline where its name says so."""
        baseline = name.startswith("base")
        start = None if baseline else params.get("swa_start", self.spec.constants.get("swa_start"))
        self.journal.append(
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
        )

    def start(self, name: str) -> None:
        self.journal.append("started", trial=name, device="cpu", attempt=1, from_epoch=0)

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
    ) -> None:
        own = shared_from is None
        self.journal.append(
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
            },
            decision="continue",
            rung=None,
            checkpoint=checkpoint,
        )

    def end(
        self,
        name: str,
        status: str = "completed",
        error: str | None = None,
        value: float | None = None,
    ) -> None:
        self.journal.append("ended", trial=name, status=status, value=value, error=error)

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

    def state(self) -> ExperimentState:
        return ExperimentState.read(self.path)


def usual(folder: Path, name: str = "made-up") -> Writer:
    """Two baselines and an SWA trial on each, all completed; 200 validation images.

    base-0 (lr 1e-3) 0.90, base-1 (lr 3e-3) 0.88; swa-0 (lr 1e-3) 0.93, swa-1 (lr 3e-3) 0.89.
    """
    writer = Writer(folder, experiment(name=name))
    writer.trial("base-0", {"lr": 1e-3}, [0.5, 0.92, 0.8, 0.90])
    writer.trial("base-1", {"lr": 3e-3}, [0.5, 0.6, 0.8, 0.88])
    writer.trial("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}, [0.5, 0.92, 0.91, 0.93])
    writer.trial("swa-1", {"lr": 3e-3, "swa_start": 0, "swa_lr": 2e-3}, [0.5, 0.6, 0.8, 0.89])
    return writer
