"""How long a search takes from its command to its first trained batch, before a change and after it.

    git worktree add /tmp/before COMMIT
    python benchmarks/startup.py --before /tmp/before

Both checkouts run `run_search.py` in turn with this Python, each time in a new results folder; decoded images
are in the cache. A search is stopped once each of its first trials has trained a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, spread, table, where

LONGEST_SECONDS = 180.0
HOOK = '''
import json, os, sys, time
from importlib.util import find_spec

class AfterImport:
    """Wraps `Run.train_batch` once its module is imported, in whichever process that is."""

    def find_spec(self, name, path=None, target=None):
        if name != "tune_swa.training.run":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        execute = spec.loader.exec_module
        def execute_and_wrap(module):
            execute(module)
            wrap(module.Run)
        spec.loader.exec_module = execute_and_wrap
        return spec

def wrap(run):
    train_batch = run.train_batch
    def train_first(*given):
        found = train_batch(*given)
        note(time.time(), sys.modules["tune_swa"].__file__)
        run.train_batch = train_batch
        return found
    run.train_batch = train_first

def note(now, code):
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    with open(os.environ["STARTUP_BATCHES"], "a") as file:
        file.write(json.dumps({"time": now, "peak": int(peak.split()[1]) * 1024, "code": code}) + "\\n")

if "STARTUP_BATCHES" in os.environ:
    sys.meta_path.insert(0, AfterImport())
'''
"""The `sitecustomize` of all processes: it writes down when a process has trained its first batch."""
STAGES = ("driver ready", "first trial begins", "first trained batch", "last slot's first batch")


def time_start(checkout: Path, folder: Path, slots: int) -> tuple[dict[str, float], float]:
    """Run a search until every slot has trained a batch.

    Returns:
        Seconds from the command to each stage, and the largest peak memory of a worker by then, in MB.
    """
    batches, output = folder / "batches.jsonl", folder / "output.txt"
    batches.touch()
    environment = {**os.environ, "PYTHONPATH": str(folder.parent), "STARTUP_BATCHES": str(batches)}
    environment["TUNE_SWA_CACHE"] = str(folder.parent / "cache")
    command = [
        sys.executable, "run_search.py", "--space", "search_spaces/digits.yaml", "--gpus", "0",
        "--cpus", str(slots), "--no-confirm", "--results-dir", str(folder),
    ]  # fmt: skip
    with output.open("w") as file:
        begun = time.time()
        search = subprocess.Popen(command, cwd=checkout, env=environment, stdout=file, stderr=file)
        while batches.read_text().count("\n") < slots and search.poll() is None:
            if time.time() - begun > LONGEST_SECONDS:
                break
            time.sleep(0.02)
        search.send_signal(signal.SIGINT)
        search.wait()
    found = [json.loads(line) for line in batches.read_text().splitlines()]
    if len(found) < slots:
        sys.exit(f"{checkout}: no batch was trained\n{output.read_text()}")
    assert all(Path(batch["code"]).is_relative_to(checkout) for batch in found), found
    events = [json.loads(line) for line in (folder / "digits" / "journal.jsonl").open()]

    def find_first(kind: str) -> float:
        return next(float(event["time"]) for event in events if event["event"] == kind)

    moments = (
        find_first("session"), find_first("started"),
        min(batch["time"] for batch in found), max(batch["time"] for batch in found),
    )  # fmt: skip
    peak = max(batch["peak"] for batch in found) / 1e6
    return {stage: moment - begun for stage, moment in zip(STAGES, moments, strict=True)}, peak


def compare_checkouts(checkouts: dict[str, Path], repeat: int, slots: int) -> None:
    """Start searches of all checkouts in turn, and print a table."""
    print(where())
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    peaks: dict[str, list[float]] = {name: [] for name in checkouts}
    above = Path(tempfile.mkdtemp(prefix="startup-"))
    (above / "sitecustomize.py").write_text(HOOK)
    try:
        for turn in range(-1, repeat):  # the first one decodes the images, and does not count
            for name, checkout in checkouts.items():
                folder = above / "search"
                folder.mkdir()
                found, peak = time_start(checkout, folder, slots)
                shutil.rmtree(folder)
                if turn >= 0:
                    seconds[name].append(found)
                    peaks[name].append(peak)
    finally:
        shutil.rmtree(above, ignore_errors=True)
    rows: list[list[str]] = []
    for stage in STAGES:
        times = {name: [one[stage] for one in all_of] for name, all_of in seconds.items()}
        first = statistics.median(next(iter(times.values())))
        last = statistics.median(list(times.values())[-1])
        rows.append([stage, *(spread(values, " s") for values in times.values()), f"{last / first:.2f}"])
    rows.append(["largest worker by then", *(spread(values, " MB") for values in peaks.values()), ""])
    print(f"\nSeconds from the command, {slots} trials at once.\n")
    print(table(["", *checkouts, "ratio"], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="another checkout to compare this one with")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    compared = {"before": options.before.resolve()} if options.before else {}
    compare_checkouts({**compared, "after": ROOT}, options.repeat, options.slots)
