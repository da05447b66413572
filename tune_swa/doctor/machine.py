"""Check cores, memory and shared memory within the limits of a container."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tune_swa.doctor.findings import Finding
from tune_swa.hardware.limits import ROOT, read_cpu_quota, read_memory
from tune_swa.text import format_bytes

TRIAL_BYTES = 1_500_000_000
"""Bytes of a trial of small images on the CPU with torch loaded; more with larger ones."""
LEAST_BYTES = 1_000_000_000
"""Least bytes that Ray and one worker fit in."""
OBJECT_STORE_SHARE, OBJECT_STORE_BYTES = 0.3, 10e9
"""Ray's object store takes this share of the free memory, and at most so much."""


def check_cores(root: Path = ROOT) -> Iterator[Finding]:
    """Count the cores that a search uses, and say where a container's quota makes them fewer."""
    from tune_swa.execution.slots import usable_cores

    usable, installed, quota = usable_cores(), os.cpu_count() or 1, read_cpu_quota(root)
    text = f"{usable} of {installed} core{'s' * (installed != 1)} may be used"
    if quota is not None and quota < usable:
        text += f", and the container's quota is {quota:g}: a search plans for {max(1, int(quota))}"
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
