"""Read the cores and the memory that the system and its control groups let this process have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def count_cores() -> int:
    """Count the cores that this process may run on, whatever a quota allows."""
    return len(os.sched_getaffinity(0))


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


def count_oom_kills(root: Path = ROOT) -> int:
    """Count the processes that the kernel has killed because memory was exhausted.

    Those in the control groups of this process, or on the whole machine where the groups do not count.
    """
    counts = []
    for folder in _list_cgroups("memory", root):
        for name in ("memory.events", "memory.oom_control"):  # versions 2 and 1
            pairs = _read_pairs(" ".join(_read_words(folder / name)))
            counts += [pairs["oom_kill"]] if "oom_kill" in pairs else []
    if counts:
        return sum(counts)
    return _read_pairs(" ".join(_read_words(root / "proc" / "vmstat"))).get("oom_kill", 0)


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
    """Parse names that are each followed by a number; a word that is none ends the pairs."""
    words, pairs = text.split(), {}
    for name, value in zip(words[::2], words[1::2], strict=False):
        if not value.isdigit():
            break
        pairs[name] = int(value)
    return pairs
