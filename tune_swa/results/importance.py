"""Estimate how much each setting explains of the objective (fANOVA)."""

from __future__ import annotations

import numpy as np

from tune_swa.results.comparison import Comparison

MOST_TRIALS = 300
"""fANOVA's time grows faster than their number: 1 s for so many, half a minute for 2,000, and a search that
ends or is interrupted waits for it."""


def compute_importance(compared: Comparison) -> tuple[dict[str, float] | None, str]:
    """Estimate how much of the objective's variance each searched parameter explains, with a note.

    fANOVA (Hutter, Hoos and Leyton-Brown 2014) by optuna, over the completed SWA trials of the search; of
    more than `MOST_TRIALS`, over as many, at equal distances from the best to the worst.
    """
    parameters, objective = compared.experiment.parameters, compared.objective
    swa = [(e, e.read_metric(objective.metric)) for e in compared.ranked if e.trial.kind == "swa"]
    done = [(entry, value) for entry, value in swa if value is not None]
    if len(parameters) < 2:
        return None, "The space has a single parameter, so there is nothing to compare."
    if len(done) < 4 or len({value for _, value in done}) < 2:
        return None, f"{len(done)} completed SWA trials are too few for an estimate."
    import optuna

    from tune_swa.config.optuna_distributions import encode_value, to_distribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {p.name: to_distribution(p) for p in parameters}
    study = optuna.create_study(direction=objective.direction)
    used = [done[round(k)] for k in np.linspace(0, len(done) - 1, min(len(done), MOST_TRIALS))]
    for entry, value in used:
        params = {p.name: encode_value(entry.trial.params[p.name]) for p in parameters}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except (RuntimeError, ValueError) as error:
        return None, f"Cannot be estimated from these trials ({error})."
    which = f"{len(done)} completed SWA trials"
    if len(used) < len(done):
        which = f"{len(used)} of {which}, at equal distances from the best to the worst"
    return dict(found), (
        f"fANOVA over the validation {objective.metric} of {which}. "
        "Trials that were stopped early are left out."
    )
