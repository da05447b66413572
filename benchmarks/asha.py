"""Which rungs serve best: recorded curves, replayed through stock ASHA and through ours.

    python benchmarks/asha.py record     # train every configuration to its end; writes asha_curves.parquet
    python benchmarks/asha.py            # replay them and print the table

A replay runs the recorded SWA trials of one training seed in a drawn order, `--slots` at a time, each
reporting one epoch per unit of time, and asks a stopping rule after each report. The baselines come
first and are never stopped. The winner is the configuration whose last average was best; ties count as
winners all. `regret` is what the search loses to it in accuracy. Epochs are given as shares of what all
trials would train by themselves: without sharing, and with every trunk trained once.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import ROOT, table, where
from ray.tune.schedulers.async_hyperband import _Bracket
from ray.tune.schedulers.trial_scheduler import TrialScheduler

from tune_swa.config import SchedulerSpec
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.asha import PhaseAsha

CURVES = Path(__file__).parent / "asha_curves.parquet"
EPOCHS = 24
SPACE: dict[str, Any] = {
    "name": "curves",
    "data": {"dataset": "digits", "image_size": 16, "train_images": 400, "val_fraction": 0.25},
    "train": {"epochs": EPOCHS, "batch_size": 64, "optimizer": "adam", "weight_decay": 1e-4},
    "averaging": {"anneal_epochs": 3},
    "space": {
        "lr": {"choice": [1e-4, 3e-4, 1e-3, 3e-3]},
        "swa_start": {"choice": [8, 13, 18]},
        "swa_lr": {"choice": [1e-4, 1e-3, 1e-2]},
    },
    "search": {"sampler": "grid"},
    "scheduler": {"asha": False},
}


def record_curves(seeds: int) -> None:
    """Train all configurations with several training seeds, and keep their curves."""
    tables = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            spec = {**SPACE, "train": {**SPACE["train"], "seed": seed}}
            (Path(folder) / "space.yaml").write_text(json.dumps(spec))
            subprocess.run(
                [sys.executable, str(ROOT / "run_search.py"), "--space", f"{folder}/space.yaml",
                 "--gpus", "0", "--results-dir", folder, "--quiet", "--no-confirm"],
                check=True, stdout=subprocess.DEVNULL, cwd=ROOT,
            )  # fmt: skip
            trials = pd.read_parquet(f"{folder}/curves/trials.parquet")
            epochs = pd.read_parquet(f"{folder}/curves/epochs.parquet")
            merged = epochs.merge(trials[["trial", "kind", "lr", "swa_start", "swa_lr"]], on="trial")
            columns = ["trial", "kind", "lr", "swa_start", "swa_lr", "epoch", "accuracy", "live_accuracy"]
            tables.append(merged[columns].assign(seed=seed))
            print(f"seed {seed}: {len(trials)} trials, {len(epochs)} epochs", flush=True)
    pd.concat(tables, ignore_index=True).to_parquet(CURVES)


# ------------------------------------------------------------------------------------- replaying


@dataclass(frozen=True)
class Curve:
    """A recorded trial."""

    trial: TrialState
    values: list[float]

    @property
    def fork(self) -> int:
        """Epoch of its first average; a baseline has none."""
        return EPOCHS if self.trial.fork_epoch is None else self.trial.fork_epoch


Rule = Callable[[Curve, int, float], bool]
"""Whether to stop a trial that reports a value at an epoch."""


def curves_of(seed: int, frame: pd.DataFrame) -> list[Curve]:
    """The trials of one training seed."""
    found = []
    for name, rows in frame[frame.seed == seed].groupby("trial"):
        first = rows.iloc[0]
        swa = first.kind == "swa"
        trial = TrialState(
            name=str(name), kind=first.kind, stage="search", params={}, seed=seed, source="grid", index=0,
            trunk=f"{first.lr:g}", fork_epoch=int(first.swa_start) + 1 if swa else None,
        )  # fmt: skip
        found.append(Curve(trial, list(rows.sort_values("epoch").accuracy)))
    return found


def stock(grace: int, factor: float = 3) -> Callable[[], Rule]:
    """Ray's asynchronous halving, its own bracket class, on the accuracy of every epoch."""

    def make() -> Rule:
        bracket = _Bracket(grace, EPOCHS, factor, 0)

        def rule(curve: Curve, epoch: int, value: float) -> bool:
            if curve.trial.kind == "baseline":
                return False
            trial: Any = curve.trial
            trial.trial_id = trial.name  # all that the bracket asks of Ray's trials
            return bool(bracket.on_result(trial, epoch + 1, value) == TrialScheduler.STOP)

        return rule

    return make


def ours(**changes: Any) -> Callable[[], Rule]:
    """Ours, by phase."""
    every_trunk_has_a_baseline = changes.pop("every_trunk_has_a_baseline", True)

    def make() -> Rule:
        spec = SchedulerSpec.model_validate({"reduction_factor": 3, "grace_epochs": 3, **changes})
        asha = PhaseAsha(spec, EPOCHS, every_trunk_has_a_baseline)
        return lambda curve, epoch, value: asha.judge_epoch(curve.trial, epoch, value).stop

    return make


@dataclass(frozen=True)
class Replay:
    """What came of one search."""

    survived: bool
    regret: float
    trained: int
    shared: int


