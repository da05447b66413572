"""Check cores, memory and shared memory within the limits of a container."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tune_swa.doctor.findings import Finding
from tune_swa.text import format_bytes

ROOT = Path("/")
TRIAL_BYTES = 1_500_000_000
"""What a trial of small images takes on the CPU with torch loaded; more with larger ones."""
LEAST_BYTES = 1_000_000_000
"""With less than this, Ray and one worker do not fit."""
OBJECT_STORE_SHARE, OBJECT_STORE_BYTES = 0.3, 10e9
"""Ray's object store takes this share of the free memory, and at most so much."""


def check_cores(root: Path = ROOT) -> Iterator[Finding]:
    """Compare the cores that a search would use with the container's quota."""
    from tune_swa.execution.slots import usable_cores

    usable, installed, quota = usable_cores(), os.cpu_count() or 1, read_cpu_quota(root)
    text = f"{usable} of {installed} core{'s' * (installed != 1)} may be used"
    if quota is not None and quota < usable:
        text += f", but the container's quota is {quota:g}: a search would start too many trials"
        yield Finding("note", "CPU", text, f"Give --cpus {max(1, int(quota))}")
    else:
        yield Finding("ok", "CPU", text)


def check_memory(root: Path = ROOT) -> Iterator[Finding]:
    """Check that as many trials fit as there are cores."""
    from tune_swa.execution.slots import usable_cores

    (total, available, limited), usable = read_memory(root), usable_cores()
    text = f"{format_bytes(available)} of {format_bytes(total)} are free"
    text += " (the container's limit)" if limited else ""
    fit = max(1, int(available / TRIAL_BYTES))
    if available < LEAST_BYTES:
        text += f"; Ray and one trial need at least {format_bytes(LEAST_BYTES)}"
        yield Finding("problem", "memory", text, "End other programs, or raise the limit of the container")
    elif fit < usable:
        text += f": for about {fit} trials at once on the CPU, fewer than the {usable} cores"
        yield Finding("note", "memory", text, f"Give --cpus {fit}; with trials on GPUs this matters less")
    else:
        yield Finding("ok", "memory", text)


def check_shared_memory(root: Path = ROOT) -> Iterator[Finding]:
    """Check that Ray's object store fits in /dev/shm."""
    folder = root / "dev" / "shm"
    wanted = min(OBJECT_STORE_SHARE * read_memory(root)[1], OBJECT_STORE_BYTES)
    usage = shutil.disk_usage(folder)
    text = f"{folder} has {format_bytes(usage.free)} of {format_bytes(usage.total)} free"
    if usage.free < wanted:
        text += f", and Ray wants {format_bytes(wanted)}: it uses its temporary folder, which is slower"
        remedy = f"In a container: docker run --shm-size={wanted * 1.1 / 1e9:.1f}g"
        yield Finding("note", "shared memory", text, remedy)
    else:
        yield Finding("ok", "shared memory", text)


def read_cpu_quota(root: Path = ROOT) -> float | None:
    """Return how many cores' worth of time the control groups allow; None: no limit."""
    quotas = []
    for folder in _list_cgroups("cpu", root):
        words = _read_words(folder / "cpu.max")  # version 2 of control groups
        if not words:
            words = _read_words(folder / "cpu.cfs_quota_us") + _read_words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdigit() for word in words):  # no limit: `max` or -1
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def read_memory(root: Path = ROOT) -> tuple[int, int, bool]:
    """Return total and available bytes, and whether a container's limit makes them fewer.

    Raises:
        OSError: the system has no /proc/meminfo.
    """
    words = _read_pairs((root / "proc" / "meminfo").read_text().replace(":", "").replace(" kB", ""))
    total, available, limited = 1024 * words["MemTotal"], 1024 * words["MemAvailable"], False
    for folder in _list_cgroups("memory", root):
        limit = _read_words(folder / "memory.max") or _read_words(folder / "memory.limit_in_bytes")
        used = _read_words(folder / "memory.current") or _read_words(folder / "memory.usage_in_bytes")
        if not (limit and used and limit[0].isdigit() and int(limit[0]) < 1024 * words["MemTotal"]):
            continue
        statistics = _read_pairs(" ".join(_read_words(folder / "memory.stat")))
        # the page cache counts as used, and is given up when memory is needed
        idle = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
        total, limited = min(total, int(limit[0])), True
        available = min(available, max(0, int(limit[0]) - max(0, int(used[0]) - idle)))
    return total, available, limited


def _list_cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those above it, of both versions."""
    base = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if not names or controller in names.split(","):
            below = Path(path.strip("/"))
            for part in (below, *below.parents):
                yield (base / controller if names else base) / part


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _read_pairs(text: str) -> dict[str, int]:
    """Parse names that are each followed by a number."""
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=False))
