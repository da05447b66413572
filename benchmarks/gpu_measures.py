"""Measurements of benchmarks/gpu.py: what a trial costs on this device."""

from __future__ import annotations

import copy
import itertools
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gpu_checks import choose_numerics, free_memory
from gpu_images import PARTS, folder_spec, write_folders
from gpu_parts import (
    Bench,
    Figure,
    NotOnThisDeviceError,
    Record,
    summarise,
)
from gpu_table import TUTORIAL_IMAGES
from timed_steps import seconds_of_epoch, seconds_resident, take_step
from torch import nn
from torch.optim.swa_utils import update_bn

from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data.batches import list_batch_sizes
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.training.numerics import Numerics, decide_numerics
from tune_swa.training.run import Run

# --------------------------------------------------------------------------------------- helpers


def open_images(bench: Bench, size: int) -> Dataset:
    """The drawn folder at `size` pixels, decoded by the first part that asks."""
    os.environ["TUNE_SWA_CACHE"] = str(bench.folder / "decoded")
    return prepare_dataset(folder_spec(size), bench.images)


def new_run(
    bench: Bench, data: Dataset, numerics: Numerics | None = None, *, start: int | None = None, **options: Any
) -> Run:
    """A run of the tutorial's recipe that goes on for ever; it averages after epoch `start`."""
    size = data.images.shape[1]
    train = TrainSpec(epochs=10_000, batch_size=bench.batch_size, augment=("hflip",))
    numerics = numerics or decide_numerics(train, size, device=bench.device, threads=1)
    rates = {"lr": 1e-4} if start is None else {"lr": 1e-4, "swa_start": start, "swa_lr": 5e-5}
    return Run(RunSettings.model_validate({**rates, "train": train}), data, numerics, **options)


