"""Whole searches with a continuous base rate: with known trunks, without, and plain Ray Tune.

    python benchmarks/reuse_search.py --seeds 3 --epochs 200

All have the same images, model, batch size and length of runs, one core a trial, and the same budget in
epochs; plain Ray Tune, which has none, has as many trials as use up about as much. Everything counts, from
the start of the interpreter to its end. What each found is trained again on fresh seeds, and tested.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pandas as pd
from common import spread, table, time_search, where
from reuse_curves import ANNEAL, DATA, EPOCHS, LR, STARTS, SWA_LR, TRAIN
from search_speed import peer

Found = tuple[str, int, dict[str, Any], list[object]]
"""Who searched, with which seed, the configuration that was best, and the row of the table."""


def search_ours(seed: int, budget: int, baselines: int, cpus: int, reuse: Any) -> Found:
    """Run a search of ours within the budget."""
    space = {
        "data": DATA, "train": {**TRAIN, "seed": 0}, "averaging": {"anneal_epochs": ANNEAL},
        "space": {
            "lr": {"log_uniform": list(LR)},
            "swa_start": {"int": [STARTS[0], STARTS[-1]]},
            "swa_lr": {"log_uniform": list(SWA_LR)},
        },
        "baseline": {"trials": baselines},
        "search": {"sampler": "tpe", "epochs": budget, "seed": seed, "reuse": reuse},
    }  # fmt: skip
    seconds, folder, _ = time_search(space, cpus)
    trials = pd.read_parquet(folder / "trials.parquet")
    swa = trials[trials.kind == "swa"]
    best = swa[swa.status == "completed"].sort_values("accuracy").iloc[-1]
    shutil.rmtree(folder.parent)
    config = {"lr": float(best.lr), "swa_start": int(best.swa_start), "swa_lr": float(best.swa_lr)}
    name = "tune_swa" if reuse else "tune_swa, reuse: false"
    row = [len(swa), int(trials.epochs_trained.sum()), f"{seconds:.0f} s", f"{100 * best.accuracy:.2f} %"]
    return name, seed, config, row


def search_peer(seed: int, trials: int, cpus: int, grace: int) -> Found:
    """Run plain Ray Tune with OptunaSearch and ASHA."""
    seconds, told = peer(
        "plain_tune",
        {"data": DATA, "num_classes": 10, "epochs": EPOCHS, "batch_size": TRAIN["batch_size"], "seed": 0,
         "anneal_epochs": ANNEAL, "cpus": cpus, "lr_range": list(LR), "swa_start": [STARTS[0], STARTS[-1]],
         "swa_lr": list(SWA_LR), "trials": trials, "search_seed": seed, "grace_period": grace},
    )  # fmt: skip
    accuracy, config = told["best"]
    row = [trials, told["epochs"], f"{seconds:.0f} s", f"{100 * accuracy:.2f} %"]
    return "plain Ray Tune", seed, config, row


def test_run(task: tuple[dict[str, Any], int]) -> float:
    """Train a configuration on a fresh seed; its accuracy on the test images."""
    import torch

    from tune_swa.config import AveragingSpec, DataSpec, RunSettings, TrainSpec
    from tune_swa.data.dataset import prepare_dataset
    from tune_swa.training.numerics import decide_numerics
    from tune_swa.training.run import Run

    torch.set_num_threads(1)
    config, seed = task
    train = TrainSpec.model_validate(TRAIN)
    settings = RunSettings(train=train, seed=seed, averaging=AveragingSpec(anneal_epochs=ANNEAL), **config)
    numerics = decide_numerics(train, int(DATA["image_size"]), device="cpu", threads=1)
    run = Run(settings, prepare_dataset(DataSpec.model_validate(DATA)), numerics)
    while not run.done:
        run.run_epoch()
    return float(run.predict_test_images().correct.float().mean())


def compare_searches(options: argparse.Namespace) -> None:
    """Run all searches in turn, then what they found on fresh seeds."""
    print(where(), flush=True)
    found: list[Found] = []
    for seed in range(options.seeds):
        for reuse in ("auto", False):
            found.append(search_ours(seed, options.epochs, options.baselines, options.cpus, reuse))
        found.append(search_peer(seed, options.peer_trials, options.cpus, options.grace))
        print(*(f"{name}: {row}" for name, at, _, row in found if at == seed), sep="\n", flush=True)
    fresh = range(1000, 1000 + options.fresh)
    with ProcessPoolExecutor(options.cpus) as pool:
        tested = list(pool.map(test_run, [(config, seed) for _, _, config, _ in found for seed in fresh]))
    rows = []
    for number, (name, seed, config, row) in enumerate(found):
        accuracies = [100 * value for value in tested[number * len(fresh) : (number + 1) * len(fresh)]]
        chosen = f"SWA_{config['swa_start']}_{config['swa_lr']:.2g} lr={config['lr']:.2g}"
        rows.append([name, seed, *row, chosen, spread(accuracies, " %", 4), statistics.mean(accuracies)])
    print(f"\nBudget of {options.epochs} epochs, runs of {EPOCHS}, {options.baselines} baselines (the peer "
          f"has none), {options.cpus} trials at once.\n")  # fmt: skip
    print(table(["search", "seed", "SWA trials", "epochs trained", "seconds", "best validation accuracy",
                 "configuration", "test accuracy on fresh seeds"], [row[:-1] for row in rows]))  # fmt: skip
    for name in dict.fromkeys(row[0] for row in rows):
        means = [float(str(row[-1])) for row in rows if row[0] == name]
        print(f"\n{name}: mean test accuracy {statistics.mean(means):.2f} %", end="")
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the search")
    parser.add_argument("--epochs", type=int, default=200, help="budget of a search")
    parser.add_argument("--baselines", type=int, default=2)
    parser.add_argument("--peer-trials", type=int, default=18)
    parser.add_argument("--grace", type=int, default=3, help="epochs of the peer's ASHA")
    parser.add_argument("--fresh", type=int, default=3, help="seeds that what was found is tested on")
    parser.add_argument("--cpus", type=int, default=2)
    compare_searches(parser.parse_args())
