"""Choose the merges whose recipes are followed on fresh seeds."""

from __future__ import annotations

from tune_swa.config import Experiment, params_key
from tune_swa.experiment.events import PlannedArm
from tune_swa.experiment.merge_recipe import MEMBER, MergeRecipe
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.soups import FinishedSoup, choose_soup, list_soups
from tune_swa.search.arms import rank_searched


def choose_recipes(experiment: Experiment, state: ExperimentState) -> tuple[MergeRecipe, ...]:
    """Return the recipe of the best merge of each kind in the space file, by the objective on the validation
    images; empty where fresh seeds are not to test them.

    A soup of one trial is that trial, so the best of those with more is taken, and there may be none.
    """
    if not experiment.confirm.merges:
        return ()
    merged = [soup for soup in list_soups(state) if len(soup.recipe) > 1]
    chosen = []
    for spec in experiment.merge:
        same = [soup for soup in merged if soup.event.merge == spec.label]
        if same:
            chosen.append(_write_recipe(choose_soup(same, state.objective), state))
    return tuple(chosen)


def _write_recipe(soup: FinishedSoup, state: ExperimentState) -> MergeRecipe:
    """Write down the settings of its trials, named as the arms of the same configurations are."""
    names = {params_key(trial.params): trial.name for trial in rank_searched(state) if trial.kind == "swa"}
    members = [
        PlannedArm(
            name=trial.name if trial.member else names[params_key(trial.params)],
            kind="swa",
            params=dict(trial.params),
            roles=[MEMBER],
            average=trial.chosen_average,
            member=trial.member,
        )
        for trial in (state.trials[name] for name in soup.recipe)
    ]
    return MergeRecipe(soup.event.merge, tuple(members))
