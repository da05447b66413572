"""Table of the soups of a search: each beside the best trial that is in it."""

from __future__ import annotations

from tune_swa.experiment.state import ExperimentState
from tune_swa.results.report.style import Figure, format_percent, format_points
from tune_swa.results.soups import FinishedSoup, list_soups


def tabulate_soups(state: ExperimentState) -> Figure | None:
    """Return a row for each soup; None where there are none."""
    rows = [_build_row(soup) for soup in list_soups(state) if soup.method == "soup"]
    if not rows:
        return None
    return Figure(
        "soups",
        "Soups",
        "Means of the averages of several trials of one trunk, on the validation images; points and nll "
        "difference are against the best of these trials alone. The same images chose the trials, and the "
        f"greedy rule chose by them again, so a soup's values are optimistic. "
        f"{describe_tests(state, 'soup')}",
        None,
        [
            "soup",
            "best trial",
            "trials tried",
            "in the soup",
            "validation %",
            "points",
            "nll",
            "nll difference",
        ],
        rows,
        frozenset({2, 3, 4, 5, 6, 7}),
    )


def describe_tests(state: ExperimentState, method: str) -> str:
    """Say what fresh seeds do with the merges of a method, `soup` or `swap`."""
    planned = [merge.merge for look in state.confirmations[-1:] for merge in look.merges or ()]
    if method in (label.rpartition(" ")[2] for label in planned):
        return "What the best of each kind gives on fresh seeds is under Merges on fresh seeds."
    return "Fresh seeds do not test these means."


def _build_row(soup: FinishedSoup) -> list[object]:
    first, found = soup.first, soup.metrics
    return [
        soup.event.merge,
        soup.recipe[0],
        len(soup.event.candidates),
        len(soup.recipe),
        format_percent(found["accuracy"]),
        format_points(found["accuracy"] - first["accuracy"]),
        f"{found['nll']:.4f}",
        f"{found['nll'] - first['nll']:+.4f}",
    ]
