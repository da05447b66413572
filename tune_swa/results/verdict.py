"""Compute the verdict of a confirmation from the recorded runs on fresh seeds.

The rule is `tune_swa.inference.rule`: a finalist is better if it beats every plain arm, at a level that was
fixed before the first look. Looks of older journals keep the rule of their time (`former_rule`). There is no
verdict before all runs of a look have ended: stopping at a moment of one's choice would be looking more often
than the level allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tune_swa.config import Experiment, Metric
from tune_swa.experiment.events import DamagedError, LookPlanned, PlannedArm, params_of
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference.checks import compare_parts
from tune_swa.inference.rule import FinalistJudgement, Judgement
from tune_swa.results.contrasts import Contrast, TestedArm, Verdict, compare_arms, compare_with_trunks
from tune_swa.results.former_rule import former_verdict
from tune_swa.results.image_scores import score_images
from tune_swa.results.look_evaluation import evaluate_look
from tune_swa.results.predictions import RunPredictions, read_shipped
from tune_swa.results.provenance import restore_experiment, validation_images


def compute_verdict(state: ExperimentState, folder: Path) -> Verdict | None:
    """Work out the verdict of the last look; None where no fresh seed was planned or tested.

    Args:
        state: the fold of the journal.
        folder: the experiment's folder, which has the predictions.

    Raises:
        RequestError: the journal is empty, or the predictions cannot be read.
    """
    if not state.confirmations:
        return None
    return analyse_confirmation(state, read_shipped(state, folder))


def analyse_confirmation(state: ExperimentState, predictions: RunPredictions) -> Verdict | None:
    """`compute_verdict`, from predictions that were read already."""
    looks = [_analyse_look(state, predictions, event) for event in state.confirmations]
    last = looks[-1]
    return None if last is None else replace(last, earlier=tuple(v for v in looks[:-1] if v is not None))


def _analyse_look(state: ExperimentState, predictions: RunPredictions, look: LookPlanned) -> Verdict | None:
    """The verdict of one look; None before any run was tested."""
    experiment = restore_experiment(state)
    arms = [_build_arm(experiment, state, entry, look.seeds) for entry in look.arms]
    images = next((len(s.label) for s in predictions.values()), 0)
    if not images:
        return None
    names = [fresh_run_name(a.name, "confirm", seed) for a in look.arms for seed in look.seeds]
    complete = all(name in state.trials and state.trials[name].ended for name in names)
    if look.plan is None:
        found = former_verdict(arms, predictions, look, images, complete=complete)
    else:
        metric = state.objective.metric
        scores = {name: score_images(predictions[name], metric) for name in names if name in predictions}
        judgement = evaluate_look(state, look, scores)
        found = _apply_rule(arms, predictions, look, judgement, metric, complete=complete)
        if complete:
            found = replace(found, stop=state.stops.get(look.look, judgement.stop))
    return _add_parts_comparison(found, validation_images(state)) if complete else found


def _apply_rule(
    arms: Sequence[TestedArm],
    predictions: RunPredictions,
    look: LookPlanned,
    judgement: Judgement,
    metric: Metric,
    *,
    complete: bool,
) -> Verdict:
    """The rule's judgement of a look, with every other difference."""
    known = {arm.name: arm for arm in arms}
    alpha = 2 * judgement.level
    tests = len(judgement.finalists) * sum(arm.kind == "baseline" for arm in arms)
    headlines, others = [], []
    for judged in judgement.finalists:
        for against in judged.comparisons:
            c = compare_arms(known[judged.finalist], known[against.against], predictions, alpha, metric)
            if c is None:
                continue
            if judged.comparison is None or against.against != judged.comparison.against:
                others.append(c)
                continue
            c = replace(c, not_beaten=tuple(known[name].label for name in judged.not_beaten))
            headlines.append(_apply_judgement(c, judged, against.p_worse * tests, complete=complete))
    return Verdict(
        look=look.look,
        alpha=alpha,
        images=next(len(said.label) for said in predictions.values()),
        planned_seeds=len(look.seeds),
        arms=tuple(arms),
        against_plain=tuple(headlines),
        against_others=tuple(others),
        against_trunk=compare_with_trunks(arms, predictions, alpha, metric),
        complete=complete,
        plan=look.plan,
        looks=tuple(look.looks or ()),
        levels=tuple(look.levels or ()),
        metric=metric,
    )


def _apply_judgement(c: Contrast, judged: FinalistJudgement, p_worse: float, *, complete: bool) -> Contrast:
    """A finalist against the best plain arm, with the rule's interval, p-value and outcome.

    Args:
        c: the contrast.
        judged: the rule's judgement of the finalist.
        p_worse: one-sided, of its not being worse, with the correction for all comparisons.
        complete: whether all runs of the look have ended.
    """
    assert judged.interval is not None
    p_value = min(1.0, 2 * p_worse) if judged.outcome == "worse" else judged.interval.p_value
    outcome = judged.outcome if complete else "unfinished"
    return replace(c, interval=judged.interval, p_value=p_value, outcome=outcome)


def _add_parts_comparison(found: Verdict, images: int) -> Verdict:
    """Add the largest difference between test and validation accuracy that is more than chance."""
    c = found.leading
    parts = [
        (compare_parts(arm.validation, arm.test, images, found.images), arm)
        for arm in ((c.arm, c.against) if c else ())
        if len(arm.runs) > 1
    ]
    differ = [(p, arm) for p, arm in parts if p.differ]
    if not differ:
        return found
    largest, arm = max(differ, key=lambda pair: abs(pair[0].difference))
    return replace(found, parts=largest, parts_arm=arm)


def _build_arm(
    experiment: Experiment, state: ExperimentState, entry: PlannedArm, seeds: Sequence[int]
) -> TestedArm:
    params = params_of(entry)
    swa = entry.kind == "swa"
    try:
        experiment.check_configuration(params, swa=swa)
    except ValueError as error:
        raise state.damaged(DamagedError(f"{entry.name}: {error}")) from None
    runs = [state.trials.get(fresh_run_name(entry.name, "confirm", seed)) for seed in seeds]
    done = tuple(r for r in runs if r is not None and r.status == "completed" and r.tested is not None)
    have = {run.seed for run in done}
    return TestedArm(
        name=entry.name,
        kind=entry.kind,
        label=experiment.format_label(params, entry.average, swa=swa),
        params=params,
        roles=tuple(entry.roles),
        runs=done,
        missing=tuple(seed for seed in seeds if seed not in have),
        average=entry.average,
        configuration=experiment.format_label(params, swa=swa),
    )
