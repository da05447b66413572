"""Runs a whole search on GPUs that are made up, as a script that is given what `run_search.py` is given.

The GPUs are behind torch's own front end for CUDA (`made_up_gpus`), in the processes that look for them.
Ray, its placement and its workers are real, and so is the training, but on the CPU. That takes five seams:
trials train on the CPU, and a narrow network, the step with which each GPU is tried counts as done, what a
trial takes of a GPU is counted beforehand instead of measured on one, and the machine has more cores than
this one.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

CORES = 8
TRIAL_BYTES, CONTEXT_BYTES = 9_000_000_000, 500_000_000
"""Of a trial of the tutorial's recipe."""


def train_on_its_gpu(config: dict[str, Any], context: Any) -> None:
    """The real trainable. The device that it records is the GPU that Ray gave its process.

    Where `WORKERS` names a folder, a file there has the number of this process for as long as it trains, and
    in it the trial's name.
    """
    from tune_swa.execution import trainable

    narrow_network()
    trainable._describe_device = lambda context: f"GPU {os.environ['CUDA_VISIBLE_DEVICES']}"
    if "WORKERS" not in os.environ or config["trial"] is None:  # warms up: nobody misses such a worker
        trainable.train_trial(config, context)
        return
    note = Path(os.environ["WORKERS"]) / str(os.getpid())
    note.write_text(config["trial"])
    try:
        trainable.train_trial(config, context)
    finally:
        note.unlink()


def narrow_network() -> None:
    """Give ResNet-18 fewer channels: many workers train it on few cores, and keep it after each epoch."""
    import torchvision.models

    from helpers.narrow_resnet import build_narrow_resnet

    torchvision.models.resnet18 = build_narrow_resnet


def arrange() -> None:
    """Put the seams in."""
    import torch  # noqa: F401 - the GPUs of this process are made up as it is imported

    narrow_network()
    from tune_swa.execution import gpu_share, site, slots, trial_loop
    from tune_swa.hardware.gpu_survey import survey_gpus
    from tune_swa.hardware.torch_probe import GpuSurvey
    from tune_swa.training.numerics import decide_numerics
    from tune_swa.training.step_probe import TrialCost, Workload

    def count_cost(workload: Workload, gpu: int) -> TrialCost:
        return TrialCost(
            device="NVIDIA H100 80GB HBM3",
            memory=80 << 30,
            trial_bytes=TRIAL_BYTES,
            context_bytes=CONTEXT_BYTES,
            host_seconds=0.004,  # so that two trials at once are of use
            device_seconds=0.003,
            free=79 << 30,
        )

    @wraps(decide_numerics)
    def resolve_for_cpu(*arguments: Any, **options: Any) -> Any:
        return decide_numerics(*arguments, **{**options, "device": "cpu", "gpus": None})

    def survey_without_step() -> GpuSurvey:
        survey = survey_gpus()
        # workers start after this, and are to find no GPU: training on the CPU asks torch for some, too
        del os.environ["MADE_UP_GPUS"]
        return replace(survey, gpus=tuple(replace(gpu, error=None) for gpu in survey.gpus))

    slots.usable_cores = lambda: CORES
    slots.survey_gpus = survey_without_step
    site.decide_numerics = resolve_for_cpu
    site.measure_trial = gpu_share.measure_trial = count_cost
    trial_loop.train_trial = train_on_its_gpu


if __name__ == "__main__":
    from tune_swa.cli import run_search

    arrange()
    sys.exit(run_search(sys.argv[1:]))
