"""Word the lines that a search prints: its beginning, the end of each trial, its status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, OverflowMethod
from rich.text import Text

from tune_swa.experiment.events import Kind, LookJudged, TrialStarted
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.trial_state import TrialState
from tune_swa.monitoring.trial_counts import TrialCounts
from tune_swa.results.metric_format import MetricFormat
from tune_swa.search.confirmation import Look, Round, Step
from tune_swa.search.members import MemberRuns

REASON_LENGTH = 160
"""Characters shown of why a trial failed; the journal has all of it."""


@dataclass(frozen=True)
class OutputFormat:
    """The characters and the width that the output has."""

    encoding: str
    unicode: bool

    @classmethod
    def of_console(cls, console: Console) -> OutputFormat:
        return cls(console.encoding, console.encoding.lower().startswith("utf"))

    def clean_text(self, text: str) -> str:
        """Return one line without control characters, in characters that the output has."""
        line = "".join(c for c in " ".join(text.split()) if c.isprintable())
        return line.encode(self.encoding, "backslashreplace").decode(self.encoding)

    @property
    def overflow(self) -> OverflowMethod:
        """rich's way to cut long text: its ellipsis is a character beyond ASCII."""
        return "ellipsis" if self.unicode else "crop"

    def draw_bar(self, done: int, total: int, width: int, style: str) -> Text:
        full, empty = ("━", "─") if self.unicode else ("#", "-")
        filled = width * done // total
        return Text.assemble((full * filled, style), (empty * (width - filled), "dim"))

    def cut_line(self, text: Text) -> Text:
        """Keep it on one line, whatever the width."""
        text.no_wrap = True
        text.overflow = self.overflow
        return text

    def flow_parts(self, parts: Iterable[str], width: int, first_style: str = "") -> list[Text]:
        """Join the parts on as few lines as hold them, broken between parts only."""
        separator = " · " if self.unicode else " | "
        lines: list[Text] = []
        for part in parts:
            text = Text(part, style="" if lines else first_style)
            if lines and lines[-1].cell_len + len(separator) + text.cell_len <= width:
                lines[-1] = Text.assemble(lines[-1], (separator, "dim"), text)
            else:
                lines.append(text)
        return [self.cut_line(line) for line in lines]


def opening_line(counts: TrialCounts) -> str:
    at_once = f"{counts.slots} at once" if counts.slots > 1 else "one at a time"
    if counts.step is not None:
        done = f"; {counts.ended.total()} of them done" if counts.ended.total() else ""
        runs = f"{counts.trials} runs of {counts.epochs} epochs{_name_seeds(counts.step)}"
        return f"{counts.name}: {_name_step(counts.step)}{runs}, {at_once}{done}"
    swa = counts.count_planned("swa")
    counted = "" if counts.has_open_end else f"{swa} "
    line = (
        f"{counts.name}: {counts.count_planned('baseline')} baseline and {counted}SWA "
        f"trial{'s' if swa != 1 or not counted else ''} of {counts.epochs} epochs, {at_once}"
    )
    if counts.budget is not None:
        line += f", in {counts.budget:,} epochs"
    if counts.epochs_done:
        line += f"; resumed after {counts.ended.total()} trials, {counts.epochs_done:,} epochs"
    return line


def _name_seeds(step: Step) -> str:
    """Return what comes after the number of runs."""
    number = len(step.seeds)
    return "" if isinstance(step, MemberRuns) else f" on {number} fresh seed{'s' if number > 1 else ''}"


def _name_step(step: Step) -> str:
    """Return what comes before the number of runs."""
    if isinstance(step, MemberRuns):
        best = f"the {len(step.arms)} best configurations" if len(step.arms) > 1 else "the best configuration"
        return f"members 2 to {step.members} of {best} for SWAP, "
    if isinstance(step, Round):
        rounds = f"round {step.number} of {len(step.rounds)}, " if len(step.rounds) > 1 else ""
        return f"race on the validation images, {rounds}"
    if isinstance(step, Look) and len(step.looks) > 1:
        return f"look {step.looks.index(len(step.seeds)) + 1} of {len(step.looks)} at most, "
    return ""


def look_line(event: LookJudged, look: Look) -> str:
    """Say what a look at the test images means for the seeds to come."""
    number = len(look.seeds)
    seeds = f"after {number} fresh seed{'s' * (number > 1)}"
    if event.stop is None:
        return f"{seeds} the answer is open, so more are trained"
    if event.stop == "seeds" or len(look.seeds) == look.looks[-1]:
        return f"{seeds} the planned looks are done"
    if event.stop == "success":
        return f"{seeds} a finalist is better, so no more are needed"
    return f"{seeds} no finalist can still become better, so no more are trained"


def restart_line(trial: TrialState, event: TrialStarted, epochs: int) -> Text:
    done = f"goes on after {event.from_epoch}/{epochs} epochs"
    if event.retried:
        return Text(f"{trial.name}: GPU memory was exhausted; it {done} with streamed images")
    return Text(f"{trial.name}: its worker died; another one {done}")


def damaged_line(trial: TrialState, damaged: Sequence[str], epoch: int, epochs: int) -> Text:
    goes_on = f"goes on after {epoch}/{epochs} epochs" if epoch else "begins anew"
    return Text(f"{trial.name}: {'; '.join(damaged)}: it {goes_on}", "yellow")


