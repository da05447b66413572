"""Keeping memory that training will want again at the next step."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h
KEPT_BYTES = 2**31 - 1
STEP_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the system.

    Activations are freed and wanted again at every step; by default glibc returns them with munmap,
    and the system hands out, and clears, the same pages again. Changes no number.

    Returns:
        Whether that could be set: it is glibc's alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    malloc = ctypes.CDLL(None)
    given = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, KEPT_BYTES), (_TOP_PAD, STEP_BYTES))
    return {malloc.mallopt(parameter, value) for parameter, value in given} == {1}


def give_back_memory() -> None:
    """Have glibc return what it keeps, where every thread of this process keeps its own part.

    A process with one part for all (`MALLOC_ARENA_MAX=1`) uses it again; others would grow with each
    thread, up to eight parts for each core.
    """
    if os.environ.get("MALLOC_ARENA_MAX") != "1" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
