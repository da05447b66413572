"""Which settings does the accuracy depend on?"""

from __future__ import annotations

from tune_swa.results.comparison import Comparison


def importance(compared: Comparison) -> tuple[dict[str, float] | None, str]:
    """How much of the accuracy's variance each searched parameter explains, and a word about it.

    fANOVA (Hutter, Hoos and Leyton-Brown 2014) by optuna, over the completed SWA trials of the search.
    """
    parameters = compared.experiment.parameters
    done = [e for e in compared.ranked if e.trial.kind == "swa" and e.accuracy is not None]
    if len(parameters) < 2:
        return None, "The space has a single parameter, so there is nothing to divide."
    if len(done) < 4 or len({e.accuracy for e in done}) < 2:
        return None, f"{len(done)} completed SWA trials are too few to tell."
    import optuna

    from tune_swa.distributions import distribution, encode

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {p.name: distribution(p) for p in parameters}
    study = optuna.create_study(direction="maximize")
    for e in done:
        params = {p.name: encode(e.trial.params[p.name]) for p in parameters}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=e.accuracy)
        )
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except (RuntimeError, ValueError) as error:
        return None, f"Cannot be told from these trials ({error})."
    return dict(found), (
        f"fANOVA over the validation accuracy of {len(done)} completed SWA trials. Those that were stopped "
        "early are not in it."
    )
