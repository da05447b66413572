"""The model of an ensemble of runs on fresh seeds, for an export that somebody asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_swa.execution.average_export import RequestedModel
from tune_swa.execution.best_model import describe_calibration, describe_model
from tune_swa.execution.kept_runs import KeptRuns
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.ensemble_choice import choose_ensemble, list_runs
from tune_swa.training.mean_probability import load_networks

OF_ONE_RUN = ("trial", "seed", "epoch", "average", "n_averaged")
"""Keys of a description that an ensemble has none, or several, of."""


def load_ensemble(
    kept: KeptRuns,
    state: ExperimentState,
    folder: Path,
    method: str,
    arm: str | None,
    group: int | None,
    preprocessing: dict[str, Any],
) -> RequestedModel:
    """Load an ensemble as a model that gives the mean probability of its runs' members.

    Args:
        kept: the experiment's kept runs.
        state: the fold of its journal.
        folder: the experiment's folder, which has the predictions.
        method, arm, group: which one, as of `choose_ensemble`.
        preprocessing: what has to be done to an image.

    Raises:
        RequestError: there is no such ensemble, or its weights cannot be used.
    """
    ensemble = choose_ensemble(state, folder, method, arm, group)
    runs = list_runs(state, ensemble)
    # of runs of one configuration each has as many, so the mean over all is that over the runs
    weights = [member for run in runs for member in kept.load_members(run, ensemble.variant).weights]
    about = describe_model(runs[0], state, kept.experiment, preprocessing)
    model = load_networks(weights, about)
    settings = kept.restore_settings(runs[0])
    temperature = kept.fit_temperature(model, settings)
    for key in OF_ONE_RUN:
        about.pop(key, None)
    about |= {
        "file": f"the weights of {', '.join(run.name for run in runs)}",
        "ensemble": ensemble.method,
        "arm": ensemble.arm.name,
        "group": ensemble.group,
        "trials": [run.name for run in runs],
        "seeds": list(ensemble.seeds),
        "validation": None,
        "test": ensemble.compute_metrics(),
        "calibration": describe_calibration({} if temperature is None else {"temperature": temperature}),
    }
    title = f"{ensemble.method} of {', '.join(run.name for run in runs)} ({about['configuration']})"
    return RequestedModel(model, about, settings, title)
