"""The model of one average of one run, for an export that somebody asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tune_swa.averaging.posterior import Posterior
from tune_swa.config import Experiment, RunSettings
from tune_swa.errors import RequestError
from tune_swa.execution.best_model import describe_calibration, describe_model
from tune_swa.execution.kept_runs import KeptRuns
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.comparison import best_trial
from tune_swa.text import name_first
from tune_swa.training.mean_probability import load_networks

NAMED = 5
"""Most trials that a message names."""


@dataclass(frozen=True)
class RequestedModel:
    """A model other than the best one, as it is exported."""

    model: nn.Module
    about: dict[str, Any]
    """As of `best_model.json`; `file` is where the weights were."""
    settings: RunSettings
    """Of the run, or of one of them."""
    title: str
    posterior: Posterior | None = None


def load_average(
    kept: KeptRuns, state: ExperimentState, label: str, trial: str | None, preprocessing: dict[str, Any]
) -> RequestedModel:
    """Load an average of a run as a model that gives its members' mean probability.

    Args:
        kept: the experiment's kept runs.
        state: the fold of its journal.
        label: of the average, as in `averages.parquet`.
        trial: name of the run; None: the one whose model is the best.
        preprocessing: what has to be done to an image.

    Raises:
        RequestError: no run has this average, its weights are gone, or they cannot be used.
    """
    run = choose_run(kept.experiment, state, label, trial)
    members = kept.load_members(run, label)
    about = describe_model(run, state, kept.experiment, preprocessing)
    model = load_networks(members.weights, about)
    tested = _find_tested(run, label)
    about |= {
        "file": run.checkpoints[-1],
        "average": label,
        "validation": _find_scores(run, label),
        "test": tested,
        "calibration": describe_calibration(tested),
    }
    title = f"{label} of {about['configuration']} ({run.name})"
    return RequestedModel(model, about, kept.restore_settings(run), title, members.posterior)


def choose_run(experiment: Experiment, state: ExperimentState, label: str, trial: str | None) -> TrialState:
    """Choose the run whose average is exported.

    Raises:
        RequestError: there is none; says which there are.
    """
    having = [run for run in state.trials.values() if label in list_labels(experiment, run)]
    if not having:
        there = dict.fromkeys(name for run in state.trials.values() for name in list_labels(experiment, run))
        raise RequestError(
            f"--average {label}: no run observed it. There are {', '.join(there) or 'none'}; `averages` in a "
            "space file lists them, for a new search"
        )
    with_weights = [run.name for run in having if run.status == "completed" and run.checkpoints]
    if trial is None:
        best = best_trial(state)
        if best is not None and best.name in with_weights:
            return best
        why = f"the best model's run ({best.name}) has none" if best else "no run is the best one yet"
        raise RequestError(f"--average {label}: {why}. {_offer_runs(with_weights, label)}")
    if trial not in state.trials:
        raise RequestError(f"--trial {trial}: there is no such trial. {_offer_runs(with_weights, label)}")
    if trial in with_weights:
        return state.trials[trial]
    known = list_labels(experiment, state.trials[trial])
    if label not in known:
        why = f"it observed no {label}, but {', '.join(known) or 'nothing'}"
    elif state.trials[trial].status != "completed":
        why = f"it has not completed ({state.trials[trial].status})"
    else:
        why = "its weights were removed when it had ended"
    raise RequestError(f"--trial {trial}: {why}. {_offer_runs(with_weights, label)}")


def list_labels(experiment: Experiment, run: TrialState) -> list[str]:
    """Labels of the averages that a run observes; of an SWA trial at least `swa`."""
    listed = experiment.averages if run.kind == "swa" else experiment.baseline.averages
    return [average.label for average in listed] or (["swa"] if run.kind == "swa" else [])


def _offer_runs(names: Sequence[str], label: str) -> str:
    if not names:
        return (
            f"No run with {label} has its weights any more: confirm.keep_weights keeps those on fresh seeds, "
            "in a new search"
        )
    return f"--trial takes a run whose weights are kept: {name_first(names, NAMED)}"


def _find_scores(run: TrialState, label: str) -> dict[str, Any]:
    """Metrics on the validation images after the last epoch."""
    assert run.last is not None
    scores: Mapping[str, Any] = run.scores.get(run.last["epoch"], {}).get(label, run.last)
    return {key: scores.get(key) for key in ("accuracy", "nll", "ece")}


def _find_tested(run: TrialState, label: str) -> dict[str, Any] | None:
    """Metrics on the test images; None: it was not tested."""
    if run.tested is None:
        return None
    averages = run.tested.averages
    return (
        dict(averages[label]) if isinstance(averages, Mapping) and label in averages else run.tested.shipped
    )
