"""Curves of digits over base rates, starts and SWA rates: recorded once, interpolated for the replay.

Every trunk is trained once per training seed, and its branches go on from its states, by the package's own
training code.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CURVES = Path(__file__).parent / "reuse_curves.parquet"
DATA = {"dataset": "digits", "image_size": 16, "train_images": 400, "val_fraction": 0.25}
TRAIN: dict[str, Any] = {"epochs": 20, "batch_size": 64, "optimizer": "adam", "weight_decay": 1e-4}
ANNEAL = 3
EPOCHS = int(TRAIN["epochs"])
STARTS = (8, 11, 14, 17)
"""0.4 to 0.85 of the epochs: where `swa_tpe.yaml` searches."""
LR, SWA_LR = (3e-5, 1e-2), (1e-5, 3e-2)
RATES = tuple(float(f"{r:.6g}") for r in np.geomspace(*LR, 12))
SWA_RATES = tuple(float(f"{r:.6g}") for r in np.geomspace(*SWA_LR, 5))


# ------------------------------------------------------------------------------------- recording


def record_curves(seeds: int, parts: Path) -> None:
    """Train all trunks and branches, one file a trunk: those that are there already are not trained again."""
    from tune_swa.config import DataSpec
    from tune_swa.data.dataset import prepare_dataset

    data = prepare_dataset(DataSpec.model_validate(DATA))
    parts.mkdir(parents=True, exist_ok=True)
    # the middle rates first: a table that was not finished can be looked at
    order = sorted(range(len(RATES)), key=lambda i: (i % 2, i))
    for seed, number in itertools.product(range(seeds), order):
        file = parts / f"seed{seed}-{number:02d}.parquet"
        if not file.exists():
            rows = list(train_trunk(RATES[number], seed, data))
            pd.DataFrame(rows).to_parquet(file)
            print(f"{file.name}: {len(rows)} epochs", flush=True)
    whole = pd.concat([pd.read_parquet(p) for p in sorted(parts.glob("seed*.parquet"))], ignore_index=True)
    whole.to_parquet(CURVES)


def train_trunk(lr: float, seed: int, data: Any) -> Iterator[dict[str, Any]]:
    """Train one trunk to its end as a baseline, and all branches from its states; yield their epochs."""
    import torch

    from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
    from tune_swa.training.metrics import NonFiniteError
    from tune_swa.training.numerics import decide_numerics
    from tune_swa.training.run import Run

    torch.set_num_threads(1)
    train = TrainSpec.model_validate(TRAIN)
    numerics = decide_numerics(train, DATA["image_size"], device="cpu", threads=1)

    def make_run(**swa: Any) -> Run:
        averaging = AveragingSpec(anneal_epochs=ANNEAL)
        return Run(RunSettings(lr=lr, seed=seed, train=train, averaging=averaging, **swa), data, numerics)

    trunk, states = make_run(), {}
    while not trunk.done:
        trunk.begin_epoch()
        if trunk.epoch - 1 in STARTS:
            states[trunk.epoch - 1] = copy.deepcopy(trunk.trunk_state())
        yield describe_epoch(lr, None, None, seed, trunk.finish_epoch())
    for start, swa_lr in itertools.product(STARTS, SWA_RATES):
        branch = make_run(swa_start=start, swa_lr=swa_lr)
        branch.load_state_dict(copy.deepcopy(states[start]))
        try:
            for record in branch:
                yield describe_epoch(lr, start, swa_lr, seed, record)
        except NonFiniteError:
            continue


def describe_epoch(
    lr: float, start: int | None, swa_lr: float | None, seed: int, record: Any
) -> dict[str, Any]:
    """Make a row of the table; a baseline has no start and no SWA rate."""
    return {
        "seed": seed, "lr": lr, "swa_start": math.nan if start is None else float(start),
        "swa_lr": math.nan if swa_lr is None else swa_lr, "epoch": record.epoch,
        "accuracy": record.accuracy, "nll": record.nll,
    }  # fmt: skip


# ----------------------------------------------------------------------------------- interpolating


class Landscape:
    """The curves of one training seed, multilinear between the recorded ones; rates by their logarithm.

    Args:
        frame: the recorded table.
        seed: of the training.
    """

    def __init__(self, frame: pd.DataFrame, seed: int) -> None:
        rows = frame[frame.seed == seed]
        self.rates = np.log(np.sort(rows.lr.unique()))
        # [base rate, epoch] and [base rate, start, SWA rate, epoch]; a run that diverged stays at chance
        self.trunks = np.full((len(self.rates), EPOCHS), 0.1)
        self.branches = np.full((len(self.rates), len(STARTS), len(SWA_RATES), EPOCHS), 0.1)
        for (lr, start), group in rows.groupby(["lr", "swa_start"], dropna=False):
            i = int(np.argmin(abs(self.rates - np.log(lr))))
            if np.isnan(start):
                self.trunks[i, group.epoch] = group.accuracy
                continue
            for swa_lr, curve in group.groupby("swa_lr"):
                j, k = STARTS.index(int(start)), int(np.argmin(abs(np.array(SWA_RATES) - swa_lr)))
                self.branches[i, j, k, curve.epoch] = curve.accuracy

    @property
    def best(self) -> float:
        """The highest last accuracy of any SWA configuration: a multilinear surface has it where it was
        recorded."""
        return float(self.branches[..., -1].max())

    def read_curve(self, params: dict[str, Any]) -> list[float]:
        """Return the accuracy after each epoch of a configuration; without SWA settings of its baseline."""
        (i, t) = locate(self.rates, math.log(params["lr"]))
        trunk = (1 - t) * self.trunks[i] + t * self.trunks[i + 1]
        if "swa_start" not in params:
            return [float(v) for v in trunk]
        block = (1 - t) * self.branches[i] + t * self.branches[i + 1]
        j, u = locate(np.array(STARTS, float), params["swa_start"])
        block = (1 - u) * block[j] + u * block[j + 1]
        k, v = locate(np.log(SWA_RATES), math.log(params["swa_lr"]))
        branch = (1 - v) * block[k] + v * block[k + 1]
        fork = params["swa_start"] + 1
        return [float(trunk[e] if e < fork else branch[e]) for e in range(EPOCHS)]


def locate(points: np.ndarray, value: float) -> tuple[int, float]:
    """Return the interval of a value, and where in it the value is, 0 to 1."""
    i = int(np.clip(np.searchsorted(points, value) - 1, 0, len(points) - 2))
    return i, float(np.clip((value - points[i]) / (points[i + 1] - points[i]), 0, 1))
