"""Runs the trainable in the tests' own process, and keeps what it reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_swa.config import DataSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.execution import trainable, trial_reports
from tune_swa.execution.trainable import train_trial
from tune_swa.execution.trial_context import TrialContext
from tune_swa.storage import FolderStore
from tune_swa.training.numerics import Numerics


class Worker:
    """A worker without Ray: it plays the driver's part of every report, too."""

    def __init__(self, data: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages: list[dict[str, Any]] = []
        self.context = TrialContext(
            store=FolderStore(folder),
            data=DataSpec(),
            data_dir=None,
            fingerprint=data.fingerprint,
            numerics=Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False),
            torch=torch.__version__,
            weights=None,
            checkpoint_every=1,
            keep_all=False,
        )
        self.settings = RunSettings(
            lr=1e-3, swa_start=1, swa_lr=1e-3, train=TrainSpec(epochs=3, batch_size=16)
        )
        monkeypatch.setattr(trainable, "prepare_dataset", lambda *_: data)
        monkeypatch.setattr(trainable, "_dataset", None)
        monkeypatch.setattr(
            trial_reports.tune, "report", lambda result: self.messages.append(json.loads(result["payload"]))
        )

    def train(self, **more: Any) -> dict[str, Any]:
        """Run the trial; returns the last message."""
        config = {"trial": "swa-0000", "settings": self.settings.model_dump(mode="json")}
        config |= {
            "recorded_epochs": 0,
            "checkpoints": [],
            "trunk": "t",
            "publish": [],
            "score": [],
            "nll_sd": False,
            "ensemble": False,
            "published": [],
            "gpus": 0.0,
            "test": False,
        }
        train_trial({**config, **more}, self.context)
        return self.messages[-1]

    def warm_up(self) -> None:
        """Have the worker wait for its first trial."""
        settings = self.settings.model_dump(mode="json")
        train_trial({"trial": None, "gpus": 0.0, "settings": settings}, self.context)
