"""The full recipe on a GPU: images per second, seconds per epoch, trials per GPU, memory.

    python benchmarks/gpu.py                       # Intel's set in size: 14,034 JPEGs of 150 px, at 256 px
    python benchmarks/gpu.py --device cpu --count 300 --size 64 --batch-size 32    # a try without a GPU

Needs torch and torchvision, not Ray. Images are crops of scikit-learn's photographs, written as JPEG.
Prints what a trial reaches against the same model on one resident batch and against ImageFolder behind a
DataLoader; seconds of a trunk epoch and of a branch epoch (with BN refresh and two evaluations); the
same with one, two and four trials side by side on one GPU; and what the tutorial's table would take.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import spread, table, where
from throughput import seconds_of_epoch, seconds_of_loader, seconds_resident, write_jpegs
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tune_swa.data.batches import batch_sizes
from tune_swa.data.dataset import prepare
from tune_swa.spec import DataSpec, RunSettings, TrainSpec
from tune_swa.training.loop import Run
from tune_swa.training.numerics import resolve

EPOCHS, BRANCHES = 120, ((90, 5), (75, 1), (60, 1))
"""The tutorial's table: its epochs, and how many runs average from each start. The baseline has a trunk of
its own, and the SWA runs have one together."""
SAMPLES = 5
"""Epochs of each phase that are timed."""
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Recipe:
    """What a trial trains."""

    folder: str
    size: int
    batch_size: int
    device: str
    share: float
    """Of the GPU's memory."""
    threads: int


def new_run(recipe: Recipe) -> Run:
    """An SWA run that averages after one epoch to warm up and those of the trunk that are timed."""
    data = prepare(
        DataSpec.model_validate({"dataset": "folder", "image_size": recipe.size, "val_fraction": 0.2}),
        Path(recipe.folder),
    )
    train = TrainSpec(epochs=10_000, batch_size=recipe.batch_size, augment=("hflip",))
    numerics = resolve(train, recipe.size, device=recipe.device, threads=recipe.threads)
    settings = RunSettings(lr=1e-4, swa_start=SAMPLES, swa_lr=5e-5, train=train)
    return Run(settings, data, numerics)


def trial(recipe: Recipe, ready: Any, results: Any) -> None:
    """One of several trials at once: trunk epochs, then branch epochs."""
    torch.set_num_threads(recipe.threads)
    if recipe.device == "cuda" and recipe.share < 1:
        torch.cuda.set_per_process_memory_fraction(recipe.share)
    run = new_run(recipe)
    run.run_epoch()  # chooses kernels, takes memory
    ready.wait(PATIENCE_SECONDS)
    records = [run.run_epoch() for _ in range(2 * SAMPLES)]
    memory = torch.cuda.max_memory_reserved() / 1e9 if recipe.device == "cuda" else 0.0
    seconds = [r.train_seconds + r.bn_seconds + r.eval_seconds for r in records]
    results.put(
        (statistics.median(seconds[:SAMPLES]), statistics.median(seconds[SAMPLES:]),
         statistics.median(r.images_per_second for r in records), memory)
    )  # fmt: skip


def side_by_side(recipe: Recipe, trials: int) -> list[tuple[float, float, float, float]]:
    """So many trials at once on one GPU: seconds of a trunk epoch and of a branch epoch, images/s, GB.

    Raises:
        queue.Empty: one of them has died, or takes longer than `PATIENCE_SECONDS`.
    """
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(trials), context.Queue()
    recipe = Recipe(**{**vars(recipe), "share": 1 / trials})
    workers = [
        context.Process(target=trial, args=(recipe, ready, results), daemon=True) for _ in range(trials)
    ]
    for worker in workers:
        worker.start()
    try:
        return [results.get(timeout=2 * PATIENCE_SECONDS) for _ in workers]
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def table_hours(trunk: float, branch: float, trials: int) -> float:
    """Hours of the tutorial's eight rows on one GPU, from the seconds of an epoch with so many at once.

    No less than the longest chain of epochs: a shared trunk and a branch on it, or the baseline.
    """
    first = max(start for start, _ in BRANCHES) + 2
    work = (EPOCHS + first) * trunk + branch * sum((EPOCHS - start - 2) * n for start, n in BRANCHES)
    chain = max(EPOCHS * trunk, first * trunk + (EPOCHS - first) * branch)
    return max(work / trials, chain) / 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=14_034, help="images, of which a fifth validates")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="of the DataLoader")
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here; --device cpu with small numbers tries the script")
    print(where())
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), given.count, 150)
        recipe = Recipe(folder, given.size, given.batch_size, given.device, 1.0, 1)
        begun = time.perf_counter()
        run: Run | None = new_run(recipe)
        print(f"\ndecoding once and the first model: {time.perf_counter() - begun:.0f} s\n")
        usual = transforms.Compose(
            [
                transforms.Resize((given.size, given.size)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )
        assert run is not None
        count = len(run._train)
        pictures = Subset(ImageFolder(folder, usual), range(count))
        loader: DataLoader[Any] = DataLoader(
            pictures, given.batch_size, shuffle=True, num_workers=given.workers,
            pin_memory=given.device == "cuda", persistent_workers=given.workers > 0,
        )  # fmt: skip
        sizes = batch_sizes(count, given.batch_size)
        ways = {
            "one resident batch": lambda: sum(sizes) / seconds_resident(run, sizes),
            "a trial": lambda: count / seconds_of_epoch(run),
            f"ImageFolder + DataLoader, {given.workers} workers": lambda: (
                count / seconds_of_loader(run, loader)
            ),
        }
        measured: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(given.repeat):
            for name, way in ways.items():
                measured[name].append(way())
        limit = measured["one resident batch"]
        print(
            table(
                ["", "images/s", "ratio to the limit, by pairs"],
                [
                    [name, spread(rates), spread([r / o for r, o in zip(rates, limit, strict=True)])]
                    for name, rates in measured.items()
                ],
            )
        )
        ways.clear()
        run = None  # what it holds on the GPU goes with it
        if given.device == "cuda":
            torch.cuda.empty_cache()
        print()
        header = ["trials on the GPU", "trunk epoch", "branch epoch", "images/s of all", "memory of one",
                  "the tutorial's table would take"]  # fmt: skip
        print(table(header, []), flush=True)
        for trials in given.trials:
            try:
                found = side_by_side(recipe, trials)
            except queue.Empty:
                print(f"| {trials} | failed: see above |", flush=True)
                continue
            trunk, branch, rate, memory = ([f[i] for f in found] for i in range(4))
            hours = table_hours(statistics.median(trunk), statistics.median(branch), trials)
            row = [trials, spread(trunk, " s"), spread(branch, " s"), f"{sum(rate):.0f}",
                   f"{max(memory):.1f} GB", f"{hours:.2f} h"]  # fmt: skip
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
