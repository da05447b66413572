"""What the driver costs when there are thousands of trials.

    python benchmarks/driver_scale.py            # our own part: 200 and 2,000 trials x 120 epochs
    python benchmarks/driver_scale.py --ray 12   # whole searches through Ray, of so many epochs

The trials only report. Without Ray: every report passes the coordinator, the rungs, the sampler's
study, the display and the watchdog, as in a search. Then the journal is folded and the result files
are written from it. `--sampler grid` is a grid on twenty base rates with ASHA, whose trials share their
trunks, so most of their epochs are taken over rather than reported.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from common import spread, table, where
from rich.console import Console

from tune_swa.config import Experiment
from tune_swa.errors import SearchFailed
from tune_swa.experiment.events import FORMAT, ExperimentCreated, SearchFinished, SessionStarted
from tune_swa.experiment.state import ExperimentState
from tune_swa.monitoring.progress import Progress
from tune_swa.monitoring.watchdog import Watchdog
from tune_swa.results.api import load_results
from tune_swa.results.export import write_tables
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.planner import Suggestion
from tune_swa.search.samplers import quiet_optuna

EPOCHS = 120
REUSE: Literal["auto", False] = False
"""Whether suggestions go along known trunks, whose epochs are taken over rather than reported."""
BLOCK = 20
"""Trials over which a time is taken."""


def experiment(trials: int, epochs: int, sampler: str) -> Experiment:
    """A space with continuous rates, whose trials all run to their end; for a grid, one with ASHA and
    twenty trunks."""
    grid = sampler == "grid"
    swa_rates = -(-trials // 200)
    return Experiment.model_validate(
        {
            "name": "scale",
            "train": {"epochs": epochs},
            "space": {
                "lr": {"choice": [1e-5 * 1.4**k for k in range(20)]}
                if grid
                else {"log_uniform": [1e-5, 1e-2]},
                "swa_start": {"choice": [epochs // 3 + 5 * k for k in range(10)]}
                if grid
                else {"int": [epochs // 3, epochs - 3]},
                "swa_lr": {"choice": [1e-5 * 1.9**k for k in range(swa_rates)]}
                if grid
                else {"log_uniform": [1e-5, 1e-2]},
            },
            "baseline": {"trials": "auto" if grid else 1},
            "search": {"sampler": sampler, "trials": trials, "reuse": REUSE},
            "scheduler": {"asha": grid},
        }
    )


def record(epoch: int, accuracy: float) -> dict[str, Any]:
    """What an epoch of a trial that trains nothing reports."""
    return {
        "epoch": epoch, "phase": "trunk", "learning_rate": 1e-3, "train_loss": 1.0, "accuracy": accuracy,
        "live_accuracy": accuracy, "nll": 1.0, "ece": 0.1, "n_averaged": 0, "train_seconds": 1.0,
        "bn_seconds": 0.0, "eval_seconds": 0.1, "images_per_second": 100.0,
    }  # fmt: skip


HEADER: dict[str, Any] = {
    "format": FORMAT, "version": "0", "numerics": {}, "hardware": {}, "versions": {}, "weights": "",
    "seed": 0,
    "data": {
        "name": "none", "fingerprint": "", "class_names": ["a", "b"], "num_classes": 2, "train": 800,
        "val": 100, "test": 100,
    },
}  # fmt: skip


def run_trial(coordinator: Coordinator, suggestion: Suggestion, progress: Progress) -> int:
    """Report a made-up trial until it ends; return the number of its reports."""
    name = suggestion.trial
    coordinator.add_trial(suggestion)
    if not coordinator.take_over_trunk(name):
        return 0
    trial = coordinator.state.trials[name]
    publishes: list[int] = []
    if coordinator.sharing is not None:
        publishes = coordinator.sharing.epochs_to_publish(trial.trunk, trial.fork_epoch)
    first = trial.next_epoch
    coordinator.record_start(name, device="none", node="here", from_epoch=first, damaged=[])
    for epoch in range(first, EPOCHS):
        reported = record(epoch, (suggestion.index % 97) / 97)
        published = reported if epoch in publishes else None
        decision = coordinator.record_epoch(name, reported, None, published=published)
        progress.tick()
        if decision == "stop":
            break
    return epoch + 1 - first


def without_ray(trials: int, sampler: str) -> list[object]:
    """Our part of a search of so many trials."""
    spec = experiment(trials, EPOCHS, sampler)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        coordinator = Coordinator(spec, folder, ExperimentState())
        coordinator.record_event(
            ExperimentCreated(
                spec=spec.model_dump(mode="json", by_alias=True), identity=spec.fixed_settings(), **HEADER
            )
        )
        coordinator.record_event(
            SessionStarted(number=1, slots=2, gpus=0, cpus=2, resumed=False, storage=None)
        )
        console = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
        progress = Progress(console, spec, coordinator.state, slots=2)
        watchdog = Watchdog(lambda text: None, list, lambda: 1)
        coordinator.add_listener(progress)
        coordinator.add_listener(watchdog)
        per_report: list[float] = []
        per_suggestion: list[float] = []
        with progress:
            while isinstance(_timed(coordinator.planner.next_suggestion, per_suggestion), Suggestion):
                suggestion = coordinator.planner._pending
                assert suggestion is not None
                begun = time.perf_counter()
                reports = run_trial(coordinator, suggestion, progress)
                if reports:
                    per_report.append((time.perf_counter() - begun) / reports)
        coordinator.record_event(SearchFinished(reason="completed"))
        coordinator.close()
        reports = sum(len(trial.records) for trial in coordinator.state.trials.values())
        size = (folder / "journal.jsonl").stat().st_size
        folding: list[float] = []
        writing: list[float] = []
        loading: list[float] = []
        for _ in range(3):
            state = _timed(partial(ExperimentState.read, folder / "journal.jsonl"), folding)
            _timed(partial(write_tables, state, folder), writing)
            _timed(partial(load_results, folder), loading)
    tail = per_report[-BLOCK:]
    return [
        trials, sampler, f"{reports:,}", spread([1e3 * s for s in per_report[:BLOCK]], " ms"),
        spread([1e3 * s for s in tail], " ms"),
        spread([1e3 * s for s in per_suggestion[-BLOCK - 1 : -1]], " ms"),
        f"{size / 1e6:.0f} MB", spread(folding, " s"), spread(writing, " s"), spread(loading, " s"),
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB",
    ]  # fmt: skip


def _timed(what: Any, into: list[float]) -> Any:
    begun = time.perf_counter()
    result = what()
    into.append(time.perf_counter() - begun)
    return result


def reports_only(config: dict[str, Any], context: Any) -> None:
    """A trainable that trains nothing."""
    from ray import tune

    from tune_swa.experiment.layout import PAYLOAD

    if config["trial"] is None:
        return
    start = {"event": "started", "device": "none", "node": "here", "from_epoch": 0, "damaged": []}
    tune.report({PAYLOAD: json.dumps(start)})
    for epoch in range(config["settings"]["train"]["epochs"]):
        message = {"event": "epoch", "record": record(epoch, config["settings"]["lr"]), "checkpoint": None}
        tune.report({PAYLOAD: json.dumps(message)})


def through_ray(trials: int, epochs: int, sampler: str) -> list[object]:
    """A whole search whose trials only report: seconds of wall time per report, early and late."""
    from ray import cloudpickle

    from tune_swa.execution import trial_loop
    from tune_swa.execution.request import Request
    from tune_swa.execution.run import run_search

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    trial_loop.train_trial = reports_only
    spec = experiment(trials, epochs, sampler)
    with tempfile.TemporaryDirectory() as temporary:
        request = Request(spec, results_dir=Path(temporary), gpus=0, quiet=True, logs=("none",))
        begun = time.perf_counter()
        with suppress(SearchFailed):  # there is no model to hand over
            run_search(request)
        wall = time.perf_counter() - begun
        times = [
            json.loads(line)["time"]
            for line in (request.folder / "journal.jsonl").open()
            if line.startswith('{"event":"epoch"')
        ]
    quarter = len(times) // 4
    pace = [1e3 * (times[(i + 1) * quarter - 1] - times[i * quarter]) / (quarter - 1) for i in range(4)]
    return [trials, sampler, f"{len(times):,}", f"{wall:.0f} s", ", ".join(f"{p:.1f}" for p in pace) + " ms"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--sampler", default="random", help="any of the space file's")
    parser.add_argument("--ray", type=int, metavar="EPOCHS", help="whole searches of so many epochs")
    parser.add_argument("--reuse", action="store_true", help="suggestions go along known trunks")
    options = parser.parse_args()
    REUSE = "auto" if options.reuse else False
    quiet_optuna()
    print(where() + "\n")
    if options.ray:
        print(table(["trials", "sampler", "reports", "wall time", "per report, by quarters of the search"],
                    [through_ray(n, options.ray, options.sampler) for n in options.trials]))  # fmt: skip
    else:
        header = ["trials", "sampler", "epochs", f"per report, first {BLOCK} trials", f"last {BLOCK}",
                  "a suggestion, at the end", "journal", "fold", "write the result files", "load_results",
                  "memory"]  # fmt: skip
        print(table(header, [without_ray(n, options.sampler) for n in options.trials]))
