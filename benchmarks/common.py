"""What benchmarks share: where they ran, a table, and a timed search."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy")


def where() -> str:
    """One paragraph: the command, the machine, the versions and the load of others on it."""
    import torch

    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    gpu = (
        f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    )
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"`python {' '.join([os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]])}` on "
        f"{datetime.now(UTC):%Y-%m-%d}: {len(os.sched_getaffinity(0))} cores of {cpu}{gpu}, load before "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {', '.join(versions)}."
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def spread(values: Sequence[float], unit: str = "", digits: int = 3) -> str:
    """Median (lowest to highest, n)."""
    middle = f"{statistics.median(values):.{digits}g}{unit}"
    if len(values) == 1:
        return f"{middle} (n=1)"
    return f"{middle} ({min(values):.{digits}g} to {max(values):.{digits}g}, n={len(values)})"


def time_search(space: dict[str, Any], cpus: int) -> tuple[float, Path, float]:
    """Run a search without fresh seeds in a process of its own, one core a trial.

    Returns:
        Seconds from the start of the interpreter to its end, the search's folder in a temporary one, and
        when it began (seconds since 1970).
    """
    folder = Path(tempfile.mkdtemp(prefix="search-speed-"))
    (folder / "space.yaml").write_text(json.dumps({"name": "speed", **space}))  # JSON is YAML
    began, begun = time.time(), time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / "run_search.py"), "--space", str(folder / "space.yaml"), "--gpus", "0",
         "--cpus", str(cpus), "--results-dir", str(folder), "--quiet", "--no-confirm"],
        check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - begun, folder / "speed", began
