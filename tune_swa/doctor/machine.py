"""Cores, memory and shared memory, as the limits of a container leave them to this process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tune_swa.doctor.finding import Finding, note, ok, problem
from tune_swa.text import format_bytes

ROOT = Path("/")
TRIAL_BYTES = 1_500_000_000
"""What a trial on the CPU takes with torch loaded, of small images; more with larger ones."""
LEAST_BYTES = 1_000_000_000
"""With less than this, Ray and one worker do not fit."""
OBJECT_STORE_SHARE = 0.3
"""Ray's object store is made for this share of the memory that is free."""


def cores(root: Path = ROOT) -> Iterator[Finding]:
    """The cores that a search would use, against what a container may use of them."""
    from tune_swa.execution.slots import usable_cores

    usable, installed, quota = usable_cores(), os.cpu_count() or 1, cpu_quota(root)
    text = f"{usable} of {installed} core{'s' * (installed != 1)} may be used"
    if quota is not None and quota < usable:
        most = max(1, int(quota))
        yield note(
            "CPU",
            f"{text}, but the container's quota is that of {quota:g}: a search would start too many trials",
            f"Give --cpus {most}",
        )
    else:
        yield ok("CPU", text)


@dataclass(frozen=True)
class Memory:
    """In bytes."""

    total: int
    available: int
    limited: bool
    """Whether a container's limit makes it less than the machine has."""


def memory(root: Path = ROOT) -> Iterator[Finding]:
    """Whether trials fit."""
    from tune_swa.execution.slots import usable_cores

    have, usable = read_memory(root), usable_cores()
    whose = " (the container's limit)" if have.limited else ""
    text = f"{format_bytes(have.available)} of {format_bytes(have.total)} are free{whose}"
    fit = int(have.available / TRIAL_BYTES)
    if have.available < LEAST_BYTES:
        yield problem(
            "memory",
            f"{text}; Ray and one trial need {format_bytes(LEAST_BYTES)} at the least",
            "End other programs, or raise the limit of the container",
        )
    elif fit < usable:
        yield note(
            "memory",
            f"{text}: for about {max(1, fit)} trials at once on the CPU, fewer than the {usable} cores",
            f"Give --cpus {max(1, fit)}; with trials on GPUs this matters less",
        )
    else:
        yield ok("memory", text)


def shared_memory(root: Path = ROOT) -> Iterator[Finding]:
    """Where Ray would put its object store."""
    folder = root / "dev" / "shm"
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        yield note("shared memory", f"{folder}: {error.strerror}; Ray uses its temporary folder instead")
        return
    wanted = OBJECT_STORE_SHARE * read_memory(root).available
    text = f"{folder} has {format_bytes(usage.free)} of {format_bytes(usage.total)} free"
    if usage.free < min(wanted, 10e9):  # Ray does with 10 GB, however much memory there is
        yield note(
            "shared memory",
            f"{text}, less than Ray wants ({format_bytes(min(wanted, 10e9))}): it puts its object store into "
            "its temporary folder instead. A search keeps little in it",
            f"In a container: docker run --shm-size={min(wanted, 10e9) * 1.1 / 1e9:.1f}g",
        )
    else:
        yield ok("shared memory", text)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that this process's control groups allow; None: no limit."""
    quotas = []
    for folder in _cgroups("cpu", root):
        words = _words(folder / "cpu.max")  # version 2 of control groups
        if not words:
            words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))  # without a limit the first is `max` or -1
    return min(quotas, default=None)


def read_memory(root: Path = ROOT) -> Memory:
    """What there is, within the limits of this process's control groups.

    Raises:
        OSError: this system does not tell.
    """
    facts = {}
    for line in (root / "proc" / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts[name] = int(value.split()[0]) * 1024
    total, available, limited = facts["MemTotal"], facts["MemAvailable"], False
    for folder in _cgroups("memory", root):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is None or used is None or limit >= facts["MemTotal"]:
            continue
        words = _words(folder / "memory.stat")  # name, value, name, value
        statistics = dict(zip(words[::2], words[1::2], strict=False))
        # files that were read are kept in memory, and given up when it is needed
        idle = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
        total, limited = min(total, limit), True
        available = min(available, max(0, limit - max(0, used - idle)))
    return Memory(total, available, limited)


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of this process's control group and of those that it is in, of both versions."""
    base = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        top = base / controller if names else base
        below = Path(path.strip("/"))
        for part in (below, *below.parents):
            yield top / part


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _number(*paths: Path) -> int | None:
    for path in paths:
        words = _words(path)
        if words and words[0].isdigit():
            return int(words[0])
    return None
