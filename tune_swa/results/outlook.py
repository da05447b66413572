"""Word what the planned fresh seeds will be able to detect, for --dry-run."""

from __future__ import annotations

from tune_swa.config import Experiment
from tune_swa.inference.foresight import foresee_looks
from tune_swa.inference.looks import LEAST_SEEDS, plan_looks

USUAL_DEVIATION = 0.006
"""Standard deviation of a run's accuracy between seeds in the example."""
USUAL_IMAGES = 1000
"""Test images, while it is not known how many there are."""


def describe_outlook(experiment: Experiment, images: int | None) -> str:
    """Say how likely the planned looks are to detect a gain of one point, or why that is not known.

    Args:
        experiment: the settings.
        images: test images; None: not known.
    """
    seeds = experiment.confirm.seeds
    looks = plan_looks(seeds, experiment.confirm.most_seeds)
    if looks[-1] < LEAST_SEEDS:
        return (
            f"{seeds} fresh {'seeds are' if seeds > 1 else 'seed is'} too few for a verdict; at least "
            f"{LEAST_SEEDS} are needed (confirm.seeds)."
        )
    if experiment.objective.metric == "nll":
        return (
            "Which difference in nll the fresh seeds detect is not known beforehand: it depends on how nll "
            "varies between seeds and between images, which differs more from data to data than that of "
            "accuracies. The verdict says it."
        )
    found = foresee_looks(0.01, USUAL_DEVIATION, images or USUAL_IMAGES, looks)
    spent = f"{looks[-1]} seeds"
    if len(looks) > 1:
        spent = f"up to {looks[-1]} seeds ({found.mean_seeds:.0f} on average, {found.mean_seeds_without:.0f} "
        spent += "without any gain)"
    return (
        f"If runs vary by {100 * USUAL_DEVIATION:.1f} points between seeds, {spent} and "
        f"{images or USUAL_IMAGES:,} test images detect a gain of one point over the best plain training in "
        f"{100 * found.chance:.0f} % of the cases. More seeds (confirm.seeds, confirm.max_seeds) or more "
        "test images raise that."
    )
