"""Table of SWAP: the mean of one member, of two, and so on, beside each member alone."""

from __future__ import annotations

from collections.abc import Iterator

from tune_swa.config import Experiment
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.report.soups import describe_tests
from tune_swa.results.report.style import Figure, format_percent
from tune_swa.results.soups import soup_records


def tabulate_members(state: ExperimentState, experiment: Experiment) -> Figure | None:
    """Return a row for each number of members of each configuration; None without SWAP."""
    rows = list(_build_rows(state, experiment))
    if not rows:
        return None
    return Figure(
        "members",
        "SWAP",
        "Means of the averages of members, which differ in the order of the images after the fork alone, on "
        "the validation images: of the first member, of the first two, and so on. The same images chose the "
        "configurations by their first members, the trials of the search, so values are optimistic, those of "
        f"the first ones most. {describe_tests(state, 'swap')}",
        None,
        ["configuration", "members", "last one", "validation %", "nll", "last one alone %", "alone nll"],
        rows,
        frozenset({1, 3, 4, 5, 6}),
    )


def _build_rows(state: ExperimentState, experiment: Experiment) -> Iterator[list[object]]:
    for row in soup_records(state, experiment):
        if row["merge"] == "swap":
            yield [
                row["configuration"],
                row["size"],
                row["trial"],
                format_percent(row["accuracy"]),
                f"{row['nll']:.4f}",
                format_percent(row["own_accuracy"]),
                f"{row['own_nll']:.4f}",
            ]