def ended_line(
    trial: TrialState, baseline: TrialState | None, counts: TrialCounts, output: OutputFormat
) -> Text:
    """Describe how a trial ended; `baseline` is the best one that had completed before."""
    total = str(counts.trials)
    at = f"at {trial.next_epoch}/{counts.epochs}"
    reason = ""
    if trial.status == "completed":
        # of single runs on different seeds a difference says little; the verdict pairs them
        outcome = Text() if counts.step is not None else _compare_with_baseline(trial, baseline, counts)
    elif trial.status == "pruned":
        rung = next((r for r, decision in reversed(trial.rungs.items()) if decision == "stop"), None)
        outcome = Text.assemble((f"pruned {at}" + ("" if rung is None else f", rung {rung}"), "yellow"))
    else:
        outcome = Text.assemble((f"failed {at}", "red"))
        reason = output.clean_text(trial.error or "no reason was given")
        if len(reason) > REASON_LENGTH:
            reason = reason[: REASON_LENGTH - 3] + "..."
    widest = (
        "nll 0.0000 higher vs baseline" if counts.objective.metric == "nll" else "+0.00 points vs baseline"
    )
    outcome.pad_right(max(0, len(widest) - outcome.cell_len))
    value = format_value(trial, counts.objective)
    line = Text(f"[{counts.ended.total():>{len(total)}}/{total}] {trial.name:<13}  {value:>8}  ")
    line.append_text(outcome).append(f"  {output.clean_text(counts.label_trial(trial))}")
    return line.append(f": {reason}") if reason else line


def _compare_with_baseline(trial: TrialState, baseline: TrialState | None, counts: TrialCounts) -> Text:
    if baseline is None:
        return Text("first baseline" if trial.kind == "baseline" else "no baseline yet")
    return format_difference(trial, baseline, counts.objective).append(" vs baseline")


def format_difference(trial: TrialState, baseline: TrialState, objective: Objective) -> Text:
    assert trial.last is not None
    assert baseline.last is not None
    written = MetricFormat(objective.metric)
    gain = objective.score_record(trial.last) - objective.score_record(baseline.last)
    rounded = written.round_gain(gain)
    if rounded == 0:
        return Text("nll equal" if written.is_nll else "0.00 points")
    # the style of a span: what is appended must not have it
    return Text.assemble((written.describe_gain(gain), "green" if rounded > 0 else "red"))


def format_value(trial: TrialState, objective: Objective) -> str:
    """Return the objective's metric at the last epoch."""
    if not trial.last:
        return "-"
    return MetricFormat(objective.metric).format_value(objective.read_value(trial.last))


def count_ended(counts: TrialCounts) -> list[str]:
    """Return how many trials of each kind have ended."""
    kinds: tuple[tuple[str, Kind], ...] = (("baseline", "baseline"), ("SWA", "swa"))
    if isinstance(counts.step, MemberRuns):
        kinds = kinds[1:]
    return [f"{title} {counts.ended[kind]}/{counts.count_planned(kind)}" for title, kind in kinds]


def count_lost(counts: TrialCounts) -> list[str]:
    """Return how many of these have no result."""
    return [f"{counts.statuses[s]} {s}" for s in ("pruned", "failed") if counts.statuses[s]]


def list_times(counts: TrialCounts, now: float) -> list[str]:
    """Return what is done and left, in epochs and in time."""
    parts = [f"{counts.epochs_done:,} epoch{'s' * (counts.epochs_done != 1)} done"]
    if counts.epochs_shared:
        parts.append(f"{counts.epochs_shared:,} shared")
    if counts.epochs_left > 0:
        parts.append(f"at most {counts.epochs_left:,} left")
    parts.append(f"elapsed {format_duration(now - counts.begun)}")
    left = counts.seconds_left(now)
    if left is not None and counts.epochs_left > 0:
        parts.append(f"about {format_duration(left)} left")
    return parts


def status_line(counts: TrialCounts, now: float, waiting: str = "", *, final: bool = False) -> str:
    """Summarise the search in one line, for output without a live region."""
    lost = count_lost(counts)
    parts = [" and ".join(count_ended(counts)) + " trials done" + (f" ({', '.join(lost)})" if lost else "")]
    if not final:
        parts[0] += f", {len(counts.running)} of {counts.slots} slots busy"
    swa, baseline = counts.find_leader("swa"), counts.find_leader("baseline")
    if counts.step is not None:
        swa = baseline = None  # the verdict is about means over the seeds
    for trial, title in ((swa, "best SWA"), (baseline, "best baseline")):
        if trial is not None:
            unfinished = "" if trial.ended else f" after {trial.next_epoch}/{counts.epochs} epochs"
            parts.append(f"{title} {format_value(trial, counts.objective)}{unfinished} ({trial.name})")
    if swa is not None and baseline is not None:
        parts.append(f"{format_difference(swa, baseline, counts.objective)} for SWA")
    parts.append(", ".join(list_times(counts, now)))
    if waiting:
        parts.append(f"waiting: {waiting}")
    return f"{counts.name}: " + "; ".join(parts)


def format_duration(seconds: float) -> str:
    """Format a time in two units at most: `45s`, `2m 05s`, `1h 07m`, `2d 03h`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}h"
    if hours:
        return f"{h}h {m:02}m"
    return f"{m}m {s:02}s" if minutes else f"{s}s"
