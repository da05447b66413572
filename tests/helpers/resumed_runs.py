"""Runs that are stopped and resumed after every epoch, against one that is not."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from tune_swa.config import RunSettings
from tune_swa.data.dataset import Dataset
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.numerics import Numerics
from tune_swa.training.records import EpochRecord
from tune_swa.training.run import Run

NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)
TIMES = {"train_seconds", "bn_seconds", "eval_seconds", "images_per_second"}


def facts(record: EpochRecord | None) -> dict[str, object]:
    """A record without its times."""
    assert record is not None
    return {name: value for name, value in record.as_dict().items() if name not in TIMES}


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    """Compare weights and statistics bit for bit."""
    one, other = left.state_dict(), right.state_dict()
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def resume_everywhere(settings: RunSettings, data: Dataset, folder: Path) -> tuple[Run, Run]:
    """Train a run that is saved and restored after every epoch, and compare its records and weights with
    those of a run that is left alone.

    Returns:
        The resumed run and the other one, both at their ends.
    """
    straight = Run(settings, data, NUMERICS)
    expected = [facts(record) for record in straight]
    run = Run(settings, data, NUMERICS)
    for epoch, record in enumerate(expected):
        path = folder / f"{epoch}.pt"
        assert facts(run.run_epoch()) == record
        checkpoints.save_checkpoint(run.state_dict(), path)
        # as a worker gets its settings
        again = RunSettings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json"))))
        run = Run(again, data, NUMERICS)
        run.load_state_dict(checkpoints.load_checkpoint(path))
        assert facts(run.record) == record
    assert_same_weights(run.shipped_model, straight.shipped_model)
    assert_same_weights(run.model, straight.model)
    return run, straight
