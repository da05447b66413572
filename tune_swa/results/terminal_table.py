"""What does the comparison look like in a terminal?"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tune_swa.experiment.state import ExperimentState
from tune_swa.results.comparison import Comparison, Entry, compare_configurations

_STATUS_STYLES = {"running": "cyan", "interrupted": "yellow", "pruned": "dim", "failed": "red"}
_NONE = "-"


def comparison_table(state: ExperimentState, *, limit: int | None = None) -> Table:
    """Every configuration against the best baseline, best first, for 80 columns and more.

    Everything is in ASCII apart from the frame, which rich replaces where the output cannot show it;
    configurations are folded rather than cut.

    Args:
        state: the fold of a journal.
        limit: show at most this many configurations, and the best baseline in any case. None: all.

    Raises:
        RequestError: the journal is empty.
    """
    compared = compare_configurations(state)
    ranked = [(str(rank), entry) for rank, entry in enumerate(compared.ranked, start=1)]
    rows = [*ranked, *((_NONE, entry) for entry in compared.unfinished)]
    cut = len(rows) if limit is None else limit
    shown = rows[:cut] + [row for row in rows[cut:] if row[1] is compared.baseline]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, caption_justify="left")
    table.caption = Text(_caption(compared, hidden=len(rows) - len(shown)))
    for heading in (
        "#",
        "configuration",
        "status",
        "accuracy\n%",
        "vs base-\nline",
        "vs same\nlr",
        "nll",
        "epochs",
    ):
        words = heading in ("configuration", "status")
        # fold, not cut: below 80 columns every column gives way a little and nothing is lost
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for rank, entry in shown:
        _add_row(table, rank, entry, compared)
    return table


def side_by_side_table(frame: Any) -> Table:
    """Experiments one below the other.

    Args:
        frame: of `tune_swa.results.api.side_by_side`.
    """
    same = frame["data"].nunique() == 1
    caption = "accuracies in %, differences in points" + ("" if same else "; the images are not the same")
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption=caption, caption_justify="left"
    )
    for heading in ("experiment", "best SWA", "best baseline"):
        table.add_column(heading, overflow="fold")
    for heading in ("fresh\nseeds", "difference on test images"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict", overflow="fold")
    for row in frame.to_dict("records"):
        difference = Text(_NONE)
        if row["seeds"]:
            difference = points(row["delta"]).append(
                f" ({100 * row['interval_low']:+.2f} to {100 * row['interval_high']:+.2f})", style="default"
            )
        table.add_row(
            Text(row["experiment"]),
            _best(row["best_swa"], row["swa_accuracy"]),
            _best(row["best_baseline"], row["baseline_accuracy"]),
            Text(str(row["seeds"])),
            difference,
            Text(row["verdict"] or _NONE),
        )
    return table


def _best(name: str | None, accuracy: float | None) -> Text:
    return Text(_NONE) if name is None or accuracy is None else Text(f"{name}, {100 * accuracy:.2f}")


def points(difference: float | None) -> Text:
    """A difference in accuracy (0 to 1) as signed percentage points, green where better."""
    if difference is None:
        return Text(_NONE, style="dim")
    rounded = round(100 * difference, 2)
    if rounded == 0:  # also -0.0
        return Text("0.00")
    return Text(f"{rounded:+.2f}", style="green" if rounded > 0 else "red")


def _add_row(table: Table, rank: str, entry: Entry, compared: Comparison) -> None:
    trial = entry.trial
    reference = entry is compared.baseline
    nll = (trial.last or {}).get("nll")
    table.add_row(
        Text(f"* {rank}" if reference else rank),
        Text(entry.label),  # a Text, in which [brackets] are not markup
        Text(trial.status, style=_STATUS_STYLES.get(trial.status, "")),
        Text(_NONE if entry.accuracy is None else f"{100 * entry.accuracy:.2f}"),
        points(entry.delta_vs_baseline),
        points(entry.delta_vs_same_lr),
        Text(_NONE if nll is None else f"{nll:.3f}"),
        Text(f"{len(trial.records)}/{compared.experiment.train.epochs}"),
        style="bold" if reference else "" if entry.completed else "dim",
    )


def _caption(compared: Comparison, hidden: int) -> str:
    parts = [
        "* the best baseline, which the others are measured against"
        if compared.baseline
        else "no baseline has completed, so there is nothing to measure against",
        f"accuracy on {compared.images} validation images, differences in points",
    ]
    if hidden:
        parts.append(f"{hidden} more not shown")
    return "; ".join(parts)
