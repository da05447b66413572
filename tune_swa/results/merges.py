"""What merges give on fresh seeds: their table, and how they compare with plain training and with SWA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from tune_swa.config import Experiment
from tune_swa.experiment.events import LookPlanned, PlannedArm, params_of
from tune_swa.experiment.merge_recipe import MEMBER, MergeRecipe
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.average_contrasts import (
    AverageContrast,
    Group,
    Predictions,
    compare_groups,
    select_shipped,
)
from tune_swa.results.columns import MODEL_METRICS
from tune_swa.results.contrasts import TestedArm, Verdict
from tune_swa.results.predictions import SHIPPED
from tune_swa.results.provenance import restore_experiment


def list_recipes(look: LookPlanned) -> list[MergeRecipe]:
    """Return the recipes that are followed on the seeds of a look."""
    return [MergeRecipe.from_event(planned) for planned in look.merges or ()]


def list_trained_arms(look: LookPlanned) -> list[PlannedArm]:
    """Return the arms of a look and the members of its merges, with all of their roles."""
    arms = {arm.name: arm for arm in look.arms}
    for member in (member for recipe in list_recipes(look) for member in recipe.members):
        known = arms.get(member.name, member)
        roles = [*(role for role in known.roles if role != MEMBER), MEMBER]
        arms[member.name] = msgspec.structs.replace(known, roles=roles)
    return list(arms.values())


def merge_records(state: ExperimentState, experiment: Experiment) -> list[dict[str, Any]]:
    """Rows of merges.parquet."""
    rows: dict[str, dict[str, Any]] = {}
    for look in state.confirmations:
        for recipe in list_recipes(look):
            for seed in look.seeds:
                name = recipe.name_run(seed)
                rows.setdefault(name, _build_row(recipe, seed, look.look, state, experiment))
    return list(rows.values())


def _build_row(
    recipe: MergeRecipe, seed: int, look: int, state: ExperimentState, experiment: Experiment
) -> dict[str, Any]:
    tested = state.tested_merges.get(recipe.name_run(seed))
    validation: Mapping[str, Any] = tested.validation if tested else {}
    test: Mapping[str, Any] = tested.shipped if tested else {}
    return {
        "merge": recipe.merge,
        "run": recipe.name_run(seed),
        "seed": seed,
        "look": look,
        "members": "+".join(recipe.name_members(seed)),
        "configurations": "; ".join(_list_labels(recipe, experiment)),
        "size": len(recipe.members),
        "images": tested.images if tested else None,
        **{f"val_{metric}": validation.get(metric) for metric in ("accuracy", "nll", "ece")},
        **{f"test_{metric}": test.get(metric) for metric in MODEL_METRICS},
    }


def _list_labels(recipe: MergeRecipe, experiment: Experiment) -> list[str]:
    return [experiment.format_label(params_of(m), m.average, swa=True) for m in recipe.members]


def compare_merges(
    found: Verdict, predictions: Predictions, state: ExperimentState
) -> tuple[AverageContrast, ...]:
    """Compare the merged models of fresh seeds with the best plain training, then with SWA: the finalist that
    leads the verdict. Empty where none were planned.

    "Better" than plain training means ahead of every plain arm, as in the verdict. All comparisons are one
    family of tests for each metric.

    Args:
        found: verdict of the last look.
        predictions: of all variants of its runs, and of merged models.
        state: the fold of the journal.
    """
    look, best = state.confirmations[-1], found.best_plain
    recipes = list_recipes(look)
    entries = tuple(_build_entry(recipe, look, predictions, state) for recipe in recipes)
    if not entries or best is None:
        return ()
    groups = [Group(best, entries, {arm.name: select_shipped(arm, predictions) for arm in found.plain})]
    swa = found.leading.arm if found.leading else next(iter(found.finalists), None)
    if swa is not None:
        groups.append(Group(swa, entries, {swa.name: select_shipped(swa, predictions)}))
    waits = any(_is_awaited(recipe, seed, state) for recipe in recipes for seed in look.seeds)
    return compare_groups(replace(found, complete=found.complete and not waits), groups)


def _build_entry(
    recipe: MergeRecipe, look: LookPlanned, predictions: Predictions, state: ExperimentState
) -> tuple[TestedArm, str, dict[int, Any]]:
    """An arm that stands for a recipe, what it is, and its predictions by seed."""
    names = {seed: recipe.name_run(seed) for seed in look.seeds}
    tested = {seed: predictions[name][SHIPPED] for seed, name in names.items() if name in predictions}
    first, *others = _list_labels(recipe, restore_experiment(state))
    arm = TestedArm(
        name=recipe.merge,
        kind="swa",
        label=recipe.merge,
        params=params_of(recipe.members[0]),
        roles=("merge",),
        runs=(),
        missing=tuple(seed for seed in look.seeds if seed not in tested),
        configuration=f"{first} and {len(others)} more",
    )
    return arm, f"{recipe.merge} of {len(recipe.members)}", tested


def _is_awaited(recipe: MergeRecipe, seed: int, state: ExperimentState) -> bool:
    """Whether a recipe has still to be followed on a seed: no run of it has failed, or lost its weights."""
    runs = [state.trials[name] for name in recipe.name_members(seed) if name in state.trials]
    lost = any(run.ended and not (run.status == "completed" and run.checkpoints) for run in runs)
    return not lost and recipe.name_run(seed) not in state.tested_merges