def read_clock(bench: Bench) -> float:
    """Seconds, the device's work done."""
    if bench.on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(bench: Bench) -> float:
    """Bytes that torch took from the device at most; on a CPU, the process's memory at most."""
    if bench.on_gpu:
        return float(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def shorten_epoch(bench: Bench, data: Dataset, rate: float, repetitions: float = 1.0) -> Dataset:
    """The images that an epoch gets through in `repetitions` x `bench.seconds`: all of them on a fast card.

    Args:
        bench: the sizes.
        data: all images.
        rate: images per second.
        repetitions: of `bench.seconds`.
    """
    wanted = int(rate * bench.seconds * repetitions)
    batches = max(3, wanted // bench.batch_size)
    images = min(len(data.train), batches * bench.batch_size)
    share = images / len(data.train)
    return replace(data, train=data.train[:images], val=data.val[: max(2, round(share * len(data.val)))])


def find_rate(run: Run) -> float:
    """Images per second on one resident batch, once kernels are chosen and memory is taken."""
    size = min(run.settings.train.batch_size, len(run.images.train))
    seconds_resident(run, [size] * 2)
    return 3 * size / seconds_resident(run, [size] * 3)


# -------------------------------------------------------------------------------- measurements


def prepare_images(bench: Bench, record: Record) -> str:
    """Draw the JPEG files and decode them at both sizes, as a search's first start does."""
    begun = time.perf_counter()
    write_folders(bench.images, bench.count, len(os.sched_getaffinity(0)))
    record(Figure("drawing the JPEG files", time.perf_counter() - begun, "s"))
    for size in (bench.large, bench.small):
        begun = time.perf_counter()
        data = open_images(bench, size)
        record(Figure(f"decoding them at {size} px", time.perf_counter() - begun, "s"))
        record(Figure(f"decoded, {size} px", data.images.nbytes / 1e9, "GB"))
    return f"{len(data.train):,} images to train with, {len(data.val):,} to validate"


def measure_throughput(bench: Bench, record: Record, size: int) -> str:
    """Images per second of a trial, against one resident batch and against ImageFolder + DataLoader."""
    whole = open_images(bench, size)
    run = new_run(bench, whole)
    rate = find_rate(run)
    data = shorten_epoch(bench, whole, rate)
    run, streamed = new_run(bench, data), new_run(bench, data, stream_images=True)
    count, sizes = len(data.train), list_batch_sizes(len(data.train), bench.batch_size)
    ways: dict[str, Callable[[], float]] = {
        "one resident batch": lambda: count / seconds_resident(run, sizes),
        "a trial": lambda: count / seconds_of_epoch(run),
        "a trial, images streamed": lambda: count / seconds_of_epoch(streamed),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # kernels are chosen, memory is taken
    for _ in range(bench.repeat):
        for name, way in ways.items():
            measured[name].append(way())
    loader = f"ImageFolder + DataLoader, {bench.workers} workers"
    measured[loader] = find_rates_of_loader(bench, run, size)
    for name, rates in measured.items():
        record(summarise(name, rates, "images/s"))
    limit = measured["one resident batch"]
    for name in ("a trial", "a trial, images streamed"):
        ratios = [r / best for r, best in zip(measured[name], limit, strict=True)]
        record(summarise(f"{name}, of the limit", ratios))
    ratio = statistics.median(measured["a trial"]) / statistics.median(measured[loader])
    record(Figure("a trial against the DataLoader", ratio, "times"))
    record(Figure("images an epoch", float(count)))
    return (
        f"{size} px: {statistics.median(measured['a trial']):,.0f} images/s, "
        f"{statistics.median(measured['a trial']) / statistics.median(limit):.2f} of the limit, "
        f"{ratio:.1f} times the DataLoader ({run.numerics.precision}, {count:,} images an epoch)"
    )


def find_rates_of_loader(bench: Bench, run: Run, size: int) -> list[float]:
    """Images per second of the same steps behind a DataLoader, its start left out."""
    from torch.utils.data import DataLoader  # half a second and more, for every process of this script
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.Resize((size, size)), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = ImageFolder(str(bench.images / PARTS[0][0]), transforms.Compose(steps))
    loader: DataLoader[Any] = DataLoader(
        images, bench.batch_size, shuffle=True, num_workers=bench.workers, pin_memory=bench.on_gpu,
        persistent_workers=bench.workers > 0, drop_last=True,
    )  # fmt: skip
    run.model.train()
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    take_step(run, *next(batches))  # the workers have started
    rates = []
    for _ in range(bench.repeat):
        begun, count = read_clock(bench), 0
        while count < 2 * bench.batch_size or time.perf_counter() - begun < bench.seconds:
            pictures, labels = next(batches)
            take_step(run, pictures, labels)
            count += len(labels)
        rates.append(count / (read_clock(bench) - begun))
    return rates


def measure_precisions(bench: Bench, record: Record, size: int) -> str:
    """Steps on one resident batch in every number format, and the memory that they take."""
    whole = open_images(bench, size)
    found = {}
    for precision in ("bf16", "fp16", "tf32", "fp32"):
        if precision == "fp16" and not bench.on_gpu:
            record(Figure(precision, "a CPU is a hundred times as slow with it, and no search uses it there"))
            continue
        try:
            numerics = choose_numerics(bench, precision, size)
        except NotOnThisDeviceError as error:
            record(Figure(precision, str(error)))
            continue
        found[precision] = _measure_steps(bench, record, precision, whole, numerics)
    best = max(found, key=lambda name: found[name])
    rest = ", ".join(f"{name} {rate:,.0f}" for name, rate in found.items())
    return f"{size} px: {best} is the fastest: {rest} images/s"


def _measure_steps(bench: Bench, record: Record, name: str, whole: Dataset, numerics: Numerics) -> float:
    """Images per second on one resident batch, and the peak of memory."""
    free_memory()
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    data = replace(whole, train=whole.train[: bench.batch_size], val=whole.val[:2])
    run = new_run(bench, data, numerics)
    rate = find_rate(run)
    size = len(data.train)
    batches = [size] * max(1, int(rate * bench.seconds / size))
    rates = [size * len(batches) / seconds_resident(run, batches) for _ in range(bench.repeat)]
    record(summarise(name, rates, "images/s"))
    record(Figure(f"memory, {name}", peak_memory(bench) / 1e9, "GB"))
    return statistics.median(rates)


def measure_compile(bench: Bench, record: Record, size: int) -> str:
    """The compiled network against the plain one, and how long compiling takes."""
    whole = open_images(bench, size)
    eager = compiling_is_off() or (not bench.on_gpu and size == bench.small)
    torch.compiler.set_stance("force_eager" if eager else "default")
    numerics = decide_numerics(TrainSpec(), size, device=bench.device, threads=1)
    plain = _measure_steps(bench, record, numerics.precision, whole, numerics)
    data = replace(whole, train=whole.train[: bench.batch_size], val=whole.val[:2])
    run = new_run(bench, data, replace(numerics, compile=True))
    begun = read_clock(bench)
    seconds_resident(run, [len(data.train)])
    took = read_clock(bench) - begun
    record(Figure("until the first compiled step", took, "s"))
    rate = find_rate(run)
    batches = [len(data.train)] * max(1, int(rate * bench.seconds / len(data.train)))
    images = sum(batches)
    rates = [images / seconds_resident(run, batches) for _ in range(bench.repeat)]
    record(summarise(f"{numerics.precision}, compiled", rates, "images/s"))
    off = "; but nothing was compiled, to save a minute of a walk on a CPU" if eager else ""
    gain = statistics.median(rates) / plain
    return f"{size} px: {gain:.2f} times as fast after {took:.0f} s of compiling{off}"


def compiling_is_off() -> bool:
    return os.environ.get("TORCH_COMPILE_DISABLE") == "1"


def measure_epochs(bench: Bench, record: Record, size: int) -> str:
    """Seconds of a trunk epoch and of a branch epoch, of the refresh and of an evaluation; memory."""
    whole = open_images(bench, size)
    data = shorten_epoch(bench, whole, find_rate(new_run(bench, whole)), 1.5)
    free_memory()
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    run = new_run(bench, data, start=bench.repeat)
    run.run_epoch()  # kernels are chosen, memory is taken
    trunk = [_time_epoch(bench, run) for _ in range(bench.repeat)]
    run.run_epoch()  # the first average
    branch = [_time_epoch(bench, run) for _ in range(bench.repeat)]
    assert run.averaging is not None
    refresh = _repeat(bench, partial(_refresh, run))
    theirs = copy.deepcopy(run.averaging.average)
    torchs = _repeat(bench, partial(_refresh_as_torch, run, theirs))
    evaluation = _repeat(bench, lambda: run._evaluate_on_validation(run.model))
    scale = TUTORIAL_IMAGES / (len(data.train) + len(data.val))
    record(Figure("images to train with", float(len(data.train))))
    record(summarise("trunk epoch", trunk, "s"))
    record(summarise("branch epoch", branch, "s"))
    record(summarise("BN refresh", refresh, "s"))
    record(summarise("BN refresh by torch's update_bn", torchs, "s"))
    record(summarise("evaluation", evaluation, "s"))
    record(Figure("trunk epoch of the tutorial", statistics.median(trunk) * scale, "s"))
    record(Figure("branch epoch of the tutorial", statistics.median(branch) * scale, "s"))
    record(Figure("memory of a trial at most", peak_memory(bench) / 1e9, "GB"))
    ratio = statistics.median(branch) / (statistics.median(trunk) - statistics.median(evaluation))
    record(Figure("branch epoch against training alone", ratio, "times"))
    return (
        f"{size} px: trunk {statistics.median(trunk):.3g} s, branch {statistics.median(branch):.3g} s "
        f"({ratio:.2f} times training alone), {peak_memory(bench) / 1e9:.2f} GB "
        f"({len(data.train):,} images, {run.numerics.precision})"
    )


def _time_epoch(bench: Bench, run: Run) -> float:
    begun = read_clock(bench)
    run.run_epoch()
    return read_clock(bench) - begun


def _repeat(bench: Bench, what: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(bench.repeat):
        begun = read_clock(bench)
        what()
        seconds.append(read_clock(bench) - begun)
    return seconds


def _refresh(run: Run) -> None:
    assert run.averaging is not None
    run.refresh_model(run.averaging.average, run.epoch)


def _refresh_as_torch(run: Run, average: nn.Module) -> None:
    with run.numerics.autocast():
        update_bn((images for images, _ in run.draw_batches("bn")), average)
