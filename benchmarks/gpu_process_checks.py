"""Checks of benchmarks/gpu.py about memory and about several processes on one device."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from multiprocessing.connection import Connection

import torch
from gpu_checks import choose_numerics, free_memory, new_run, small_data
from gpu_images import draw_dataset
from gpu_parts import Bench, CheckFailedError, Child, Figure, Record, expect, first_line

from tune_swa.config import RunSettings, TrainSpec
from tune_swa.hardware.gpu_failure import is_gpu_lost
from tune_swa.hardware.gpu_memory import is_memory_exhausted, limit_memory
from tune_swa.training.run import Run


def check_exhausted_memory(bench: Bench, record: Record) -> str:
    """A batch that does not fit fails as torch's OutOfMemoryError, and the process trains on."""
    if bench.on_gpu:
        allowed = torch.cuda.memory_reserved() + 700_000_000
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(allowed / total)
        large = draw_dataset(256, 6, 256)
        train = TrainSpec(epochs=2, batch_size=256)
        numerics = choose_numerics(bench, "fp32", 256)
        try:
            Run(RunSettings(lr=1e-3, train=train), large, numerics).run_epoch()
        except RuntimeError as error:
            expect(is_memory_exhausted(error), f"not known as exhausted memory: {first_line(error)}")
            record(Figure("error", first_line(error)))
        else:
            raise CheckFailedError(f"a batch of 256 at 256 px fits {allowed / 1e9:.1f} GB")
        what = f"OutOfMemoryError at {allowed / 1e9:.1f} GB"
    else:
        try:
            torch.empty(1 << 55, dtype=torch.uint8)
        except RuntimeError as error:
            record(Figure("error", first_line(error)))
        else:
            raise CheckFailedError("a CPU has room for 36 petabytes")
        what = "a CPU has no limit of its own: an allocation of 36 petabytes fails"
    free_memory()
    if bench.on_gpu:
        left = torch.cuda.memory_allocated()
        record(Figure("still allocated", left / 1e6, "MB"))
        expect(left < 100e6, f"{left / 1e6:.0f} MB are still held after the failure")
    loss = new_run(bench, small_data(bench)).run_epoch().train_loss
    expect(math.isfinite(loss), f"the loss afterwards is {loss}")
    return f"{what}, and a smaller run trains in the same process"


SHARE = 0.3
"""Of the card, for each of two processes."""


def check_two_processes(bench: Bench, record: Record) -> str:
    """Two runs on one card by fraction: one is refused what is over its share, the other never notices."""
    modest, greedy = (Child(train_in_share, bench, wanted) for wanted in (False, True))
    try:
        for name, child in (("the modest one", modest), ("the greedy one", greedy)):
            said = child.receive()
            expect(said == "ready", f"{name}: {said}")
        for child in (modest, greedy):
            child.send("go")
        results = [child.receive() for child in (modest, greedy)]
    finally:
        modest.end()
        greedy.end()
    for name, result in zip(("the modest one", "the greedy one"), results, strict=True):
        expect(not isinstance(result, str), f"{name}: {result}")
        record(Figure(f"reserved by {name}", result["reserved"] / 1e9, "GB"))
        if bench.on_gpu:
            record(Figure(f"allowed to {name}", result["allowed"] / 1e9, "GB"))
            expect(result["reserved"] <= result["allowed"], f"{name} took more than its share")
    expect(results[1]["refused"] is True, "the greedy one got more than its share")
    instead = "" if bench.on_gpu else "; a CPU divides no memory, so the greedy one asks for 36 petabytes"
    return (
        f"both train side by side at {SHARE:g} of the device; over it: OutOfMemoryError there alone{instead}"
    )


def train_in_share(connection: Connection, bench: Bench, greedy: bool) -> None:
    """Train within a share of the device; the greedy one asks for more than it first."""
    torch.set_num_threads(1)
    try:
        allowed = limit_memory(SHARE) if bench.on_gpu else 1 << 55
        run = new_run(bench, small_data(bench), start=None)
        run.run_epoch()
        connection.send("ready")
        connection.recv()
        refused = False
        if greedy:
            try:
                torch.empty(allowed, dtype=torch.uint8, device=bench.device)
            except RuntimeError as error:
                refused = is_memory_exhausted(error) or not bench.on_gpu
            free_memory()
        while not run.done:
            run.run_epoch()
        reserved = torch.cuda.max_memory_reserved() if bench.on_gpu else 0
        connection.send({"reserved": reserved, "allowed": allowed, "refused": refused})
    except Exception as error:
        connection.send(first_line(error))
    with suppress(EOFError):
        connection.recv()


def check_lost_process(bench: Bench, record: Record) -> str:
    """A process that loses its device costs no other one anything."""
    run = new_run(bench, small_data(bench))
    first = run.run_epoch().train_loss
    child = Child(lose_device, bench)
    try:
        said = child.receive() if bench.on_gpu else None
    finally:
        exit_code = child.end()
    if bench.on_gpu:
        expect(said["known"] is True, f"not known as a lost GPU: {said['error']}")
        expect(said["after"] is not None, "after a device-side assertion the same process goes on computing")
        record(Figure("the error", said["error"]))
        record(Figure("afterwards there", said["after"]))
    else:
        expect(exit_code is not None and exit_code < 0, f"it ended with {exit_code}")
    second = run.run_epoch().train_loss
    expect(math.isfinite(second) and second < first, f"the other run's loss went from {first} to {second}")
    again = new_run(bench, small_data(bench)).run_epoch().train_loss
    expect(abs(again - first) <= 0.05 * first, f"a new run begins with a loss of {again}, not {first}")
    what = "a device-side assertion" if bench.on_gpu else "an abort (a CPU has no device to lose)"
    return f"{what} ends one process; another one on the device trains on"


def lose_device(connection: Connection, bench: Bench) -> None:
    """Make the device useless for this process."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # the kernel prints a line for every thread
    if not bench.on_gpu:
        os.abort()
    said: dict[str, object] = {"error": None, "after": None, "known": False}
    row = torch.zeros(4, device="cuda")
    try:
        row[torch.tensor([99], device="cuda")].sum().item()
    except RuntimeError as error:
        said["error"] = first_line(error)
        said["known"] = is_gpu_lost(error, on_gpu=True)
    try:
        torch.ones(4, device="cuda").sum().item()
    except RuntimeError as error:
        said["after"] = first_line(error)
    connection.send(said)
    os._exit(1)  # as nothing that ends with CUDA calls can