def replay_curves(curves: list[Curve], rule: Rule, order: list[int], slots: int) -> Replay:
    """Run the trials in the order given, some at a time, as long as the rule lets them."""
    swa = [c for c in curves if c.trial.kind == "swa"]
    queue = iter([c for c in curves if c.trial.kind == "baseline"] + [swa[i] for i in order])
    reached: dict[str, int] = {}
    for curve, epoch in _reports(queue, slots, lambda c, e: rule(c, e, c.values[e])):
        reached[curve.trial.name] = epoch + 1
    completed = [c for c in swa if reached[c.trial.name] == EPOCHS]
    best = max(c.values[-1] for c in swa)
    trunks: dict[str, int] = {}
    branches = 0
    for curve in curves:
        epochs = reached[curve.trial.name]
        # a trunk is trained as far as anybody goes along it; the first average is of its weights
        along = min(epochs, curve.fork + 1)
        trunks[curve.trial.trunk] = max(trunks.get(curve.trial.trunk, 0), along)
        branches += epochs - along
    return Replay(
        survived=any(c.values[-1] == best for c in completed),
        regret=best - max((c.values[-1] for c in completed), default=0.0),
        trained=sum(reached.values()),
        shared=sum(trunks.values()) + branches,
    )


def _reports(
    queue: Iterator[Curve], slots: int, stop: Callable[[Curve, int], bool]
) -> Iterator[tuple[Curve, int]]:
    """Reports in the order of their time."""
    running: list[tuple[int, int, int, Curve]] = []  # time, tie, epoch, trial
    for tie, curve in zip(range(slots), queue, strict=False):
        heapq.heappush(running, (1, tie, 0, curve))
    while running:
        now, tie, epoch, curve = heapq.heappop(running)
        yield curve, epoch
        if not stop(curve, epoch) and epoch + 1 < EPOCHS:
            heapq.heappush(running, (now + 1, tie, epoch + 1, curve))
        elif (following := next(queue, None)) is not None:
            heapq.heappush(running, (now + 1, tie, 0, following))


def list_rules(latest: int) -> dict[str, Callable[[], Rule]]:
    """Name every rule that is compared.

    Args:
        latest: last epoch at which averaging starts.
    """
    branch_rungs = ((10,), (10, 15), (12,), (15,), (15, 20), (10, 15, 20), (20,), (21,), (22,), (15, 22))
    return {
        "no early stopping": lambda: lambda curve, epoch, value: False,
        **{f"stock ASHA, grace {g}": stock(g) for g in (1, 3, 6, 9, 12)},
        f"stock ASHA, grace {latest + 3} (after the last start)": stock(latest + 3),
        "ours, as by default": ours(),
        "ours, as by default where trunks have no baseline": ours(every_trunk_has_a_baseline=False),
        "ours, trunk rungs 2, 8 too": ours(trunk_rungs=(2, 8)),
        "ours, trunk rung 8 too": ours(trunk_rungs=(8,)),
        "ours, trunk rung 11 too": ours(trunk_rungs=(11,)),
        **{
            f"ours, branch rungs {', '.join(map(str, rungs))}": ours(branch_rungs=rungs)
            for rungs in branch_rungs
        },
        "ours, branch rungs 15, 20, factor 2": ours(branch_rungs=(15, 20), reduction_factor=2),
        "ours, branch rungs 15, 20, factor 4": ours(branch_rungs=(15, 20), reduction_factor=4),
    }


def compare_rules(orders: int, slots: int) -> None:
    """Replay every seed in many orders under every rule."""
    frame = pd.read_parquet(CURVES)
    seeds = sorted(frame.seed.unique())
    whole = frame.groupby("seed").size().iloc[0]
    rows = []
    everything = {seed: curves_of(seed, frame) for seed in seeds}
    for name, make in list_rules(int(frame.swa_start.max())).items():
        found: list[Replay] = []
        for seed in seeds:
            drawn = np.random.default_rng(seed)
            count = sum(c.trial.kind == "swa" for c in everything[seed])
            for _ in range(orders):
                found.append(replay_curves(everything[seed], make(), list(drawn.permutation(count)), slots))
        starts = range(0, len(found), orders)
        kept = [100 * statistics.mean(r.survived for r in found[i : i + orders]) for i in starts]
        rows.append(
            [name, f"{statistics.mean(kept):.0f} % ({min(kept):.0f} to {max(kept):.0f})",
             f"{100 * statistics.mean(r.regret for r in found):.2f}",
             f"{100 * np.quantile([r.regret for r in found], 0.9):.2f}",
             f"{100 * statistics.mean(r.trained for r in found) / whole:.0f} %",
             f"{100 * statistics.mean(r.shared for r in found) / whole:.0f} %"],
        )  # fmt: skip
    swa = sum(c.trial.kind == "swa" for c in everything[seeds[0]])
    print(f"{where()}\n\n{swa} SWA configurations and {len(everything[seeds[0]]) - swa} "
          f"baselines of {EPOCHS} epochs, {len(seeds)} training seeds, {orders} orders each, {slots} at a "
          "time; spread over the seeds.\n")  # fmt: skip
    print(table(["rule", "the winner survives", "regret, points", "its 90 % quantile", "epochs trained",
                 "with sharing"], rows))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["record", "compare"], default="compare")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--slots", type=int, default=4)
    options = parser.parse_args()
    if options.what == "record":
        record_curves(options.seeds)
    else:
        compare_rules(options.orders, options.slots)
