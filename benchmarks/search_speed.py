"""Whole searches: ours against plain Ray Tune and against one run after the other.

    python benchmarks/search_speed.py grid    # the tutorial's grid at 24 epochs, without early stopping
    python benchmarks/search_speed.py tpe     # TPE and ASHA, 24 trials, time to the peer's best accuracy

Both sides run in turn on this machine, with the same images, model, batch size and epochs, one core a
trial. Everything counts, from the start of the interpreter to its end.
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
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pandas as pd
from common import ROOT, spread, table, time_search, where

DATA = {"dataset": "digits", "image_size": 32, "train_images": 400, "val_fraction": 0.25}
ANNEAL = 3


def task(epochs: int, cpus: int, seed: int = 0) -> dict[str, Any]:
    """What the peers are told."""
    return {
        "data": DATA, "num_classes": 10, "epochs": epochs, "batch_size": 64, "anneal_epochs": ANNEAL,
        "cpus": cpus, "seed": seed,
    }  # fmt: skip


def peer(name: str, given: dict[str, Any]) -> tuple[float, Any]:
    """Run a peer in a process of its own; its seconds from outside, and what it prints."""
    begun = time.perf_counter()
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "peers" / f"{name}.py"), json.dumps(given)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    if result.returncode:
        sys.exit(f"{name}: {result.stdout}{result.stderr}")
    return seconds, json.loads(result.stdout.splitlines()[-1])


def space_file(epochs: int, space: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Our side's space file."""
    return {
        "data": DATA,
        "train": {"epochs": epochs, "batch_size": 64, "optimizer": "adam", "weight_decay": 1e-4},
        "averaging": {"anneal_epochs": ANNEAL},
        "space": space,
        **more,
    }


# -------------------------------------------------------------------------------------- the grid


def full_speed(_: int) -> tuple[float, float, float]:
    """Seconds of training, BN refresh and evaluating one model, of an epoch with nothing around it."""
    import torch

    from tune_swa.config import DataSpec, RunSettings, TrainSpec
    from tune_swa.data.dataset import prepare_dataset
    from tune_swa.hardware.allocator import keep_freed_memory
    from tune_swa.training.numerics import decide_numerics
    from tune_swa.training.run import Run

    torch.set_num_threads(1)
    keep_freed_memory()
    train = TrainSpec(epochs=8, batch_size=64, optimizer="adam", weight_decay=1e-4)
    settings = RunSettings(lr=1e-3, swa_start=1, swa_lr=1e-3, train=train)
    run = Run(
        settings,
        prepare_dataset(DataSpec.model_validate(DATA)),
        decide_numerics(train, DATA["image_size"], device="cpu", threads=1),
    )
    records = list(run)[2:]
    return (
        statistics.median(r.train_seconds for r in records),
        statistics.median(r.bn_seconds for r in records),
        statistics.median(r.eval_seconds / 2 for r in records),
    )


def estimate_work(trained: int, averaged: int, cpus: int) -> float:
    """Seconds of all epochs on one core, each stage at full speed."""
    with ProcessPoolExecutor(cpus) as pool:  # as many side by side as there are trials
        stages = zip(*pool.map(full_speed, range(cpus)), strict=True)
        train, refresh, evaluate = map(statistics.median, stages)
    return trained * (train + evaluate) + averaged * (refresh + evaluate)


def grid(repeat: int, cpus: int, epochs: int) -> None:
    """The tutorial's grid, scaled from 120 epochs to `epochs`."""
    starts = [round(s * epochs / 120) for s in (60, 75, 90)]
    rates = [0.05, 5e-4, 1e-4, 5e-5, 1e-5]
    configurations: list[dict[str, Any]] = [{"lr": 1e-4}]
    configurations += [{"lr": 1e-4, "swa_start": s, "swa_lr": r} for s in starts for r in rates]
    space = space_file(
        epochs,
        {"lr": 1e-4, "swa_start": {"choice": starts}, "swa_lr": {"choice": rates}},
        search={"sampler": "grid"},
        scheduler={"asha": False},
    )
    print(where())
    mine, theirs, trained, bounds, waits = [], [], [], [], []
    loop: list[float] = []
    for _ in range(repeat):
        seconds, folder, _ = time_search(space, cpus)
        trials = pd.read_parquet(folder / "trials.parquet")
        events = [json.loads(line) for line in (folder / "journal.jsonl").open()]
        mine.append(seconds)
        trained.append(int(trials.epochs_trained.sum()))
        begun = next(e["time"] for e in events if e["event"] == "created")
        ended = next(e["time"] for e in events if e["event"] == "finished")
        first = next(e["time"] for e in events if e["event"] == "started")
        waits.append(seconds - (ended - begun) + (first - begun))  # before and after the trials
        epochs_of = pd.read_parquet(folder / "epochs.parquet")
        averaged = int((epochs_of.n_averaged > 0).sum())
        bounds.append(estimate_work(trained[-1], averaged, cpus) / cpus + waits[-1])
        seconds, told = peer("plain_tune", {**task(epochs, cpus), "configurations": configurations})
        theirs.append(seconds)
        assert told["epochs"] == len(configurations) * epochs
        shutil.rmtree(folder.parent)
    # a baseline and an SWA run stand for all of them
    measured = [configurations[0], configurations[6]]
    loop = peer("tutorial_loop", {**task(epochs, cpus), "configurations": measured, "measured": 2})[1]
    one_by_one = sum(loop[:epochs]) + (len(configurations) - 1) * sum(loop[epochs:])
    rows = [
        ["tune_swa", trained[0], spread(mine, " s"), "1"],
        ["plain Ray Tune", len(configurations) * epochs, spread(theirs, " s"),
         spread([t / m for t, m in zip(theirs, mine, strict=True)])],
        ["one run after the other, all cores", len(configurations) * epochs,
         f"{one_by_one:.0f} s (2 of {len(configurations)} runs measured)",
         f"{one_by_one / statistics.median(mine):.3g}"],
        ["bound: the same stages at full speed, and start-up", trained[0], spread(bounds, " s"),
         spread([b / m for b, m in zip(bounds, mine, strict=True)])],
    ]  # fmt: skip
    print(f"\n{len(configurations)} configurations of {epochs} epochs, {cpus} trials at once; of the bound, "
          f"start-up and end are {spread(waits, ' s')}.\n")  # fmt: skip
    print(table(["", "epochs trained", "seconds", "ratio to tune_swa"], rows))


