"""What an epoch's parts cost, and what each way of making them cheaper brings.

    python benchmarks/step.py step    # channels last, fused Adam, bf16, torch.compile; evaluation batches
    python benchmarks/step.py bn      # the BN refresh over fewer batches: accuracy lost, time saved
    python benchmarks/step.py arithmetic    # block floating point against fp32

All variants of a table run in turn in one process, with as many threads as a trial has.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from dataclasses import replace

import torch
from common import spread, table, where

from tune_swa.config import ArithmeticSpec, DataSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run


def images(size: int) -> Dataset:
    """The digits of the other benchmarks."""
    spec = {"dataset": "digits", "image_size": size, "train_images": 400, "val_fraction": 0.25}
    return prepare_dataset(DataSpec.model_validate(spec))


def seconds(what: object) -> float:
    begun = time.perf_counter()
    what()  # type: ignore[operator]
    return time.perf_counter() - begun


def step(size: int, repeat: int, threads: int) -> None:
    """Seconds of a training epoch by format and kernel, and of an evaluation by batch size."""
    data = images(size)
    plain = replace(
        decide_numerics(TrainSpec(), size, device="cpu", threads=threads),
        channels_last=False,
        fused=False,
        compile=False,
    )
    default = decide_numerics(TrainSpec(), size, device="cpu", threads=threads)
    variants = {
        "contiguous, plain Adam": plain,
        "channels last": replace(plain, channels_last=True),
        "fused Adam": replace(plain, fused=True),
        "channels last, fused Adam": replace(plain, channels_last=True, fused=True),
        "the default, and bf16": replace(default, precision="bf16"),
        "the default, and torch.compile": replace(default, compile=True),
    }
    train = TrainSpec(epochs=10_000, batch_size=64, optimizer="adam")
    runs = {name: Run(RunSettings(lr=1e-3, train=train), data, n) for name, n in variants.items()}
    first = {name: seconds(run.train_epoch) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat):
        for name, run in runs.items():
            times[name].append(seconds(run.train_epoch))
    base = times["contiguous, plain Adam"]
    print(f"\nA training epoch of 400 digits at {size} px, batch 64, {threads} thread(s).\n")
    rows = [
        [name, spread(found, " s"), spread([b / f for b, f in zip(base, found, strict=True)]),
         f"{first[name]:.1f} s"]
        for name, found in times.items()
    ]  # fmt: skip
    print(table(["", "an epoch", "times as fast, by pairs", "the first one"], rows))

    run = runs["channels last, fused Adam" if default.channels_last else "fused Adam"]
    batches = [32, 64, 128, 256, 512]
    found: dict[int, list[float]] = {batch: [] for batch in batches}
    for _ in range(repeat + 1):
        for batch in batches:
            run.settings = run.settings.model_copy(
                update={"train": train.model_copy(update={"eval_batch_size": batch})}
            )
            found[batch].append(seconds(lambda: run._evaluate_on_validation(run.model)))
    print(f"\nAn evaluation of {len(data.val)} images.\n")
    print(table(["batch", "seconds"], [[batch, spread(f[1:], " s")] for batch, f in found.items()]))


def arithmetic(size: int, repeat: int, threads: int) -> None:
    """Seconds of a training epoch in fp32 and in block floating point."""
    data = images(size)
    numerics = decide_numerics(TrainSpec(), size, device="cpu", threads=threads)
    train = TrainSpec(epochs=10_000, batch_size=64, optimizer="sgd")
    variants = {
        "fp32": None,
        "8 bits, stochastic": ArithmeticSpec(),
        "8 bits, nearest": ArithmeticSpec(rounding="nearest"),
    }
    runs = {
        name: Run(RunSettings(lr=0.01, train=train.model_copy(update={"arithmetic": chosen})), data, numerics)
        for name, chosen in variants.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run.train_epoch()
    for _ in range(repeat):
        for name, run in runs.items():
            times[name].append(seconds(run.train_epoch))
    print(f"\nA training epoch of 400 digits at {size} px, batch 64, {threads} thread(s).\n")
    rows = [
        [name, spread(found, " s"), spread([f / b for f, b in zip(found, times["fp32"], strict=True)])]
        for name, found in times.items()
    ]
    print(table(["", "an epoch", "times as long, by pairs"], rows))


def bn(size: int, seeds: int, threads: int, epochs: int) -> None:
    """Refresh the same averages over fewer or larger batches, and evaluate each."""
    data = images(size)
    numerics = decide_numerics(TrainSpec(), size, device="cpu", threads=threads)
    variants: dict[str, tuple[int | None, int]] = {
        "all 7 batches of 64 (default)": (None, 64),
        "4 batches of 64": (4, 64),
        "2 batches of 64": (2, 64),
        "1 batch of 64": (1, 64),
        "all, batches of 200": (None, 200),
        "all, one batch of 400": (None, 400),
        "1 batch of 200": (1, 200),
    }
    spent: dict[str, list[float]] = {name: [] for name in variants}
    scored: dict[str, list[float]] = {name: [] for name in variants}
    for seed in range(seeds):
        train = TrainSpec(epochs=epochs, batch_size=64, optimizer="adam", weight_decay=1e-4)
        run = Run(
            RunSettings(lr=1e-3, swa_start=epochs // 2, swa_lr=1e-3, seed=seed, train=train), data, numerics
        )
        for record in run:
            if run.averaging is None or record.n_averaged < 2:
                continue
            kept = copy.deepcopy(run.averaging.average.state_dict())
            settings = run.settings
            for name, (limit, batch) in variants.items():
                averaging = settings.averaging.model_copy(
                    update={"bn_batches": limit, "bn_batch_size": batch}
                )
                run.settings = settings.model_copy(update={"averaging": averaging})
                averages = run.averaging
                begun = time.perf_counter()
                run.refresh_model(averages.average, run.epoch)
                spent[name].append(time.perf_counter() - begun)
                scored[name].append(100 * run._evaluate_on_validation(run.averaging.average.module).accuracy)
            run.settings = settings
            run.averaging.average.load_state_dict(kept)
    default = next(iter(variants))
    print(f"\n{len(spent[default])} averages of {seeds} seeds, digits at {size} px, {len(data.val)} "
          "validation images; the difference of each average to its refresh over all batches.\n")  # fmt: skip
    rows = []
    for name in variants:
        lost = [s - d for s, d in zip(scored[name], scored[default], strict=True)]
        rows.append(
            [name, spread(spent[name], " s"), f"{statistics.mean(scored[name]):.2f} %",
             f"{statistics.mean(lost):+.2f} points ({min(lost):+.2f} to {max(lost):+.2f})"],
        )  # fmt: skip
    print(table(["refresh", "an epoch", "mean accuracy", "difference"], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["step", "bn", "arithmetic"])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(where())
    if options.what == "step":
        step(options.size, options.repeat, options.threads)
    elif options.what == "arithmetic":
        arithmetic(options.size, options.repeat, options.threads)
    else:
        bn(options.size, options.seeds, options.threads, options.epochs)
