"""Parts of benchmarks/gpu.py: what they are given, what they leave, and the process that runs them."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

Kind = Literal["check", "measurement"]
Status = Literal["pass", "FAIL", "skipped"]


@dataclass(frozen=True)
class Bench:
    """Where to run, and at which sizes."""

    device: Literal["cuda", "cpu"]
    folder: Path
    """Holds the images (`images/`), the decoded ones and whatever a part writes."""
    quick: bool
    """As few repetitions as it takes to have run every line."""
    large: int
    """Pixels of the tutorial's images."""
    small: int
    """Pixels where a step is bound by the start of its kernels."""
    count: int
    """Images of training and validation together."""
    batch_size: int
    seconds: float
    """What one repetition of a measurement should take."""
    repeat: int
    workers: int
    """Of the DataLoader."""
    at_once: tuple[int, ...]
    """How many trials share the device."""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def images(self) -> Path:
        return self.folder / "images"


def choose_sizes(device: Literal["cuda", "cpu"], folder: Path, *, quick: bool) -> Bench:
    """The tutorial's sizes on a GPU; on a CPU as small as the walk through every part may be."""
    cores = len(os.sched_getaffinity(0))
    if device == "cuda":
        return Bench(
            device, folder, quick, large=256, small=32, count=14_034, batch_size=256,
            seconds=0.3 if quick else 2.0, repeat=1 if quick else 3,
            workers=min(16, cores), at_once=(1, 2, 4),
        )  # fmt: skip
    return Bench(
        device, folder, quick, large=32, small=16,
        count=40, batch_size=16, seconds=0.1, repeat=1,
        workers=0, at_once=(1, 2),
    )  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A number that a part found."""

    what: str
    value: float | str
    """The median of several."""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    repetitions: int = 1

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return f"{self.value} {self.unit}".strip()
        shown = f"{_shorten(self.value)} {self.unit}".strip()
        if self.low is None or self.high is None:
            return shown
        return f"{shown} ({_shorten(self.low)} to {_shorten(self.high)}, n={self.repetitions})"


def _shorten(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def summarise(what: str, values: Sequence[float], unit: str = "") -> Figure:
    """Median, lowest and highest of repetitions."""
    if len(values) == 1:
        return Figure(what, values[0], unit)
    return Figure(what, statistics.median(values), unit, min(values), max(values), len(values))


Record = Callable[[Figure], None]
"""Hands a figure over as soon as there is one, so that a part cut short leaves those that it had."""


@dataclass(frozen=True)
class Part:
    """A check or a measurement."""

    name: str
    kind: Kind
    run: Callable[[Bench, Record], str]
    """Returns what it found, in one line. Raises `CheckFailedError` or any other error."""
    seconds: float
    """Most that it may take on a GPU."""
    fresh: bool = False
    """Whether it wants a process that has not used the device yet, or leaves one that nobody should use."""


class CheckFailedError(Exception):
    """A check's answer is no; the message says why."""


class NotOnThisDeviceError(Exception):
    """A part that this device cannot run; the message says why."""


def expect(condition: bool, why: str) -> None:
    """Fail the check unless `condition` holds."""
    if not condition:
        raise CheckFailedError(why)


@dataclass
class Outcome:
    """What came of one part."""

    name: str
    kind: Kind
    status: Status
    reason: str
    """What it found, or why it failed or was skipped."""
    seconds: float
    figures: list[Figure] = field(default_factory=list)
    trace: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def first_line(error: BaseException) -> str:
    """The error in a line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


# ---------------------------------------------------------------------------------- the process

START_SECONDS = 120.0
"""For a process to import torch, before its part's time begins: on a slow disk, the first time, a minute."""


def serve_parts(bench: Bench, connection: Connection, catalogue: str) -> None:
    """Run the parts whose names arrive, until None does. To be called in a process of its own.

    Args:
        bench: where to run.
        connection: to the parent.
        catalogue: a module whose `CHECKS` and `MEASURES` hold the parts.
    """
    os.setsid()  # whoever ends this process ends those that it has started, too
    import torch

    torch.set_num_threads(1)
    module = importlib.import_module(catalogue)
    parts = {part.name: part for part in (*module.CHECKS, *module.MEASURES)}
    connection.send(("ready",))
    while (name := connection.recv()) is not None:
        status: Status = "pass"
        trace = ""
        try:
            reason = parts[name].run(bench, lambda figure: connection.send(("figure", figure)))
        except CheckFailedError as error:
            status, reason = "FAIL", str(error)
        except NotOnThisDeviceError as error:
            status, reason = "skipped", str(error)
        except Exception as error:
            status, reason, trace = "FAIL", first_line(error), traceback.format_exc()
        gc.collect()
        if torch.cuda.is_initialized():
            with suppress(RuntimeError):  # lost; the parent starts another process after a failure
                torch.cuda.empty_cache()
        connection.send(("end", status, reason, trace))


class Worker:
    """A process that runs parts for the parent, which never touches the device itself."""

    def __init__(self, bench: Bench, catalogue: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve_parts, args=(bench, other, catalogue))
        self._process.start()
        other.close()
        self.used = False
        """Whether it has run a part."""

    def run(self, part: Part, seconds: float, *, short_of_time: bool) -> Outcome:
        """Run a part to its end, its death, or the end of its time.

        Args:
            part: what to run.
            seconds: how long it may take.
            short_of_time: whether that is less than the part should have, because the budget ends.
        """
        outcome = Outcome(part.name, part.kind, "FAIL", "", 0.0)
        begun = time.monotonic()
        try:
            if not self.used and not self._connection.poll(START_SECONDS):
                outcome.reason = f"its process did not start within {START_SECONDS:.0f} s"
                return outcome
            if not self.used:
                self._connection.recv()  # torch is imported
            self.used = True
            begun = time.monotonic()
            self._connection.send(part.name)
            while self._connection.poll(max(0.0, begun + seconds - time.monotonic())):
                message = self._connection.recv()
                if message[0] == "figure":
                    outcome.figures.append(message[1])
                    continue
                _, outcome.status, outcome.reason, outcome.trace = message
                break
            else:
                outcome.status = "skipped" if short_of_time else "FAIL"
                outcome.reason = (
                    f"the budget ended after {seconds:.0f} s of it" if short_of_time
                    else f"not done after {seconds:.0f} s"
                )  # fmt: skip
        except (EOFError, OSError):
            self._process.join(5)
            outcome.reason = f"its process died (exit code {self._process.exitcode})"
        outcome.seconds = time.monotonic() - begun
        return outcome

    def stop(self) -> None:
        """End the process and those that it has started."""
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(3)
        pid = self._process.pid
        if pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # its session, also when it has ended and they have not
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()


class Child:
    """A process started by a part: `target(connection, *args)` runs in it."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=target, args=(other, *args))
        self._process.start()
        other.close()

    def receive(self, seconds: float = 120.0) -> Any:
        """The next message of the child.

        Raises:
            CheckFailedError: it has died, or says nothing for so long.
        """
        try:
            if self.connection.poll(seconds):
                return self.connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise CheckFailedError(
                f"a process that it started died (exit code {self._process.exitcode})"
            ) from None
        raise CheckFailedError(f"a process that it started said nothing for {seconds:.0f} s")

    def send(self, message: Any) -> None:
        """Hand the child a message; one that has died is noticed by `receive`."""
        with suppress(OSError):
            self.connection.send(message)

    def end(self) -> int | None:
        """Let it end, by force after ten seconds, and return its exit code."""
        self.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()
        return self._process.exitcode
