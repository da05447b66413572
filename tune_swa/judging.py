"""What does the rule say of a look, given the journal and what was predicted?

The search asks it whether more seeds follow, and the results tell it: both by this function.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tune_swa.inference import rule
from tune_swa.journal import Event, ExperimentState, TrialState, fresh_run

Bools = NDArray[np.bool_]


def judge_look(state: ExperimentState, look: Event, right: Mapping[str, Bools]) -> rule.Judgement:
    """Apply the rule to a look of a plan.

    Args:
        state: the fold of the journal.
        look: the `confirm` event.
        right: of each run that was tested, shape (N,): whether it is right on each test image.
    """
    arms, seeds = look["arms"], look["seeds"]
    runs = {(arm["name"], seed): fresh_run(arm["name"], "confirm", seed) for arm in arms for seed in seeds}
    known = {key: name for key, name in runs.items() if _completed(state, name) and name in right}
    return rule.judge_look(
        {arm["name"]: {s: right[known[n, s]] for n, s in known if n == arm["name"]} for arm in arms},
        [arm["name"] for arm in arms if "finalist" in arm["roles"]],
        [arm["name"] for arm in arms if arm["kind"] == "baseline"],
        {arm["name"]: _validation(state, look, arm["name"]) for arm in arms},
        look=look["looks"].index(len(seeds)) + 1,
        looks=tuple(look["looks"]),
        levels=tuple(look["levels"]),
    )


def _completed(state: ExperimentState, name: str) -> TrialState | None:
    run = state.trials.get(name)
    return run if run is not None and run.status == "completed" and run.last else None


def _validation(state: ExperimentState, look: Event, arm: str) -> list[float]:
    """Validation accuracy of an arm's completed runs in the race before a look, and in the look."""
    race = [e for e in state.races if e["searched"] == look["searched"]]
    names = [fresh_run(arm, "race", seed) for event in race for seed in event["seeds"]]
    names += [fresh_run(arm, "confirm", seed) for seed in look["seeds"]]
    runs = [run for name in names if (run := _completed(state, name)) is not None]
    return [run.records[-1]["accuracy"] for run in runs]
