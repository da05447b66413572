"""Measurements of benchmarks/gpu.py: what a trial costs on this device."""

from __future__ import annotations

import copy
import heapq
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from gpu_checks import choose_numerics, free_memory
from gpu_images import PARTS, folder_spec, write_folders
from gpu_parts import Bench, Child, Failed, Figure, NotHere, Part, Record, expect, first_line, summarise
from throughput import seconds_of_epoch, seconds_resident
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tune_swa.data.batches import batch_sizes
from tune_swa.data.dataset import Dataset, prepare
from tune_swa.spec import RunSettings, TrainSpec
from tune_swa.training.loop import Run
from tune_swa.training.numerics import Numerics, resolve

TUTORIAL_EPOCHS = 120
TUTORIAL_BRANCHES = {60: 1, 75: 1, 90: 5}
"""The tutorial's table: its SWA runs by the epoch that they start from, on one trunk. The baseline has a warm-up,
so that its trunk is its own."""
TUTORIAL_IMAGES = 14_034
COMPILED = 2
"""Epochs of one batch that a compiled network gets before it is timed."""


# --------------------------------------------------------------------------------------- helpers


def open_images(bench: Bench, size: int) -> Dataset:
    """The drawn folder at `size` pixels, decoded by the first part that asks."""
    os.environ["TUNE_SWA_CACHE"] = str(bench.folder / "decoded")
    return prepare(folder_spec(size), bench.images)