# ----------------------------------------------------------------------------------- TPE and ASHA


def tpe(seeds: int, cpus: int, epochs: int, trials: int, grace: int) -> None:
    """Time until a search reports the best accuracy that the whole search of the peer found."""
    rates, starts, swa_rates = [3e-4, 1e-3, 3e-3], [epochs // 3, epochs - 3], [1e-4, 1e-2]
    print(where())
    rows, ratios, whole = [], [], []
    for seed in range(seeds):
        _, told = peer(
            "plain_tune",
            {**task(epochs, cpus), "lr": rates, "swa_start": starts, "swa_lr": swa_rates, "trials": trials,
             "search_seed": seed, "grace_period": grace},
        )  # fmt: skip
        target = max(accuracy for _, accuracy in told["reports"])
        reached = min(at for at, accuracy in told["reports"] if accuracy >= target)
        space = space_file(
            epochs,
            {"lr": {"choice": rates}, "swa_start": {"int": starts}, "swa_lr": {"log_uniform": swa_rates}},
            search={"sampler": "tpe", "trials": trials, "seed": seed},
        )
        space["train"]["seed"] = 0
        seconds, folder, began = time_search(space, cpus)
        events = [json.loads(line) for line in (folder / "journal.jsonl").open()]
        hits = [
            e["time"] - began for e in events if e["event"] == "epoch" and e["record"]["accuracy"] >= target
        ]
        found = pd.read_parquet(folder / "trials.parquet")
        mine = min(hits, default=None)
        ratios.append(reached / mine if mine else 0.0)
        whole.append(told["seconds"] / mine if mine else 0.0)
        rows.append(
            [seed, f"{target:.4f}", f"{reached:.0f} s", f"{told['seconds']:.0f} s", told["epochs"],
             f"{mine:.0f} s" if mine else "never", f"{found[found.status == 'completed'].accuracy.max():.4f}",
             f"{seconds:.0f} s", int(found.epochs_trained.sum()),
             f"{ratios[-1]:.2f}", f"{whole[-1]:.2f}"],
        )  # fmt: skip
        shutil.rmtree(folder.parent)
    print(f"\n{trials} SWA trials of {epochs} epochs, {cpus} at once; ours trains {len(rates)} baselines "
          f"besides. The peer's ASHA has a grace period of {grace}. The target is the best accuracy of any "
          "report of the peer.\n")  # fmt: skip
    print(table(["seed", "target", "peer reaches it", "peer ends", "peer's epochs", "ours reaches it",
                 "ours ends with", "ours ends", "our epochs", "ratio to reach",
                 "peer's whole search / ours to reach"], rows))  # fmt: skip
    print(f"\nMedian of the ratios: {statistics.median(ratios):.2f} to reach it, "
          f"{statistics.median(whole):.2f} against the peer's whole search.")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["grid", "tpe"])
    parser.add_argument("--repeat", type=int, default=1, help="of the grid")
    parser.add_argument("--seeds", type=int, default=3, help="of the search by TPE")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--trials", type=int, default=24, help="of the search by TPE")
    parser.add_argument(
        "--grace", type=int, default=3, help="epochs of the peer's ASHA, in the search by TPE"
    )
    options = parser.parse_args()
    if options.what == "grid":
        grid(options.repeat, options.cpus, options.epochs)
    else:
        tpe(options.seeds, options.cpus, options.epochs, options.trials, options.grace)
