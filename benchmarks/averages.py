"""What averages cost that observe a run: in an epoch, in memory, and in a whole search.

    python benchmarks/averages.py                       # 400 digits at 32 px, batch 64, one thread
    python benchmarks/averages.py --rounds 8 --searches 5

Runs that observe 1, 4 and 8 averages besides SWA's take turns in one process with a run that observes none:
each trains the same epochs of its branch, and the first one changes from round to round. The processor's
seconds stand beside the clock's, since other programs disturb them less. Memory is the peak of a process for
each number.

Then one search that observes four averages takes turns with four searches of one each, from the start of
their processes to the end. All five train the same trials: the same grid and seeds, without early stopping.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from common import ROOT, spread, table, time_search, where

IMAGES, SIZE, BATCH = 400, 32, 64
OBSERVERS: list[dict[str, Any]] = [
    {"method": "ema", "horizon": 2},
    {"method": "lawa", "last": 3},
    {"method": "swag", "rank": 3},
    {"method": "ema", "horizon": 1, "statistics": "average"},
    {"method": "ema", "horizon": 4},
    {"method": "lawa", "last": 5},
    {"method": "swag", "diagonal": True},
    {"method": "power_ema"},
]
COUNTS = (0, 1, 4, 8)
RUNGS = 3
"""At rungs, one epoch in so many is scored: of ten epochs two are rungs and one is the last."""

FOUR: list[dict[str, Any]] = [
    {"method": "swa"},
    {"method": "ema", "horizon": 2},
    {"method": "lawa", "last": 3},
    {"method": "swag", "rank": 5},
]
"""Of the searches."""
EPOCHS, START, RATES = 9, 3, (3e-4, 1e-3, 3e-3, 1e-2)
CPUS = 2


def build_run(observers: int) -> Any:
    """A run that has just left its trunk, with SWA and so many averages."""
    import torch

    from tune_swa.config import AveragingSpec, DataSpec, RunSettings, TrainSpec
    from tune_swa.data.dataset import prepare_dataset
    from tune_swa.training.numerics import decide_numerics
    from tune_swa.training.run import Run

    torch.set_num_threads(1)
    spec = {"dataset": "digits", "image_size": SIZE, "train_images": IMAGES, "val_fraction": 0.25}
    data = prepare_dataset(DataSpec.model_validate(spec))
    train = TrainSpec(epochs=10_000, batch_size=BATCH)
    numerics = decide_numerics(train, SIZE, device="cpu", threads=1)
    averages = [{"method": "swa"}, *OBSERVERS[:observers]] if observers else []
    settings = RunSettings.model_validate(
        {"lr": 1e-3, "swa_start": 0, "swa_lr": 5e-4, "train": train, "averages": averages,
         "averaging": AveragingSpec(score="rungs")}
    )  # fmt: skip
    run = Run(settings, data, numerics)
    for _ in range(2):  # the trunk's, then the first that is averaged
        run.run_epoch()
    return run


def time_epoch(run: Any, *, score: bool) -> tuple[float, float]:
    """Seconds of an epoch of the branch, by the clock and by the processor."""
    run._score_epochs = frozenset({run.epoch}) if score else frozenset()
    begun = time.perf_counter(), time.process_time()
    run.run_epoch()
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def measure_epochs(rounds: int) -> None:
    """Print what an epoch takes, by the number of observers."""
    runs = {count: build_run(count) for count in COUNTS}
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    kinds = [(count, score) for count in COUNTS for score in (False, True) if count or not score]
    for turn in range(rounds):
        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
            found.setdefault(kind, []).append(time_epoch(runs[kind[0]], score=kind[1]))
    plain = found[0, False]
    rows = []
    for (count, score), times in sorted(found.items()):
        what = f"SWA and {count}" if count else "SWA alone"
        how = "scored" if score else "not scored"
        ratios = [one[1] / other[1] for one, other in zip(times, plain, strict=True)]
        rows.append(
            [
                what,
                how,
                spread([t[0] for t in times], " s"),
                spread([t[1] for t in times], " s"),
                spread(ratios),
            ]
        )
    print(table(["averages", "epoch", "clock", "processor", "processor / SWA alone, by rounds"], rows))
    base = statistics.median(t[1] for t in plain)
    print(f"\nAn epoch of a branch where one in {RUNGS} is scored (`score: rungs`), against SWA alone:\n")
    rows = []
    for count in COUNTS[1:]:
        without, scored = (statistics.median(t[1] for t in found[count, s]) for s in (False, True))
        mean = without + (scored - without) / RUNGS
        rows.append([f"SWA and {count}", f"{mean:.3g} s", f"{mean / base:.3g}", f"{scored / base:.3g}"])
    print(table(["averages", "epoch at rungs", "at rungs / SWA alone", "at every epoch / SWA alone"], rows))


def measure_memory() -> None:
    """Print the peak of a process that trains five epochs of a branch and scores the last one."""
    rows = []
    for count in COUNTS:
        command = [sys.executable, __file__, "--memory", str(count)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append((count, found["peak"], found["state"]))
    base = rows[0]
    cells = [
        [f"SWA and {count}" if count else "SWA alone", f"{peak:.0f} MB",
         f"{(peak - base[1]) / count:.0f} MB" if count else "", f"{state:.0f} MB"]
        for count, peak, state in rows
    ]  # fmt: skip
    print(table(["averages", "peak of the process", "more per observer", "checkpoint's tensors"], cells))


def report_memory(observers: int) -> None:
    run = build_run(observers)
    for _ in range(4):
        time_epoch(run, score=False)
    time_epoch(run, score=True)
    # not ru_maxrss, which begins with what the parent had when it forked
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"peak": peak, "state": count_bytes(run.state_dict()) / 1e6}))


def count_bytes(state: Any) -> int:
    """Bytes of the tensors in a state."""
    import torch

    if isinstance(state, torch.Tensor):
        return int(state.numel() * state.element_size())
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(count_bytes, items))


def run_search(averages: list[dict[str, Any]], seed: int) -> tuple[float, int]:
    """Seconds of a search of four SWA trials and a baseline, and the epochs that it trained."""
    space = {
        "data": {"dataset": "digits", "image_size": SIZE, "train_images": IMAGES, "val_fraction": 0.25},
        "train": {"epochs": EPOCHS, "batch_size": BATCH, "weight_decay": 1e-4, "seed": seed},
        "averaging": {"anneal_epochs": 2, "score": "rungs"},
        "averages": averages,
        "space": {"lr": 1e-3, "swa_start": START, "swa_lr": {"choice": RATES}},
        "search": {"sampler": "grid"},
        "scheduler": {"asha": False},
    }
    seconds, folder, _ = time_search(space, CPUS)
    trained = int(pd.read_parquet(folder / "trials.parquet").epochs_trained.sum())
    shutil.rmtree(folder.parent)
    return seconds, trained


def measure_searches(rounds: int) -> None:
    """Print what a search with four averages takes, against four searches with one each."""
    one: list[tuple[float, int]] = []
    four: list[list[tuple[float, int]]] = []
    for turn in range(rounds):
        for together in (turn % 2 == 0, turn % 2 == 1):
            if together:
                one.append(run_search(FOUR, turn))
            else:
                four.append([run_search([average], turn) for average in FOUR])
    seconds = [sum(search[0] for search in searches) for searches in four]
    rows = [["one search", one[0][1], spread([search[0] for search in one], " s"), "1"]]
    for number, average in enumerate(FOUR):
        alone = [searches[number] for searches in four]
        ratios = [a[0] / b[0] for a, b in zip(alone, one, strict=True)]
        rows.append([f"{average['method']} alone", alone[0][1], spread([a[0] for a in alone], " s"),
                     spread(ratios)])  # fmt: skip
    ratios = [a / b[0] for a, b in zip(seconds, one, strict=True)]
    rows.append(
        ["four searches", sum(search[1] for search in four[0]), spread(seconds, " s"), spread(ratios)]
    )
    methods = ", ".join(average["method"] for average in FOUR)
    print(
        f"A search with four averages ({methods}) against four with one each: {len(RATES)} SWA trials and a "
        f"baseline of {EPOCHS} epochs, {CPUS} at a time; a new seed for every round.\n"
    )
    print(table(["", "epochs trained", "clock", "times one search, by rounds"], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each kind")
    parser.add_argument("--searches", type=int, default=3, help="rounds of five searches; 0: none")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory is not None:
        report_memory(given.memory)
    else:
        print(where() + "\n", flush=True)
        measure_epochs(given.rounds)
        print(flush=True)
        measure_memory()
        if given.searches:
            print(flush=True)
            measure_searches(given.searches)
