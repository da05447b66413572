"""A CUDA error that a process does not survive costs one trial one retry, and no other trial anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from test_two_gpus import search  # type: ignore[import-not-found]

from helpers import ray_trials
from helpers.local_worker import Worker
from tune_swa.execution import trainable
from tune_swa.experiment.journal import read_events
from tune_swa.hardware.gpu_failure import is_gpu_lost
from tune_swa.training.run import Run

SPACE = {"lr": 1e-3, "swa_start": 1, "swa_lr": {"choice": [1e-4, 1e-3, 1e-2, 0.1]}}


class Exited(BaseException):
    """In place of the end of the tests' own process."""


def test_a_process_that_has_lost_its_gpu_says_so_and_ends(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(run: Run) -> float:
        raise ray_trials.sticky_error()

    def leave(status: int) -> None:
        raise Exited(status)

    monkeypatch.setattr(Run, "train_epoch", lose)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Exited, match=str(trainable.LEAVING_EXIT)):
        worker.train()
    last = worker.messages[-1]
    assert last["event"] == "lost"
    assert last["reason"] == "AcceleratorError: CUDA error: an illegal memory access was encountered"


def with_code(code: int) -> Exception:
    error = torch.AcceleratorError("CUDA error: whatever")
    error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (with_code(700), True),
        (with_code(214), True),
        (with_code(2), False),
        (with_code(9), False),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: unspecified launch failure\nadvice"), True),
        (RuntimeError("CUDA error: invalid configuration argument"), False),
        (ValueError("an illegal memory access"), False),
    ],
)
def test_which_errors_a_process_does_not_survive(error: Exception, lost: bool) -> None:
    assert is_gpu_lost(error, on_gpu=False) == lost


def test_after_any_error_the_gpu_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel did wrong surfaces in any later call, under any name."""

    def initialise() -> None:
        raise ray_trials.sticky_error()

    monkeypatch.setattr(torch.cuda, "_lazy_init", initialise)
    assert is_gpu_lost(IndexError("odd"), on_gpu=True)
    assert not is_gpu_lost(IndexError("odd"), on_gpu=False)


def test_one_trial_is_retried_and_all_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_ray: None
) -> None:
    """The process raises in whatever it trains from then on, so it must not be used again."""
    state = search(
        tmp_path, monkeypatch, SPACE, trial=ray_trials.trial_that_loses_its_gpu,
        search={"sampler": "grid", "share": False}, epochs=3, gpus=1,
    )  # fmt: skip
    assert {t.status for t in state.trials.values()} == {"completed"}
    assert sorted(t.attempts for t in state.trials.values()) == [1, 1, 1, 1, 2]
    events = list(read_events(tmp_path / "two" / "journal.jsonl"))
    [lost] = [e for e in events if e["event"] == "lost"]
    assert state.trials[lost["trial"]].attempts == 2
    assert "illegal memory access" in lost["reason"]
    gone = int((tmp_path / "two" / "lost").read_text())
    assert not Path(f"/proc/{gone}").exists()
    used = (tmp_path / "two" / "processes").read_text().split()
    trained = {int(pid): used.count(pid) for pid in used}
    assert (
        trained[gone] <= 2
    )  # the trial that lost it, and perhaps one before; with it kept, all later ones, too


def test_a_trial_that_loses_every_gpu_fails_with_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_ray: None
) -> None:
    state = search(
        tmp_path, monkeypatch, {**SPACE, "swa_lr": 1e-3}, trial=ray_trials.trial_that_always_loses_its_gpu,
        search={"sampler": "grid", "share": False, "max_failures": 1}, epochs=3, gpus=1,
    )  # fmt: skip
    trial = state.trials["swa-0000"]
    assert trial.status == "failed"
    assert str(trial.error).startswith(
        "its worker process died (2 times): the GPU could not be used any more (AcceleratorError: CUDA "
        "error: an illegal memory access was encountered, on cpu x1 of "
    )
    assert state.trials["baseline-0000"].status == "completed"
