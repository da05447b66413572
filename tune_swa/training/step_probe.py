"""Measure the memory and the time that a trial takes of a GPU, in a process of its own.

The trial that is tried out is the one that takes most of a space. It runs the code that trials run, on
made-up images: an epoch before averaging and two after, batch-normalisation refresh, evaluation, a
checkpoint written and read again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tune_swa.averaging.frozen_statistics import set_training
from tune_swa.data.dataset import Dataset
from tune_swa.hardware.gpu_memory import CONTEXT_BYTES, is_memory_exhausted, release_memory
from tune_swa.scratch import scratch_folder
from tune_swa.text import first_line
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.run import Run
from tune_swa.training.trial_cost import EPOCHS, TrialCost, Workload

BATCHES = 2
"""Batches in each of these epochs: the second finds the memory of the first still taken."""
STEPS = 2
"""Timed together. Few, since no more than about a thousand kernels can wait for the GPU: with more, the
host would be timed while it waits for the GPU."""
REPETITIONS = 8
"""Of which the fastest counts: the first ones choose kernels."""
SLEEP_FREQUENCY = 3e9
"""Cycles a second that no GPU's clock exceeds, so that one told to wait does not wake too early."""
LEAST_CONTEXT, MOST_CONTEXT = 50_000_000, 3_000_000_000
"""Bytes between which a CUDA context is thought to lie. A measurement outside of that has met another
process that took memory, or gave some back."""


def measure_trial(workload: dict[str, Any]) -> dict[str, Any]:
    """Try a trial out on the GPU that this process sees first, or on the CPU.

    Args:
        workload: a `Workload` as a dictionary.

    Returns:
        A `TrialCost` as a dictionary.
    """
    tried = Workload.from_dict(workload)
    torch.set_num_threads(tried.numerics.threads)
    return asdict(_measure_gpu(tried) if tried.numerics.device == "cuda" else _measure_cpu(tried))


def _measure_cpu(workload: Workload) -> TrialCost:
    before = _peak_resident_bytes()
    host, device = _time_steps(_run_trial(workload), workload)
    return TrialCost("cpu", 0, _peak_resident_bytes() - before, 0, host, device)


def _measure_gpu(workload: Workload) -> TrialCost:
    bare = _measure_bare_context()
    free, memory = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    name = torch.cuda.get_device_name()
    try:
        run = _run_trial(workload)
        peak = torch.cuda.max_memory_reserved()
        # kernels are loaded when they are first called, into memory that torch's allocator does not count
        loaded = free - torch.cuda.mem_get_info()[0] - (torch.cuda.memory_reserved() - reserved)
        host, device = _time_steps(run, workload)
    except RuntimeError as error:
        if not is_memory_exhausted(error):  # cuBLAS and cuDNN allocate for themselves, too
            raise
        return TrialCost(name, memory, 0, 0, 0.0, 0.0, first_line(error), free)
    context = bare + loaded
    if not LEAST_CONTEXT <= context <= MOST_CONTEXT:
        context = CONTEXT_BYTES
    return TrialCost(name, memory, peak, context, host, device, free=free)


def _run_trial(workload: Workload) -> Run:
    """Go through a trial, and return a run that could go on training."""
    settings, numerics = workload.settings, workload.numerics
    data = _make_images(workload)
    run = Run(settings, data, numerics, stream_images=True)
    while run.epoch < EPOCHS - 1:
        run.run_epoch()
    with scratch_folder("probe-") as folder:
        path = folder / "epoch.pt"
        checkpoints.save_checkpoint(run.state_dict(), path)
        del run  # a worker's next trial begins when the last one has gone
        if numerics.device == "cuda":
            _forget_peak()
        run = Run(settings, data, numerics, stream_images=True)
        run.load_state_dict(checkpoints.load_checkpoint(path, run.device))
    run.run_epoch()
    run.predict_test_images()
    return run


def _forget_peak() -> None:
    """Begin to measure the memory anew, now that cuDNN has chosen its kernels.

    To choose, it tries plans whose workspaces take whatever is free of the GPU, gigabytes that no trial
    needs: a plan that finds no room for its workspace is left out. What follows is a trial's fullest epoch.
    """
    release_memory()
    torch.cuda.reset_peak_memory_stats()


def _make_images(workload: Workload) -> Dataset:
    """Black images, in as many batches as are trained; such pages of zeros take no memory of the host."""
    refreshed = workload.settings.averaging.bn_batch_size or 0
    train = max(BATCHES * workload.batch_size, min(refreshed, workload.train_images))
    val = min(workload.settings.train.eval_batch_size, workload.val_images)
    count, side = train + val, workload.image_size
    rows = np.arange(count)
    return Dataset(
        name="made up",
        class_names=tuple(map(str, range(workload.num_classes))),
        images=np.zeros((count, side, side, 3), dtype=np.uint8),
        labels=rows % workload.num_classes,
        train=rows[:train],
        val=rows[train:],
        test=rows[train:],
        fingerprint="",
    )


def _time_steps(run: Run, workload: Workload) -> tuple[float, float]:
    """Seconds of the host and of the GPU that a training step takes, each without waiting for the other."""
    side, size = workload.image_size, workload.batch_size
    images = torch.rand(size, 3, side, side, device=run.device)
    images = images.contiguous(memory_format=run.numerics.memory_format)
    labels = torch.arange(size, device=run.device) % workload.num_classes

    def train() -> None:
        for _ in range(STEPS):
            run.train_batch(images, labels)

    set_training(run.model)
    host, both = [], []
    for _ in range(REPETITIONS):
        _wait_for_device(run.device)
        begun = time.perf_counter()
        train()
        host.append(time.perf_counter() - begun)
        _wait_for_device(run.device)
        both.append(time.perf_counter() - begun)
    device = min(both)
    if run.device.type == "cuda":
        device = min(device, *(_time_device(train, min(host)) for _ in range(REPETITIONS)))
    return min(host) / STEPS, device / STEPS


def _time_device(train: Callable[[], None], host_seconds: float) -> float:
    """Seconds that the GPU works if it never waits for the host: it begins when everything is queued."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    torch.cuda._sleep(int(SLEEP_FREQUENCY * 2 * host_seconds))  # type: ignore[no-untyped-call]
    begin.record()
    train()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def _wait_for_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


WATCHER = "import sys, torch; print(torch.cuda.mem_get_info()[0], flush=True); sys.stdin.read()"
"""A process that prints how much of the GPU is free, and ends when its input is closed."""


def _measure_bare_context() -> int:
    """Initialise CUDA here, and return the bytes that this took of the GPU.

    Only a process with a context can ask for the memory that is free, so another one does before.
    """
    paths = [os.environ.get("PYTHONPATH"), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", WATCHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as watcher:
        assert watcher.stdout is not None
        before = watcher.stdout.readline().strip()
        torch.zeros(1, device="cuda")
        free = torch.cuda.mem_get_info()[0]
    return int(before) - free - torch.cuda.memory_reserved() if before.isdigit() else 0


def _peak_resident_bytes() -> int:
    """Return the peak memory of this process (getrusage counts its parent's, too)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
