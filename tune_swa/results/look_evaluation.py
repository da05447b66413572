"""Apply the rule to a look, given the journal and the predictions.

The search decides by it whether more seeds follow, and the results show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tune_swa.experiment.events import LookPlanned
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference import rule
from tune_swa.results.image_scores import Scores, score_images
from tune_swa.results.predictions import read_shipped


def read_and_evaluate_look(state: ExperimentState, look: LookPlanned, folder: Path) -> rule.Judgement:
    """`evaluate_look`, by the objective, with the predictions in the experiment's folder.

    Raises:
        RequestError: predictions cannot be read.
    """
    metric = state.objective.metric
    scores = {name: score_images(said, metric) for name, said in read_shipped(state, folder).items()}
    return evaluate_look(state, look, scores)


def evaluate_look(state: ExperimentState, look: LookPlanned, scores: Mapping[str, Scores]) -> rule.Judgement:
    """Apply the rule to a look of a plan.

    Args:
        state: the fold of the journal.
        look: the `confirm` event.
        scores: of each run that was tested, its scores of the test images (`score_images`).
    """
    assert look.looks is not None
    assert look.levels is not None
    arms, seeds = look.arms, look.seeds
    runs = {(arm.name, seed): fresh_run_name(arm.name, "confirm", seed) for arm in arms for seed in seeds}
    known = {key: name for key, name in runs.items() if _is_completed(state, name) and name in scores}
    return rule.judge_look(
        {arm.name: {s: scores[known[n, s]] for n, s in known if n == arm.name} for arm in arms},
        [arm.name for arm in arms if "finalist" in arm.roles],
        [arm.name for arm in arms if arm.kind == "baseline"],
        look=look.looks.index(len(seeds)) + 1,
        looks=tuple(look.looks or ()),
        levels=tuple(look.levels or ()),
    )


def _is_completed(state: ExperimentState, name: str) -> bool:
    return name in state.trials and state.trials[name].status == "completed"
