"""Table of the averages in the search: each beside what its trial ships, on the validation images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.report.style import Figure, format_percent, format_points


def tabulate_averages(trials: Iterable[TrialState]) -> Figure | None:
    """Return the means of each average over the completed trials of the search; None where none were scored.

    Differences are within trials, so the configurations are the same on both sides.

    Args:
        trials: of the experiment.
    """
    scored = [t for t in trials if t.stage == "search" and t.status == "completed" and t.records]
    rows = [
        row
        for kind in ("swa", "baseline")
        for row in _tabulate_kind(
            [t for t in scored if t.kind == kind and t.records[-1]["epoch"] in t.scores]
        )
    ]
    if not rows:
        return None
    optimistic = any(str(row[2]).endswith("*") for row in rows)
    shipped = (
        "the average that was chosen" if any(t.chosen_average for t in scored) else "the leading average"
    )
    note = " (*) Chooses its epochs on these images as well: its values are optimistic." if optimistic else ""
    return Figure(
        "search-averages",
        "Averages in the search",
        "Validation images, after the last epoch of the completed trials: means over trials, and of the "
        f"difference to what the trial ships ({shipped}, or a baseline's last model). One seed, and "
        f"the images that chose the configurations: read it as a hint.{note}",
        None,
        ["trials", "number", "average", "validation %", "points", "of trials ahead", "nll", "nll difference"],
        rows,
        frozenset({1, 3, 4, 5, 6, 7}),
    )


def _tabulate_kind(trials: Sequence[TrialState]) -> list[list[object]]:
    """Rows of the trials of one kind, which have the same averages."""
    scores = [t.scores[t.records[-1]["epoch"]] for t in trials]
    kind = {"swa": "SWA", "baseline": "baseline"}
    labels = list(dict.fromkeys(label for of_trial in scores for label in of_trial))
    return [[kind[trials[0].kind], *_tabulate_average(trials, scores, label)] for label in labels]


def _tabulate_average(trials: Sequence[TrialState], scores: Sequence[Any], label: str) -> list[object]:
    pairs = [(s[label], t.records[-1]) for s, t in zip(scores, trials, strict=True) if label in s]
    gains = [score["accuracy"] - shipped["accuracy"] for score, shipped in pairs]
    losses = [score["nll"] - shipped["nll"] for score, shipped in pairs if shipped.get("nll") is not None]
    return [
        len(pairs),
        f"{label} *" if label.startswith("swad-") else label,  # its window follows the validation loss
        format_percent(float(np.mean([score["accuracy"] for score, _ in pairs]))),
        format_points(float(np.mean(gains))),
        sum(gain > 0 for gain in gains),
        f"{np.mean([score['nll'] for score, _ in pairs]):.4f}",
        f"{np.mean(losses):+.4f}" if losses else "",
    ]
