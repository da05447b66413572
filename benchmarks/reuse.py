"""Samplers that know what is trained: recorded curves, replayed through each rule.

    python benchmarks/reuse.py record     # train the curves; writes reuse_curves.parquet
    python benchmarks/reuse.py            # replay the samplers on them, print the tables, draw the plot

A replay is a serial search by the package's own proposer, stopping rule and account of published states;
only the training is replaced by curves between the recorded ones. Regret is the best last accuracy of the
surface less the best of the search's completed SWA trials. Epochs are those that are trained, baselines
included and shared ones counted once. Today's search has 24 SWA trials and 6 baselines; every other one
goes on until it has trained what that one has, with the same search seed on the same surface.
"""

from __future__ import annotations

import argparse
import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from common import table, where
from reuse_curves import ANNEAL, CURVES, EPOCHS, LR, STARTS, SWA_LR, TRAIN, Landscape, record_curves
from reuse_rules import CHOSEN, Make, list_rules

from tune_swa.config import Experiment
from tune_swa.experiment.events import EpochReported, TrialEnded, TrialSuggested
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.asha import PhaseAsha
from tune_swa.search.planner import Suggestion
from tune_swa.search.proposer import Proposer
from tune_swa.search.samplers import quiet_optuna
from tune_swa.search.trunk_sharing import fork_points

TRIALS = 24
TODAY = "each a trunk of its own (today)"
GRID = np.linspace(0.2, 1.0, 81)
"""Shares of today's epochs at which regrets are read."""


