"""Apply the rule to a look, given the journal and the predictions.

The search decides by it whether more seeds follow, and the results show it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tune_swa.experiment.events import LookPlanned
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference import rule

Bools = NDArray[np.bool_]


def evaluate_look(state: ExperimentState, look: LookPlanned, correct: Mapping[str, Bools]) -> rule.Judgement:
    """Apply the rule to a look of a plan.

    Args:
        state: the fold of the journal.
        look: the `confirm` event.
        correct: of each run that was tested, shape (N,): whether it is right on each test image.
    """
    assert look.looks is not None
    assert look.levels is not None
    arms, seeds = look.arms, look.seeds
    runs = {(arm.name, seed): fresh_run_name(arm.name, "confirm", seed) for arm in arms for seed in seeds}
    known = {key: name for key, name in runs.items() if _is_completed(state, name) and name in correct}
    return rule.judge_look(
        {arm.name: {s: correct[known[n, s]] for n, s in known if n == arm.name} for arm in arms},
        [arm.name for arm in arms if "finalist" in arm.roles],
        [arm.name for arm in arms if arm.kind == "baseline"],
        look=look.looks.index(len(seeds)) + 1,
        looks=tuple(look.looks or ()),
        levels=tuple(look.levels or ()),
    )


def _is_completed(state: ExperimentState, name: str) -> bool:
    return name in state.trials and state.trials[name].status == "completed"
