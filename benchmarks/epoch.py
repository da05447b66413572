"""What an epoch's parts cost here and in another checkout, and whether both give the same bits.

    git worktree add ../before HEAD~20
    python benchmarks/epoch.py --against ../before             # 400 digits at 32 px, batch 64, one thread
    python benchmarks/epoch.py --against ../before --size 64

Fresh processes of the two checkouts take turns. Each trains two SWA epochs, whose weights, BN statistics and
metrics are hashed, and then times training, refresh and evaluation: by the clock, and by the processor time
that they took, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, spread, table, where

IMAGES, BATCH = 400, 64
PARTS = {"train": "training epoch", "refresh": "BN refresh", "evaluate": "evaluation"}


def measure(size: int, threads: int, repeat: int) -> dict[str, Any]:
    """Seconds of each part, and the hash of a short run, by the tune_swa that this process imports."""
    import torch

    from tune_swa.config import DataSpec, RunSettings, TrainSpec
    from tune_swa.data.dataset import prepare_dataset
    from tune_swa.training.numerics import decide_numerics
    from tune_swa.training.run import Run

    torch.set_num_threads(threads)
    spec = {"dataset": "digits", "image_size": size, "train_images": IMAGES, "val_fraction": 0.25}
    data = prepare_dataset(DataSpec.model_validate(spec))
    train = TrainSpec(epochs=10_000, batch_size=BATCH, augment=("hflip", "crop"))
    numerics = decide_numerics(train, size, device="cpu", threads=threads)
    run = Run(RunSettings(lr=1e-3, swa_start=0, swa_lr=5e-4, train=train), data, numerics)
    records = [run.run_epoch() for _ in range(3)]  # a trunk's, then two that are averaged
    assert run.averaging is not None
    metrics = [(r.train_loss, r.nll, r.ece, r.accuracy) for r in records]
    found = {"hash": hash_run(run.model, run.shipped_model, metrics)}
    averaging = run.averaging
    parts: dict[str, Callable[[], object]] = {
        "train": run.train_epoch,
        "refresh": lambda: run.refresh_model(averaging.average, run.epoch),
        "evaluate": lambda: run._evaluate_on_validation(run.shipped_model),
    }
    return found | {name: time_calls(part, repeat) for name, part in parts.items()}


def hash_run(live: Any, shipped: Any, metrics: object) -> str:
    """Of all weights, batch-normalisation statistics and metrics."""
    digest = hashlib.blake2b(repr(metrics).encode(), digest_size=8)
    for model in (live, shipped):
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def time_calls(part: Callable[[], object], repeat: int) -> dict[str, float]:
    """Median milliseconds of a call by the clock (`wall`) and of all the process's threads (`cpu`)."""
    found: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(repeat):
        begun = time.perf_counter(), time.process_time()
        part()
        found["wall"].append(1000 * (time.perf_counter() - begun[0]))
        found["cpu"].append(1000 * (time.process_time() - begun[1]))
    return {clock: statistics.median(times) for clock, times in found.items()}


def measure_checkout(checkout: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a fresh process that imports the tune_swa of `checkout`."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, __file__, "--measure"]
    for name in ("size", "threads", "repeat"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(options: argparse.Namespace) -> None:
    """Measure both checkouts in turn and print a table."""
    checkouts = {"here": ROOT, "there": options.against.resolve()}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for pair in range(options.pairs):
        # each goes first in every other pair: the machine may grow warmer or busier
        for name in list(checkouts)[:: 1 if pair % 2 else -1]:
            found[name].append(measure_checkout(checkouts[name], options))
    rows = []
    for key, part in PARTS.items():
        for clock in ("wall", "cpu"):
            here, there = ([run[key][clock] for run in found[name]] for name in ("here", "there"))
            ratios = [h / t for h, t in zip(here, there, strict=True)]
            rows.append([f"{part}, {clock}", spread(there, " ms"), spread(here, " ms"), spread(ratios)])
    print(f"\n{IMAGES} digits at {options.size} px, batch {BATCH}, {options.threads} thread(s); "
          f"{options.pairs} pairs of processes, the median of {options.repeat} in each.\n")  # fmt: skip
    print(table(["", "the other checkout", "this one", "this / other, by pairs"], rows))
    hashes = {name: sorted({run["hash"] for run in runs}) for name, runs in found.items()}
    same = len(set(hashes["here"] + hashes["there"])) == 1
    print(f"\nWeights, BN statistics and metrics after two SWA epochs: {'the same' if same else 'other'} bits"
          f" (here {', '.join(hashes['here'])}; there {', '.join(hashes['there'])}).")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, default=ROOT, help="the other checkout; default: this one")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=6, help="processes of each checkout")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each part in a process")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.size, given.threads, given.repeat)))
    else:
        print(where())
        compare(given)