def new_run(
    bench: Bench, data: Dataset, numerics: Numerics | None = None, *, start: int | None = None, **options: Any
) -> Run:
    """A run of the tutorial's recipe that goes on for ever; it averages after epoch `start`."""
    size = data.images.shape[1]
    train = TrainSpec(epochs=10_000, batch_size=bench.batch_size, augment=("hflip",))
    numerics = numerics or resolve(train, size, device=bench.device, threads=1)
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
    size = min(run.settings.train.batch_size, len(run._train))
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
    count, sizes = len(data.train), batch_sizes(len(data.train), bench.batch_size)
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
    steps = [transforms.Resize((size, size)), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = ImageFolder(str(bench.images / PARTS[0][0]), transforms.Compose(steps))
    loader: DataLoader[Any] = DataLoader(
        images, bench.batch_size, shuffle=True, num_workers=bench.workers, pin_memory=bench.on_gpu,
        persistent_workers=bench.workers > 0, drop_last=True,
    )  # fmt: skip
    run.model.train()
    batches = _forever(loader)
    step_on(run, *next(batches))  # the workers have started
    rates = []
    for _ in range(bench.repeat):
        begun, count = read_clock(bench), 0
        while count < 2 * bench.batch_size or time.perf_counter() - begun < bench.seconds:
            pictures, labels = next(batches)
            step_on(run, pictures, labels)
            count += len(labels)
        rates.append(count / (read_clock(bench) - begun))
    return rates


def _forever(loader: DataLoader[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from loader


def step_on(run: Run, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One optimizer step on a batch of the host."""
    images = images.to(run.device, non_blocking=True, memory_format=run.numerics.memory_format)
    labels = labels.to(run.device, non_blocking=True)
    run.optimizer.zero_grad(set_to_none=True)
    with run.numerics.autocast():
        loss = nn.functional.cross_entropy(run._forward(images), labels)
    run.scaler.scale(loss).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()


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
        except NotHere as error:
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
    numerics = resolve(TrainSpec(), size, device=bench.device, threads=1)
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
    off = "; compiling was switched off (TORCH_COMPILE_DISABLE)" if compiling_is_off() else ""
    return f"{size} px: {statistics.median(rates) / plain:.2f} times as fast after {took:.0f} s of compiling{off}"


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
    evaluation = _repeat(bench, lambda: run._evaluate(run.model))
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
        f"{size} px: trunk {statistics.median(trunk):.3g} s, branch {statistics.median(branch):.3g} s ({ratio:.2f} times "
        f"training alone), {peak_memory(bench) / 1e9:.2f} GB ({len(data.train):,} images, {run.numerics.precision})"
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
    run.averaging.refresh(run._batches("bn"), run.numerics.autocast())


def _refresh_as_torch(run: Run, average: nn.Module) -> None:
    with run.numerics.autocast():
        update_bn((images for images, _ in run._batches("bn")), average)


def measure_context(bench: Bench, record: Record) -> str:
    """What a process takes of the card beside the memory that torch counts."""
    if not bench.on_gpu:
        child = Child(hold_device, bench)
        held = child.receive()
        child.end()
        record(Figure("memory of a process that has trained a step", held / 1e9, "GB"))
        return f"a CPU has no contexts; a process that has trained a step takes {held / 1e9:.2f} GB"
    before = torch.cuda.mem_get_info()[0]
    child = Child(hold_device, bench)
    try:
        reserved = child.receive()
        taken = before - torch.cuda.mem_get_info()[0]
    finally:
        child.end()
    context = taken - reserved
    record(Figure("context", context / 1e9, "GB"))
    record(Figure("taken in all", taken / 1e9, "GB"))
    expect(
        context > 0, f"free memory fell by {taken}, of which torch reserved {reserved}: others use this GPU"
    )
    return f"{context / 1e9:.2f} GB beside the {reserved / 1e9:.2f} GB of torch's allocator"


def hold_device(connection: Connection, bench: Bench) -> None:
    """Train a step at the small size, say what the process has taken, and keep it until told to end."""
    torch.set_num_threads(1)
    data = open_images(bench, bench.small)
    run = new_run(bench, replace(data, train=data.train[: bench.batch_size], val=data.val[:2]))
    run.train_epoch()
    read_clock(bench)
    connection.send(torch.cuda.memory_reserved() if bench.on_gpu else peak_memory(bench))
    with suppress(EOFError):
        connection.recv()


@dataclass(frozen=True)
class Timed:
    """What one of several trials at once measured."""

    trunk: list[float]
    """Seconds an epoch."""
    branch: list[float]
    rate: float
    """Images per second of its training."""
    memory: float
    """Bytes at most."""
    images: int
    """Of an epoch."""


def measure_at_once(bench: Bench, record: Record) -> str:
    """One, two and four trials on the device: seconds of their epochs, images per second of all."""
    children: list[Child] = []
    rates: dict[int, float] = {}
    failures = []
    try:
        for together in bench.at_once:
            children += [Child(train_beside_others, bench) for _ in range(together - len(children))]
            results = _run_together(children, 1 / together)
            failed = [r for r in results if isinstance(r, str)]
            if failed:
                failures.append(f"{together} at once: {failed[0]}")
                record(Figure(f"{together} at once", failed[0]))
                continue
            timed = [r for r in results if isinstance(r, Timed)]
            rates[together] = sum(r.rate for r in timed)
            scale = TUTORIAL_IMAGES * PARTS[0][1] / timed[0].images
            for name in ("trunk", "branch"):
                seconds = [scale * value for r in timed for value in getattr(r, name)]
                record(summarise(f"{together} at once, {name} epoch of the tutorial", seconds, "s"))
            record(Figure(f"{together} at once, images/s of all", rates[together], "images/s"))
            record(Figure(f"{together} at once, memory of one", max(r.memory for r in timed) / 1e9, "GB"))
    finally:
        for child in children:
            child.end()
    if not rates:
        raise Failed("; ".join(failures))
    alone = rates.get(1)
    gains = [
        f"{n}: {rate:,.0f} images/s" + (f" ({rate / alone:.2f} times)" if alone and n > 1 else "")
        for n, rate in rates.items()
    ]
    return "; ".join(gains + failures)


def _run_together(children: Sequence[Child], share: float) -> list[Timed | str]:
    """Have every child train at its share of the device, and start to measure at the same time."""
    for child in children:
        child.send(share)
    ready = [child.receive() for child in children]
    for child in children:
        child.send("go" if all(said == "ready" for said in ready) else "stop")
    return [child.receive() for child in children]


def train_beside_others(connection: Connection, bench: Bench) -> None:
    """Serve shares of the device: train the full recipe in each, send a `Timed` or an error's text."""
    torch.set_num_threads(1)
    whole = open_images(bench, bench.large)
    rate: float | None = None
    with suppress(EOFError):
        while (share := connection.recv()) is not None:
            try:
                if bench.on_gpu:
                    torch.cuda.set_per_process_memory_fraction(share)
                if rate is None:
                    rate = find_rate(new_run(bench, whole))
                data = shorten_epoch(bench, whole, rate, 1.0)
                free_memory()
                if bench.on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                run = new_run(bench, data, start=bench.repeat)
                run.run_epoch()
                ready = "ready"
            except Exception as error:
                ready = first_line(error)
            connection.send(ready)
            if connection.recv() != "go":
                connection.send(ready if ready != "ready" else "another one could not start")
                continue
            try:
                connection.send(_time_trial(bench, run))
            except Exception as error:
                connection.send(first_line(error))
            del run
            free_memory()


def _time_trial(bench: Bench, run: Run) -> Timed:
    records, seconds = [], []
    for _ in range(2 * bench.repeat + 1):
        begun = read_clock(bench)
        records.append(run.run_epoch())
        seconds.append(read_clock(bench) - begun)
    trunk, branch = seconds[: bench.repeat], seconds[bench.repeat + 1 :]
    rate = statistics.median(r.images_per_second for r in records)
    return Timed(trunk, branch, rate, peak_memory(bench), len(run._train))


def measure_second_trial(bench: Bench, record: Record) -> str:
    """Seconds from the start of a trial until its first step is done, in one worker process."""
    begun = time.perf_counter()
    torch.zeros(1, device=bench.device)
    record(Figure("making the context", read_clock(bench) - begun, "s"))
    data = open_images(bench, bench.large)
    found: dict[str, float] = {}

    def start_trial(name: str) -> None:
        begun = read_clock(bench)
        run = new_run(bench, data)
        seconds_resident(run, [min(bench.batch_size, len(data.train))])
        found[name] = read_clock(bench) - begun
        del run
        free_memory()

    def run_in_thread(*names: str) -> None:
        thread = threading.Thread(target=lambda: [start_trial(name) for name in names])
        thread.start()
        thread.join()

    run_in_thread("the first trial", "the second, in the same thread")
    run_in_thread("the third, in a new thread")
    expect(len(found) == 3, "a trial did not start: see above")
    for name, seconds in found.items():
        record(Figure(name, seconds, "s"))
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items())


MEASURES: tuple[Part, ...] = (
    Part("preparing images", "measurement", prepare_images, 90),
    Part("images/s, large", "measurement", lambda b, r: measure_throughput(b, r, b.large), 60),
    Part("epochs, large", "measurement", lambda b, r: measure_epochs(b, r, b.large), 90),
    Part("precisions, large", "measurement", lambda b, r: measure_precisions(b, r, b.large), 60),
    Part("context of a process", "measurement", measure_context, 40),
    Part("trials at once", "measurement", measure_at_once, 120, fresh=True),
    Part("a second trial's first step", "measurement", measure_second_trial, 60, fresh=True),
    Part("images/s, small", "measurement", lambda b, r: measure_throughput(b, r, b.small), 60),
    Part("epochs, small", "measurement", lambda b, r: measure_epochs(b, r, b.small), 60),
    Part("precisions, small", "measurement", lambda b, r: measure_precisions(b, r, b.small), 40),
    Part("compiled, large", "measurement", lambda b, r: measure_compile(b, r, b.large), 120, fresh=True),
    Part("compiled, small", "measurement", lambda b, r: measure_compile(b, r, b.small), 90, fresh=True),
)


# ---------------------------------------------------------------------------- the tutorial's table


def predict_table(trunk: dict[int, float], branch: dict[int, float], slots: int) -> float:
    """Seconds that the tutorial's eight rows take on one device, trunks shared.

    Args:
        trunk: seconds of a trunk epoch by the number of trials at once.
        branch: the same of a branch epoch.
        slots: how many trials run at once.

    Returns:
        The end of a simulated search: trials wait for their trunk's epochs and for a free slot, and every epoch
        takes what it takes beside so many others.
    """
    fork = {start: start + 2 for start in TUTORIAL_BRANCHES}  # trunk epochs before a branch begins
    longest = max(fork.values())
    waiting: list[tuple[int, int, float]] = []  # trunk epochs needed, order, branch epochs
    for start, runs in TUTORIAL_BRANCHES.items():
        # the run that trains the trunk is the last to leave it, and goes on as one of its branches
        for number in range(runs - (fork[start] == longest)):
            heapq.heappush(waiting, (fork[start], number, float(TUTORIAL_EPOCHS - fork[start])))
    running: list[list[tuple[bool, float]]] = [
        [(True, float(longest)), (False, float(TUTORIAL_EPOCHS - longest))],
        [(True, float(TUTORIAL_EPOCHS))],
    ]
    queued = running[slots:]
    running = running[:slots]
    now, shared_trunk = 0.0, running[0]
    trained = 0.0
    while running or queued or waiting:
        while len(running) < slots and (queued or (waiting and waiting[0][0] <= trained + 1e-9)):
            running.append(queued.pop(0) if queued else [(False, heapq.heappop(waiting)[2])])
        speeds = [1 / _seconds_beside(trunk if run[0][0] else branch, len(running)) for run in running]
        steps = [run[0][1] / speed for run, speed in zip(running, speeds, strict=True)]
        if waiting and shared_trunk in running and shared_trunk[0][0]:
            at = next(i for i, run in enumerate(running) if run is shared_trunk)
            if waiting[0][0] > trained:
                steps.append((waiting[0][0] - trained) / speeds[at])
        step = min(steps)
        now += step
        for run, speed in zip(running, speeds, strict=True):
            kind, left = run[0]
            if run is shared_trunk and kind:
                trained += step * speed
            run[0] = (kind, left - step * speed)
            if run[0][1] <= 1e-9:
                run.pop(0)
        running = [run for run in running if run]
    return now


def _seconds_beside(seconds: dict[int, float], together: int) -> float:
    """Of an epoch with so many trials at once: as measured, or in between what was measured."""
    below = max((n for n in seconds if n <= together), default=min(seconds))
    above = min((n for n in seconds if n >= together), default=max(seconds))
    if below == above:
        return seconds[below]
    share = (together - below) / (above - below)
    return seconds[below] + share * (seconds[above] - seconds[below])
