"""Measurements of benchmarks/gpu.py with processes: contexts, trials at once, the next trial of a worker."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from gpu_checks import free_memory
from gpu_images import PARTS
from gpu_measures import find_rate, new_run, open_images, peak_memory, read_clock, shorten_epoch
from gpu_parts import Bench, CheckFailedError, Child, Figure, Record, expect, first_line, summarise
from gpu_table import TUTORIAL_IMAGES
from timed_steps import seconds_resident

from tune_swa.config import RunSettings, TrainSpec
from tune_swa.execution.gpu_share import choose_fraction
from tune_swa.execution.training_thread import run_in_training_thread
from tune_swa.execution.warm_up import warm_up
from tune_swa.hardware.gpu_memory import limit_memory
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run
from tune_swa.training.step_probe import EPOCHS, TrialCost, Workload
from tune_swa.training.step_probe import measure_trial as probe_trial


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
            _record_together(timed, rates[together], record)
    finally:
        for child in children:
            child.end()
    if not rates:
        raise CheckFailedError("; ".join(failures))
    alone = rates.get(1)
    gains = [
        f"{n}: {rate:,.0f} images/s" + (f" ({rate / alone:.2f} times)" if alone and n > 1 else "")
        for n, rate in rates.items()
    ]
    return "; ".join(gains + failures)


def _record_together(timed: Sequence[Timed], rate: float, record: Record) -> None:
    together = f"{len(timed)} at once"
    scale = TUTORIAL_IMAGES * PARTS[0][1] / timed[0].images
    for name in ("trunk", "branch"):
        seconds = [scale * value for t in timed for value in getattr(t, name)]
        record(summarise(f"{together}, {name} epoch of the tutorial", seconds, "s"))
    record(Figure(f"{together}, images/s of all", rate, "images/s"))
    record(Figure(f"{together}, memory of one", max(t.memory for t in timed) / 1e9, "GB"))


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
                    limit_memory(share)
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
    return Timed(trunk, branch, rate, peak_memory(bench), len(run.images.train))


def measure_second_trial(bench: Bench, record: Record) -> str:
    """Seconds until a trial's first step is done, in a worker process warmed up as a search does it."""
    begun = time.perf_counter()
    torch.zeros(1, device=bench.device)
    record(Figure("making the context", read_clock(bench) - begun, "s"))
    data = open_images(bench, bench.large)
    found: dict[str, float] = {}

    def warm_worker_up() -> None:
        begun = read_clock(bench)
        run = new_run(bench, data, start=1)
        warm_up(run.settings, data, run.numerics)
        record(Figure("warming the worker up", read_clock(bench) - begun, "s"))

    def start_trial(name: str) -> None:
        begun = read_clock(bench)
        run = new_run(bench, data)
        seconds_resident(run, [min(bench.batch_size, len(data.train))])
        found[name] = read_clock(bench) - begun

    run_in_training_thread(warm_worker_up)
    for name in ("the first trial", "the second trial"):
        run_in_training_thread(partial(start_trial, name))
    thread = threading.Thread(target=start_trial, args=("one in a new thread",))
    thread.start()
    thread.join()
    free_memory()
    expect(len(found) == 3, "a trial did not start: see above")
    for name, seconds in found.items():
        record(Figure(name, seconds, "s"))
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items())


def measure_probe(bench: Bench, record: Record) -> str:
    """What `gpus_per_trial: auto` finds out about the recipe, and how it would divide this card."""
    data = open_images(bench, bench.large)
    train = TrainSpec(epochs=EPOCHS, batch_size=bench.batch_size, augment=("hflip",))
    workload = Workload(
        RunSettings(lr=1e-6, swa_start=0, swa_lr=1e-6, train=train),
        decide_numerics(train, bench.large, device=bench.device, threads=1),
        bench.large, data.num_classes, len(data.train), len(data.val),
    )  # fmt: skip
    child = Child(send_probe, workload.as_dict())
    try:
        found = child.receive()
    finally:
        child.end()
    expect(not isinstance(found, str), str(found))
    cost = TrialCost(**found)
    expect(cost.exhausted is None, f"one trial does not fit: {cost.exhausted}")
    record(Figure("memory of a trial", cost.trial_bytes / 1e9, "GB"))
    record(Figure("context", cost.context_bytes / 1e9, "GB"))
    record(Figure("a step, of the host", cost.host_seconds, "s"))
    record(Figure("a step, of the device", cost.device_seconds, "s"))
    images = (len(data.train) + len(data.val)) * bench.large**2 * 3
    share = choose_fraction(cost, cost.memory or 8_000_000_000, images, len(os.sched_getaffinity(0)))
    as_if = "" if bench.on_gpu else "were it a card of 8 GB: "
    kept = "resident" if share.resident else "streamed"
    return f"{as_if}{share.trials} at once, images {kept}; {share.reason}"


def send_probe(connection: Connection, workload: dict[str, Any]) -> None:
    """Try the recipe out in a process of its own; sends what was found, or the error as text."""
    try:
        connection.send(probe_trial(workload))
    except Exception as error:
        connection.send(first_line(error))
