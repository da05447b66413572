"""Meanings of columns that depend on the objective."""

from __future__ import annotations

TRIALS_BY_NLL = {
    "accuracy": "Fraction of validation images right, 0 to 1, at the last reported epoch.",
    "nll": "Negative log-likelihood per validation image, nats, last epoch; the objective where status is "
    "`completed`.",
    "delta_vs_baseline": "Nats by which `nll` is lower than that of the best completed baseline, same stage "
    "and seed; null unless completed.",
    "delta_vs_same_lr": "Nats by which `nll` is lower than that of the completed baseline with the same "
    "settings apart from SWA's, same stage and seed; null where there is none.",
}
"""Columns of trials.parquet that mean something else where nll is the objective."""
COMPARISON_BY_NLL = {
    "rank": "1 is best: by nll, then accuracy, then trial; null unless completed.",
    "delta_vs_baseline": "Nats by which `nll` is lower than `baseline_nll`; null unless completed.",
    "delta_vs_same_lr": "Nats by which `nll` is lower than that of the completed baseline with the same "
    "settings apart from SWA's; null where there is none.",
    "mean": "Mean test nll over fresh seeds, nats; null: not tested.",
    "sd": "Standard deviation of the test nll over fresh seeds, nats; null: fewer than two.",
    "delta": "Mean difference in test nll to `against`, paired by seed: nats by which it is lower; null "
    "where that is.",
}
"""The same of comparison.parquet."""

CHOSEN_AVERAGE = (
    "Average that was chosen, and that the other columns are about: in the search the best one on the "
    "validation images at the last reported epoch, on fresh seeds the one that the search chose; null for a "
    "baseline."
)
"""Of `average` in trials, comparison and confirm.parquet, where the objective is of the best average."""
REPORTED_AVERAGE = (
    "Average whose accuracy, nll and ece these are: the best one where all were scored, else the first; null "
    "in the trunk."
)
"""Of `average` in epochs.parquet, where it is."""