def make_experiment(sampler: str, seed: int, trials: int, *, asha: bool) -> Experiment:
    """The search that is replayed."""
    return Experiment.model_validate(
        {
            "name": "replay", "train": TRAIN, "averaging": {"anneal_epochs": ANNEAL},
            "space": {
                "lr": {"log_uniform": list(LR)},
                "swa_start": {"int": [STARTS[0], STARTS[-1]]},
                "swa_lr": {"log_uniform": list(SWA_LR)},
            },
            "baseline": {"trials": TRIALS // 4},
            "search": {"sampler": sampler, "trials": trials, "seed": seed},
            "scheduler": {"asha": asha},
        }
    )  # fmt: skip


@dataclass
class Replay:
    """One search on a surface."""

    landscape: Landscape
    experiment: Experiment
    make: Make
    trained: int = 0
    points: list[tuple[int, int, float]] = field(default_factory=list)
    """After each trial: epochs trained, SWA trials, regret."""

    def __post_init__(self) -> None:
        self.proposer = Proposer(self.experiment)
        self.proposer._reuse = self.make(self.experiment)
        self.asha = PhaseAsha.of_experiment(self.experiment)
        self.forks = fork_points(self.experiment)
        self.published: dict[str, set[int]] = {}
        self.best = 0.0
        self.swa = 0

    def run(self, limit: float = math.inf) -> Replay:
        """Go on until the trials are used up, or so many epochs are trained."""
        while self.trained < limit and isinstance(found := self.proposer.next_suggestion(), Suggestion):
            self.train(found)
        return self

    def train(self, found: Suggestion) -> None:
        """Report a trial from its curve, as far as it comes; count the epochs that nobody had trained."""
        params, kind = found.params, found.kind
        trunk, fork = f"{params['lr']!r}", int(params["swa_start"]) + 1 if kind == "swa" else None  # type: ignore[arg-type]
        trial = TrialState(found.trial, kind, "search", params, 0, "", found.index, trunk, fork)
        self.proposer.apply_event(describe_suggestion(found, trunk, fork))
        curve, known = self.landscape.read_curve(params), self.published.setdefault(trunk, set())
        begin = max((p for p in known if p <= (EPOCHS - 2 if fork is None else fork)), default=-1) + 1
        status = "completed"
        for epoch, value in enumerate(curve):
            record = {"epoch": epoch, "accuracy": value, "shared_from": None if epoch >= begin else "another"}
            self.proposer.apply_event(
                EpochReported(
                    trial=trial.name, record=record, decision="continue", rung=None, checkpoint=None
                )
            )
            if self.asha.judge_epoch(trial, epoch, value).stop and epoch < EPOCHS - 1:
                status = "pruned"
                break
        self.trained += max(0, epoch + 1 - begin)
        if self.proposer._reuse is not None:
            known.update(p for p in self.forks if p <= min(epoch, EPOCHS if fork is None else fork))
        ended = TrialEnded(trial=trial.name, status=status, value=None, error=None)  # type: ignore[arg-type]
        if status == "completed":
            ended.value = value
        self.proposer.apply_event(ended)
        if kind == "swa":
            self.swa += 1
            self.best = max(self.best, value if status == "completed" else 0.0)
        self.points.append((self.trained, self.swa, self.landscape.best - self.best))

    def read(self, epochs: float) -> tuple[int, float]:
        """Return the SWA trials and the regret when so many epochs were trained."""
        done = [(swa, regret) for trained, swa, regret in self.points if trained <= epochs]
        return done[-1] if done else (0, self.landscape.best)


def describe_suggestion(found: Suggestion, trunk: str, fork: int | None) -> TrialSuggested:
    """The event that makes a suggestion a trial."""
    return TrialSuggested(
        trial=found.trial, kind=found.kind, stage="search", params=dict(found.params), seed=0,
        source=found.source, index=found.index, trunk=trunk, first_average=fork,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class Outcome:
    """One search seed under one rule."""

    whole: int
    """Epochs that today's search trains on this surface with this seed."""
    swa: int
    """SWA trials when as many were trained."""
    regrets: np.ndarray
    """At the shares of `whole` in `GRID`, in points."""
    reached: float
    """Share of `whole` after which the regret was today's last; inf: never."""
    at_trials: float
    """Regret after 24 SWA trials, in points."""
    spent: float
    """Share of `whole` that these took."""


@cache
def load_landscape(training_seed: int) -> Landscape:
    """Read the surface of a training seed, once for a process."""
    return Landscape(pd.read_parquet(CURVES), training_seed)


@cache
def replay_today(sampler: str, training_seed: int, seed: int, asha: bool) -> Replay:
    """Replay today's search, once for a process: all rules are compared with it."""
    experiment = make_experiment(sampler, seed, TRIALS, asha=asha)
    return Replay(load_landscape(training_seed), experiment, lambda experiment: None).run()


def replay_seed(task: tuple[str, str, int, int, bool]) -> Outcome:
    """Replay one search seed on the surface of one training seed."""
    name, sampler, training_seed, seed, asha = task
    quiet_optuna()
    landscape = load_landscape(training_seed)
    today = replay_today(sampler, training_seed, seed, asha)
    search = make_experiment(sampler, seed, 400, asha=asha)
    found = today if name == TODAY else Replay(landscape, search, list_rules()[name]).run(1.5 * today.trained)
    target = today.points[-1][2] + 1e-9
    reached = next((trained for trained, _, regret in found.points if regret <= target), math.inf)
    first = next((p for p in found.points if p[1] == TRIALS), found.points[-1])
    return Outcome(
        whole=today.trained,
        swa=found.read(today.trained)[0],
        regrets=np.array([100 * found.read(share * today.trained)[1] for share in GRID]),
        reached=reached / today.trained,
        at_trials=100 * first[2],
        spent=first[0] / today.trained,
    )


def compare_rules(
    sampler: str, seeds: range, only: list[str], processes: int, *, asha: bool
) -> dict[str, list[Outcome]]:
    """Replay every rule with many search seeds, and print a table."""
    surfaces = sorted(int(s) for s in pd.read_parquet(CURVES).seed.unique())
    found: dict[str, list[Outcome]] = {}
    with ProcessPoolExecutor(processes) as pool:
        for name in [n for n in list_rules() if not only or n in (TODAY, CHOSEN, *only)]:
            tasks = [(name, sampler, surface, seed, asha) for surface in surfaces for seed in seeds]
            found[name] = list(pool.map(replay_seed, tasks, chunksize=4))
    last = statistics.median(o.regrets[-1] for o in found[TODAY])
    rows = []
    for name, outcomes in found.items():
        regrets = np.stack([o.regrets for o in outcomes])
        median = np.median(regrets, axis=0)
        at = next(
            (f"{share:.2f}" for share, value in zip(GRID, median, strict=True) if value <= last), "never"
        )
        rows.append(
            [name, f"{statistics.mean(o.swa for o in outcomes) / TRIALS:.2f}",
             f"{np.median(regrets[:, -1]):.2f}", f"{np.quantile(regrets[:, -1], 0.9):.2f}", at,
             f"{statistics.median(o.reached for o in outcomes):.2f}",
             f"{statistics.median(o.at_trials for o in outcomes):.2f}",
             f"{statistics.mean(o.spent for o in outcomes):.2f}"]
        )  # fmt: skip
    whole = statistics.mean(o.whole for o in found[TODAY])
    early = "ASHA" if asha else "no early stopping"
    print(
        f"\n{sampler}, {early}: {len(surfaces)} training seeds, {len(seeds)} search seeds each, from "
        f"{seeds.start} on. Today's search trains {whole:.0f} epochs on average.\n"
    )
    print(table(["rule", "SWA trials at equal epochs", "regret at equal epochs, points", "its 90 % quantile",
                 "median curve at today's last regret", "today's last regret reached, median",
                 f"regret after {TRIALS} SWA trials", "epochs of these"], rows), flush=True)  # fmt: skip
    return found


def draw_plot(found: dict[str, list[Outcome]], names: dict[str, str], file: Path) -> None:
    """Draw median regrets (lines) and their 90 % quantiles (dashed) against epochs, as an SVG.

    Args:
        found: outcomes by rule.
        names: a colour for each rule that is drawn.
        file: is written.
    """
    width, height, left, bottom = 640, 360, 50, 40
    curves = {name: np.stack([o.regrets for o in found[name]]) for name in names}
    # before the first SWA trial completes there is none to compare: the regret begins above the plot
    top = 2 * max(float(np.quantile(c[:, -1], 0.9)) for c in curves.values())

    def place(share: float, regret: float) -> str:
        x = left + (width - left - 10) * (share - GRID[0]) / (GRID[-1] - GRID[0])
        return f"{x:.1f},{(height - bottom) * (1 - min(regret, top) / top) + 5:.1f}"

    def write(x: float, y: float, text: str, more: str = "") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" font-size="12" {more}>{text}</text>'

    lines = []
    for number, (name, colour) in enumerate(names.items()):
        for values, dash in (
            (np.median(curves[name], axis=0), ""),
            (np.quantile(curves[name], 0.9, axis=0), "4"),
        ):
            points = " ".join(place(s, v) for s, v in zip(GRID, values, strict=True))
            lines.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-dasharray="{dash}"/>'
            )
        lines.append(write(width - 290, 25 + 18 * number, name, f'fill="{colour}"'))
    for share in (0.2, 0.4, 0.6, 0.8, 1.0):
        x = float(place(share, 0).split(",")[0])
        lines.append(write(x, height - 20, f"{share:g}", 'text-anchor="middle"'))
    for regret in np.linspace(0, top, 5):
        y = float(place(1, float(regret)).split(",")[1])
        lines.append(f'<line x1="{left}" x2="{width - 10}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        lines.append(write(left - 6, y + 4, f"{regret:.1f}", 'text-anchor="end"'))
    lines.append(
        write(left, height - 4, "epochs trained, as a share of today's; regret in points: median, 90 %")
    )
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(lines)}</svg>\n'
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["record", "compare"], default="compare")
    parser.add_argument("--training-seeds", type=int, default=2, help="of a recording")
    parser.add_argument("--parts", type=Path, default=Path("/tmp/reuse_parts"), help="of a recording")
    parser.add_argument("--sampler", choices=["tpe", "gp", "random"], default="tpe")
    parser.add_argument("--seeds", type=int, default=50, help="of the search, on each surface")
    parser.add_argument("--first-seed", type=int, default=0, help="others than those that chose the rule")
    parser.add_argument("--rules", nargs="*", default=[], help="default: all")
    parser.add_argument("--no-asha", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.what == "record":
        record_curves(options.training_seeds, options.parts)
    else:
        print(where())
        outcomes = compare_rules(
            options.sampler,
            range(options.first_seed, options.first_seed + options.seeds),
            options.rules,
            options.processes,
            asha=not options.no_asha,
        )
        if options.plot:
            shown = {TODAY: "#666", CHOSEN: "#0a58ca"}
            draw_plot(outcomes, shown, options.plot)
