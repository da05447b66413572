"""Tables for the terminal: the comparison of a search, and experiments side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from tune_swa.experiment.state import ExperimentState
from tune_swa.results.average_contrasts import AverageContrast, Difference
from tune_swa.results.comparison import Comparison, compare_configurations
from tune_swa.results.comparison_rows import ComparisonRow, build_comparison_rows
from tune_swa.results.metric_format import MetricFormat
from tune_swa.text import quote_name

_STATUS_STYLES = {"running": "cyan", "interrupted": "yellow", "pruned": "dim", "failed": "red"}
_HEADINGS = (
    "#", "configuration", "status", "accuracy\n%", "vs base-\nline", "vs same\nlr", "nll", "epochs",
)  # fmt: skip
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
    rows = build_comparison_rows(compared)
    cut = len(rows) if limit is None else limit
    shown = rows[:cut] + [row for row in rows[cut:] if row.best_baseline]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, caption_justify="left")
    table.caption = Text(_write_caption(compared, hidden=len(rows) - len(shown)))
    for heading in _HEADINGS:
        text = heading in ("configuration", "status")
        # fold, not cut: below 80 columns every column gives way a little and nothing is lost
        table.add_column(heading, justify="left" if text else "right", overflow="fold")
    for row in shown:
        _add_row(table, row, compared.experiment.train.epochs, MetricFormat(compared.objective.metric))
    return table


def averages_table(compared: Sequence[AverageContrast], what: Literal["average", "ensemble"]) -> Table:
    """Averages on fresh seeds, or ensembles of their runs, against the same of the best plain training.

    Args:
        compared: at least one.
        what: which of the two.
    """
    against = compared[0].against.label
    rival = against if what == "average" else f"deep ensembles of {against}"
    count = len(compared[0].repetitions)
    of = f"{count} fresh seeds" if what == "average" else f"{count} disjoint groups of seeds"
    caption = (
        f"test images, {of}; differences to {rival}, accuracy in points. *: better, or worse, at the level "
        f"of the look, by Holm's method over the {what}s"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption=Text(caption))
    table.caption_justify = "left"
    rows = [(c.arm.configuration, c.arm.name_average(c.average), c) for c in compared]
    _add_contrasts(table, ("configuration", what), rows)
    return table


def merges_table(compared: Sequence[AverageContrast]) -> Table:
    """Merges on fresh seeds, against plain training and against SWA.

    Args:
        compared: at least one.
    """
    caption = (
        f"test images, {len(compared[0].repetitions)} fresh seeds; differences in accuracy are in points. *: "
        "better, or worse, at the level of the look, by Holm's method over all lines"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption=Text(caption))
    table.caption_justify = "left"
    _add_contrasts(table, ("merge", "against"), [(c.average, c.against.label, c) for c in compared])
    return table


def _add_contrasts(
    table: Table, headings: tuple[str, str], rows: Sequence[tuple[str, str, AverageContrast]]
) -> None:
    """Add a row for each contrast, after two cells that name it."""
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for heading in ("accuracy\n%", "differ-\nence", "nll", "differ-\nence"):
        table.add_column(heading, justify="right", overflow="fold")
    for first, second, c in rows:
        table.add_row(
            Text(first),
            Text(second),
            Text(f"{100 * c.accuracy.mean:.2f}"),
            color_gain(c.accuracy.interval.mean, MetricFormat("accuracy")).append(_mark_claim(c.accuracy)),
            Text(f"{c.nll.mean:.4f}"),
            Text(f"{c.nll.interval.mean:+.4f}{_mark_claim(c.nll)}"),
        )


def _mark_claim(found: Difference) -> str:
    return "*" if found.outcome in ("better", "worse") else " "


def side_by_side_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Experiments one below the other.

    Args:
        records: of `tune_swa.results.api.describe_experiment`.
    """
    same = len({record["data"] for record in records}) == 1
    caption = "accuracies in %, differences in points"
    if any(record["objective"] == "nll" for record in records):
        caption += " or, where the objective is nll, in nats by which it is lower"
    caption += "" if same else "; the images are not the same"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption=caption, caption_justify="left"
    )
    for heading in ("experiment", "best SWA", "best baseline"):
        table.add_column(heading, overflow="fold")
    for heading in ("fresh\nseeds", "difference on test images"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict", overflow="fold")
    for row in records:
        difference = Text(_NONE)
        if row["delta"] is not None:
            written = MetricFormat(row["objective"])
            difference = color_gain(row["delta"], written).append(
                f" ({_format_ends(row, written)}){' nats' * written.is_nll}", style="default"
            )
        table.add_row(
            Text(quote_name(row["experiment"])),
            _name_best(row, "best_swa", "swa"),
            _name_best(row, "best_baseline", "baseline"),
            Text(str(row["seeds"])),
            difference,
            Text(row["verdict"] or _NONE),
        )
    return table


def _name_best(row: Mapping[str, Any], column: str, side: str) -> Text:
    """A best configuration with its accuracy in %, or its nll where that is the objective."""
    name, value = row[column], row[f"{side}_{row['objective']}"]
    if name is None or value is None:
        return Text(_NONE)
    written = MetricFormat(row["objective"])
    return Text(f"{name}, {written.format_value(value) if written.is_nll else written.format_number(value)}")


def _format_ends(row: Mapping[str, Any], written: MetricFormat) -> str:
    low, high, digits = row["interval_low"], row["interval_high"], 4 if written.is_nll else 2
    return f"{written.scale(low):+.{digits}f} to {written.scale(high):+.{digits}f}"


def color_gain(gain: float | None, written: MetricFormat) -> Text:
    """A gain, signed, green where better: percentage points of an accuracy (0 to 1), or nats of nll."""
    if gain is None:
        return Text(_NONE, style="dim")
    rounded = written.round_gain(gain)
    return Text(written.format_gain(gain), style="" if not rounded else "green" if rounded > 0 else "red")


def _add_row(table: Table, row: ComparisonRow, epochs: int, written: MetricFormat) -> None:
    entry, trial = row.entry, row.entry.trial
    rank = _NONE if row.rank is None else str(row.rank)
    table.add_row(
        Text(f"* {rank}" if row.best_baseline else rank),
        Text(entry.label),  # a Text, in which [brackets] are not markup
        Text(trial.status, style=_STATUS_STYLES.get(trial.status, "")),
        Text(_NONE if entry.accuracy is None else f"{100 * entry.accuracy:.2f}"),
        color_gain(entry.delta_vs_baseline, written),
        color_gain(entry.delta_vs_same_lr, written),
        Text(_NONE if entry.nll is None else f"{entry.nll:.{4 if written.is_nll else 3}f}"),
        Text(f"{len(trial.records)}/{epochs}"),
        style="bold" if row.best_baseline else "" if entry.completed else "dim",
    )


def _write_caption(compared: Comparison, hidden: int) -> str:
    parts = [
        "* best baseline, the reference" if compared.baseline else "no baseline has completed yet",
        f"accuracy on {compared.images} validation images, differences in points"
        if compared.objective.metric == "accuracy"
        else f"ranked by nll on {compared.images} validation images, differences: nats by which it is lower",
    ]
    if hidden:
        parts.append(f"{hidden} more not shown")
    return "; ".join(parts)
