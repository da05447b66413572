"""Draw the live region of a search: the running trials, the best ones and the time left."""

from __future__ import annotations

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from tune_swa.experiment.trial_state import TrialState
from tune_swa.monitoring.progress_lines import (
    OutputFormat,
    count_ended,
    count_lost,
    format_difference,
    format_value,
    list_times,
)
from tune_swa.monitoring.trial_counts import TrialCounts
from tune_swa.results.metric_format import MetricFormat
from tune_swa.text import count_hidden

WIDE = 76
"""Columns from which on there is room for speed and for words in full."""
NARROW = 54
"""Columns below which there is no room for a bar."""
WIDEST_BAR = 30


def draw_search(
    counts: TrialCounts, output: OutputFormat, width: int, height: int, now: float, waiting: str
) -> RenderableType:
    """Draw the live region in at most `height` lines."""
    busy = f"{len(counts.running)} of {counts.slots} slots busy"
    head = output.flow_parts(
        [counts.name, *count_ended(counts), *count_lost(counts), busy], width, first_style="bold"
    )
    foot = [
        *([] if counts.step is not None else _draw_best(counts, output)),
        *output.flow_parts(list_times(counts, now), width),
    ]
    if waiting:
        foot.append(output.cut_line(Text(f"waiting: {waiting}", style="yellow")))
    # one line for the gap above, one for the headings, one for "more", one for the cursor
    room = max(1, height - len(head) - len(foot) - 4)
    shown = list(counts.running.values())[:room]
    lines: list[RenderableType] = [Text(), *head]
    if shown:
        lines.append(_draw_trials([r.trial for r in shown], counts, output, width))
    if len(counts.running) > len(shown):
        lines.append(Text(count_hidden(len(counts.running) - len(shown)), style="dim"))
    return Group(*lines, *foot)


def _draw_trials(trials: list[TrialState], counts: TrialCounts, output: OutputFormat, width: int) -> Table:
    """Draw the running trials; the bar takes what the configurations leave."""
    wide, epochs = width >= WIDE, counts.epochs
    averaging = "averaging" if wide else "avg"
    labels = [output.clean_text(counts.label_trial(trial)) for trial in trials]
    # widths that depend on the run alone where they can: columns that move are hard to read
    digits, written = len(str(epochs)), MetricFormat(counts.objective.metric)
    digits_shown = len("0.1234" if written.is_nll else "97.20")
    names, counter = max(len(trial.name) for trial in trials), 2 * digits + 1
    phase = max(len("starting"), len(averaging) + 1 + digits)
    taken = names + phase + counter + digits_shown + 4 * 2 + (len("img/s") + 4 if wide else 0)
    longest = max(map(len, labels))
    bar = min(WIDEST_BAR, max(6, width - taken - 1 - longest)) if width >= NARROW else 0
    progress = counter + (bar + 1 if bar else 0)
    configuration = max(4, min(width - taken - progress + counter, max(len("configuration"), longest)))

    columns: list[tuple[str, int, JustifyMethod]] = [
        ("trial", names, "left"),
        ("configuration", configuration, "left"),
        ("phase", phase, "left"),
        ("epochs", progress, "left"),
        ("nll" if counts.objective.metric == "nll" else "acc %", digits_shown, "right"),
        ("img/s", len("img/s") + 2, "right"),
    ]
    shown = len(columns) if wide else len(columns) - 1
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading, size, justify in columns[:shown]:
        table.add_column(heading, width=size, no_wrap=True, overflow=output.overflow, justify=justify)
    for trial, label in zip(trials, labels, strict=True):
        style = "green" if trial.last and trial.last.get("n_averaged") else "cyan"
        drawn = output.draw_bar(trial.next_epoch, epochs, bar, style).append(" ") if bar else Text()
        row = (
            Text(trial.name),
            Text(label),  # a Text, in which [brackets] are not markup
            Text(_name_phase(trial, averaging), style=style),
            drawn.append(f"{trial.next_epoch:>{digits}}/{epochs}"),
            Text(written.format_number(counts.objective.read_value(trial.last)) if trial.last else "-"),
            Text(_format_speed(trial)),
        )
        table.add_row(*row[:shown])
    return table


def _format_speed(trial: TrialState) -> str:
    """Return the speed of the last epoch; a shared one has none."""
    speed = trial.last and trial.last.get("images_per_second")
    return f"{speed:,.0f}" if speed else "-"


def _name_phase(trial: TrialState, averaging: str) -> str:
    if trial.last is None:
        return "starting"
    return f"{averaging} {trial.last['n_averaged']}" if trial.last.get("n_averaged") else "trunk"


def _draw_best(counts: TrialCounts, output: OutputFormat) -> list[Text]:
    """Draw the best SWA trial and the best baseline, one line each."""
    swa, baseline = counts.find_leader("swa"), counts.find_leader("baseline")
    lines = []
    for title, trial, rival in (("best SWA", swa, baseline), ("best baseline", baseline, None)):
        line = Text(f"{title:<13}  ")
        if trial is None:
            line.append("none yet", style="dim")
        else:
            line.append(f"{format_value(trial, counts.objective):>8}", style="bold")
            if rival is not None:
                line.append("  ").append_text(format_difference(trial, rival, counts.objective))
            if not trial.ended:
                line.append(f"  after {trial.next_epoch}/{counts.epochs} epochs", style="yellow")
            line.append(f"  {trial.name}  {output.clean_text(counts.label_trial(trial))}")
        lines.append(output.cut_line(line))
    return lines
