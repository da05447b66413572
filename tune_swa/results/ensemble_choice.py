"""Choose one of the ensembles of `ensembles.parquet`, to export it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from tune_swa.errors import RequestError
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.contrasts import Verdict
from tune_swa.results.ensembles import Ensemble, build_ensembles
from tune_swa.results.predictions import read_predictions
from tune_swa.results.provenance import restore_experiment
from tune_swa.results.verdict import compute_verdict
from tune_swa.text import name_first

NAMED = 8
"""Most names in a message."""


def choose_ensemble(
    state: ExperimentState, folder: Path, method: str, arm: str | None, group: int | None
) -> Ensemble:
    """Choose an ensemble. Test images choose nothing: by default it is of the leading finalist, or the best
    plain training, and of the first seeds.

    Args:
        state: the fold of the journal.
        folder: the experiment's folder, which has the predictions.
        method: as in the table, in any case.
        arm: name of the arm; None: the first one that has the method.
        group: number of the group; None: the first one whose weights are kept.

    Raises:
        RequestError: there is none, or its weights are gone; says which there are.
    """
    found = compute_verdict(state, folder)
    if found is None:
        raise RequestError(
            f"{folder}: no run on fresh seeds was tested yet. Let it go on to its end (--resume)"
        )
    ensembles = build_ensembles(found, read_predictions(state, folder), state, folder)
    if not ensembles:
        raise RequestError(f"{folder}: {_explain_none(state, folder, found)}")
    named = [e for e in ensembles if e.method.casefold() == method.casefold()]
    if not named:
        methods = list(dict.fromkeys(e.method for e in ensembles))
        raise RequestError(f"--ensemble {method}: there is none. There are {name_first(methods, NAMED)}")
    arms = list(dict.fromkeys(e.arm.name for e in named))
    best = found.best_plain.name if found.best_plain else None
    wanted = arm or (best if best in arms else arms[0])
    of_arm = [e for e in named if e.arm.name == wanted]
    if not of_arm:
        raise RequestError(f"--arm {wanted}: has no {named[0].method}. There are {name_first(arms, NAMED)}")
    return _choose_group(state, of_arm, group)


def list_runs(state: ExperimentState, ensemble: Ensemble) -> list[TrialState]:
    """The runs of an ensemble, in the order of their seeds."""
    return [state.trials[fresh_run_name(ensemble.arm.name, "confirm", seed)] for seed in ensemble.seeds]


def _choose_group(state: ExperimentState, ensembles: Sequence[Ensemble], group: int | None) -> Ensemble:
    """Choose one of an arm's groups whose weights are kept."""
    kept = [e for e in ensembles if all(run.checkpoints for run in list_runs(state, e))]
    groups = ", ".join(str(e.group) for e in kept)
    if group is not None and all(e.group != group for e in ensembles):
        last = ensembles[-1].group
        raise RequestError(
            f"--group {group}: {ensembles[0].arm.name} has {len(ensembles)} groups of "
            f"{len(ensembles[0].seeds)} seeds, 0 to {last}. Give one of them, or train more seeds (tune-swa "
            "confirm)"
        )
    chosen = next((e for e in kept if group in (None, e.group)), None)
    if chosen is not None:
        return chosen
    if kept:
        raise RequestError(
            f"--group {group}: the weights of its runs are gone. Those of groups {groups} are kept"
        )
    chosen = next(e for e in ensembles if group in (None, e.group))
    gone = [run.name for run in list_runs(state, chosen) if not run.checkpoints]
    size = len(chosen.seeds)
    further = size * (-(-len(chosen.arm.runs) // size) + 1)  # a whole group after those that were trained
    raise RequestError(
        f"--ensemble {chosen.method}: the weights of {name_first(gone, NAMED)} were removed when these runs "
        "had ended. `confirm.keep_weights: true` keeps those of runs to come: go on with more seeds "
        f"(--resume --set confirm.keep_weights=true --set confirm.seeds={further}), or search under another "
        "--name"
    )


def _explain_none(state: ExperimentState, folder: Path, found: Verdict) -> str:
    """Why there are no ensembles, and what to do."""
    size = restore_experiment(state).confirm.ensemble
    if size is None:
        return (
            "its space file asks for no ensembles. In a new search, `confirm: {ensemble: 3, keep_weights: "
            "true}` groups the runs on fresh seeds by three and keeps their weights"
        )
    if not found.complete:
        return "not all of its runs on fresh seeds have ended. Let it go on to its end (--resume)"
    most = max(len(arm.runs) for arm in found.arms)
    if most < size:
        return (
            f"an ensemble has {size} runs (confirm.ensemble), and no arm has more than {most} that were "
            f"tested. Train more: tune-swa confirm {shlex.quote(str(folder))} --seeds {size}"
        )
    return (
        "its runs were tested before confirm.ensemble was set, so their probabilities are not kept. Start a "
        "search with it under another --name"
    )
