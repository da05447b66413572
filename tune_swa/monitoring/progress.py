"""What does one see of a search while it runs?

On a terminal a live region below the lines of the trials that have ended; elsewhere (a log file, CI)
plain lines alone. Nothing here looks at all trials after the start: an event costs the same in a
search of thousands of trials as in one of ten.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, JustifyMethod, OverflowMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune_swa.config import Experiment
from tune_swa.experiment.events import Event, Kind, Stage
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState, ranking
from tune_swa.search.confirmation import Look, Round, Step
from tune_swa.text import count_hidden

REDRAW_SECONDS = 0.2
"""The live region is drawn at most this often, however fast the epochs come."""
CLOCK_SECONDS = 1.0
"""And this often if nothing happens, since it shows the time."""
DRAWING_SHARE = 0.05
"""Share of the driver's time that drawing may take: many slots and slow connections take longer."""
STATUS_SECONDS = 60.0
"""Between two status lines where there is no live region."""
WAITING_SECONDS = 10.0
"""Between two lines on what is waited for where there is no live region: a counter in it changes fast."""
REASON_LENGTH = 160
"""Characters shown of why a trial failed; the journal has all of it."""


class Progress:
    """The display of one search: listens to the journal, and draws when it is ticked.

    Everything is called from the driver's thread. The live region has no thread of its own: it shows
    what the last tick drew, so a line that another thread prints meanwhile cannot meet counters that
    are half changed.

    Args:
        console: where to; a terminal gets the live region.
        experiment: the settings, for what is planned.
        state: the fold of the journal so far; of an earlier session, when the search is resumed.
        slots: how many trials run at once.
        quiet: show nothing.
        step: what is run on fresh seeds, where the search is over already.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        console: Console,
        experiment: Experiment,
        state: ExperimentState,
        *,
        slots: int,
        quiet: bool = False,
        step: Step | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._clock = clock
        self._experiment, self._slots = experiment, slots
        self._tally = _Tally(experiment, state, slots, clock(), step)
        self._screen = _Screen.of(console)
        self._mute = quiet
        self._on_terminal = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._changed = True
        self._drawn = self._said_status = clock()
        self._pause = REDRAW_SECONDS
        self._waiting = ""
        self._unsaid = False
        self._said_waiting = -float("inf")

    def __enter__(self) -> Progress:
        self._tally.begun = self._said_status = self._clock()
        self._say(Text(_opening(self._tally)))
        if self._on_terminal and not self._mute:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._output(self._live.start)
            self._draw(self._clock())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._mute = False  # whatever happened: rich has to give stdout and the cursor back
            self._output(self._live.stop)
            self._live = None
        self._say(Text(_status(self._tally, self._clock(), final=True)))

    def __call__(self, event: Event, state: ExperimentState) -> None:
        """Take in an event that `state` has taken in."""
        kind = event["event"]
        if kind in ("race", "confirm"):
            self.begin_step(state, Round.from_event(event) if kind == "race" else Look.from_event(event))
            return
        if kind == "judged":
            self._say(Text(_judged(event, Look.from_event(state.confirmations[event["look"] - 1]))))
            return
        if kind not in ("suggested", "shared", "started", "epoch", "ended"):
            return
        trial = state.trials[event["trial"]]
        now, tally = self._clock(), self._tally
        if trial.stage != tally.stage:
            return
        self._changed = True
        if kind == "suggested":
            tally.suggest(trial)
        elif kind == "shared":
            tally.share(trial, event["epochs"])
        elif kind == "started":
            self._waiting = ""
            if tally.start(trial, now):
                self._say(_restart_line(trial, event, tally.epochs))
            if event["damaged"]:
                self._say(_damaged_line(trial, event["damaged"], event["from_epoch"], tally.epochs))
        elif kind == "epoch":
            self._waiting = ""
            tally.report(trial, now)
        else:
            baseline = tally.best.get("baseline")
            tally.end(trial, now)
            if trial.ended:
                self._say(_ended_line(trial, baseline, tally, self._screen))

    def begin_step(self, state: ExperimentState, step: Step) -> None:
        """Show these runs on fresh seeds from now on."""
        now = self._clock()
        self._say(Text(_status(self._tally, now, final=True)))
        self._tally = _Tally(self._experiment, state, self._slots, now, step)
        self._said_status, self._changed = now, True
        self._say(Text(_opening(self._tally)))

    def waiting(self, text: str) -> None:
        """Show what the search waits for, until the next trial or epoch."""
        text = self._screen.clean(text)
        if text != self._waiting:
            self._waiting, self._unsaid, self._changed = text, True, True
        self.tick()

    def tick(self) -> None:
        """Draw or say what is due. Costs next to nothing when nothing is."""
        now = self._clock()
        if self._live is not None:
            since = now - self._drawn
            if since >= (self._pause if self._changed else max(self._pause, CLOCK_SECONDS)):
                self._draw(now)
        elif not self._on_terminal:
            if self._waiting and self._unsaid and now - self._said_waiting >= WAITING_SECONDS:
                self._unsaid, self._said_waiting = False, now
                self._say(Text(self._waiting))
            if now - self._said_status >= STATUS_SECONDS:
                self._said_status = now
                self._say(Text(_status(self._tally, now, self._waiting)))

    def _draw(self, now: float) -> None:
        live = self._live
        assert live is not None
        size = self._console.size
        picture = _picture(self._tally, self._screen, size.width, size.height, now, self._waiting)
        self._output(lambda: live.update(picture, refresh=True))
        self._changed, self._drawn = False, self._clock()
        self._pause = max(REDRAW_SECONDS, (self._drawn - now) / DRAWING_SHARE)

    def _say(self, line: Text) -> None:
        """Print one line, above the live region; never folded, so that it can be searched and copied."""
        self._output(lambda: self._console.print(line, soft_wrap=True, highlight=False))

    def _output(self, action: Callable[[], object]) -> None:
        """Write, unless muted. A terminal that went away must not end a search of hours."""
        if self._mute:
            return
        try:
            action()
        except (OSError, SystemExit):  # rich turns a broken pipe into SystemExit
            self._mute = True


# ------------------------------------------------------------------------------------ counting

LEAST_EPOCHS = 3
"""Epochs before the time left is estimated."""
EPOCHS_PER_SLOT = 20
"""How many of the last epochs of each slot the estimate rests on: the machine may be shared."""


@dataclass
class _Running:
    """A trial in a slot."""

    trial: TrialState
    since: float
    """When its slot began to work on the epoch it is in."""


class _Tally:
    """Totals of a stage, kept up event by event.

    Args:
        experiment: the settings.
        state: the fold of the journal so far.
        slots: how many trials run at once.
        now: when it begins.
        step: the runs on fresh seeds that are counted; None: the search.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: ExperimentState,
        slots: int,
        now: float,
        step: Step | None = None,
    ) -> None:
        self.name = experiment.name
        self._experiment = experiment
        self.epochs = experiment.train.epochs
        self.slots = slots
        self.begun = now
        self._planned: dict[Kind, int] = {
            "baseline": experiment.baseline_trials,
            "swa": experiment.swa_trials,
        }
        self.stage: Stage = "search"
        names = None
        if step is not None:
            self.stage = step.stage
            arms = Counter[Kind](arm.kind for arm in step.arms)
            self._planned = {kind: arms[kind] * len(step.seeds) for kind in self._planned}
            names = set(step.names)
        self.step = step
        self._suggested: Counter[Kind] = Counter()
        self.ended: Counter[Kind] = Counter()
        self.statuses: Counter[str] = Counter()
        self.epochs_done = 0
        """Epochs that were trained."""
        self.epochs_shared = 0
        """Epochs that trials took over instead."""
        self._shared: Counter[str] = Counter()
        self._unended_epochs = 0
        """Of these, epochs of trials that have not ended."""
        self._swa_lengths: list[int] = [0, 0]
        """Number of the SWA trials that completed or were pruned, and epochs that they trained."""
        self.best: dict[Kind, TrialState] = {}
        """The best completed trial of each kind."""
        self.running: dict[str, _Running] = {}
        self._freed: deque[float] = deque()
        """When slots became free that are free still."""
        self._durations: deque[float] = deque(maxlen=EPOCHS_PER_SLOT * slots)
        """Seconds of the last epochs, each in its slot."""
        for trial in state.trials.values():
            if trial.stage == self.stage and (names is None or trial.name in names):
                self.suggest(trial)
                self.share(trial, sum(r.get("shared_from") is not None for r in trial.records))
                trained = trial.next_epoch - self._shared[trial.name]
                self.epochs_done += trained
                self._unended_epochs += trained
                if trial.status == "running":
                    self.start(trial, now)
                elif trial.ended:
                    self.end(trial, now)

    def planned(self, kind: Kind) -> int:
        """A search that is resumed with fewer trials may have more of them than it plans."""
        return max(self._planned[kind], self._suggested[kind])

    def label(self, trial: TrialState) -> str:
        """A trial's configuration, with what the space fixes."""
        return self._experiment.format_label(trial.params, swa=trial.kind == "swa")

    @property
    def trials(self) -> int:
        return self.planned("baseline") + self.planned("swa")

    @property
    def epochs_left(self) -> int:
        """If no trial is stopped early from now on."""
        return (self.trials - self.ended.total()) * self.epochs - self._unended_epochs

    def suggest(self, trial: TrialState) -> None:
        self._suggested[trial.kind] += 1

    def share(self, trial: TrialState, epochs: int) -> None:
        self._shared[trial.name] += epochs
        self.epochs_shared += epochs
        self._unended_epochs += epochs

    def start(self, trial: TrialState, now: float) -> bool:
        """Return whether it was running already: its worker died, and another one took over."""
        if trial.name in self.running:
            return True
        # what passes between two trials is part of the time that epochs take
        since = self._freed.popleft() if self._freed else now
        self.running[trial.name] = _Running(trial, since)
        return False

    def report(self, trial: TrialState, now: float) -> None:
        if trial.records[-1].get("shared_from") is None:
            self.epochs_done += 1
            self._unended_epochs += 1
        else:
            self.share(trial, 1)
        running = self.running.get(trial.name)
        if running is not None:
            self._durations.append(now - running.since)
            running.since = now

    def end(self, trial: TrialState, now: float) -> None:
        if self.running.pop(trial.name, None) is not None:
            self._freed.append(now)
        if not trial.ended:  # interrupted: it goes on after a resume
            return
        self.ended[trial.kind] += 1
        self.statuses[trial.status] += 1
        self._unended_epochs -= trial.next_epoch
        if trial.kind == "swa" and trial.status != "failed":
            self._swa_lengths[0] += 1
            self._swa_lengths[1] += trial.next_epoch - self._shared[trial.name]
        if trial.status == "completed":
            best = self.best.get(trial.kind)
            if best is None or ranking(trial) < ranking(best):
                self.best[trial.kind] = trial

    def leader(self, kind: Kind) -> TrialState | None:
        """The best completed trial; before there is one, the best of the running ones."""
        running = (r.trial for r in self.running.values() if r.trial.kind == kind and r.trial.records)
        return self.best.get(kind) or min(running, key=ranking, default=None)

    def seconds_left(self, now: float) -> float | None:
        """An estimate; None while there is too little to go by.

        A trial that has begun counts to its last epoch, an SWA trial that is still to come with the
        mean length of those before it.
        """
        if len(self._durations) < LEAST_EPOCHS:
            return None
        pace = sum(self._durations) / len(self._durations)
        to_come = self.planned("swa") - self._suggested["swa"]
        unspent = to_come * (self.epochs - self._mean_swa_length())
        # of the epochs that are being trained, a part is behind us
        begun = {name: _share(now - r.since, pace) for name, r in self.running.items()}
        work = self.epochs_left - unspent - sum(begun.values())
        longest = max(
            (self.epochs - r.trial.next_epoch - begun[name] for name, r in self.running.items()), default=0.0
        )
        side_by_side = max(1, min(self.slots, self.trials - self.ended.total()))
        return max(0.0, pace * max(work / side_by_side, longest))

    def _mean_swa_length(self) -> float:
        number, epochs = self._swa_lengths
        if number == 0:
            return self.epochs
        # those that are stopped early end first: alone they would make the mean too short
        running = [r.trial for r in self.running.values() if r.trial.kind == "swa"]
        to_the_end = sum(self.epochs - self._shared[trial.name] for trial in running)
        return (epochs + to_the_end) / (number + len(running))


def _share(seconds: float, pace: float) -> float:
    return min(1.0, seconds / pace) if pace > 0 else 0.0


# --------------------------------------------------------------------------------- lines of text


@dataclass(frozen=True)
class _Screen:
    """What the output can show."""

    encoding: str
    unicode: bool

    @classmethod
    def of(cls, console: Console) -> _Screen:
        return cls(console.encoding, console.encoding.lower().startswith("utf"))

    def clean(self, text: str) -> str:
        """One line without control characters, in characters that the output has."""
        line = "".join(c for c in " ".join(text.split()) if c.isprintable())
        return line.encode(self.encoding, "backslashreplace").decode(self.encoding)

    @property
    def overflow(self) -> OverflowMethod:
        """How what is too long is cut: rich's ellipsis is a character beyond ASCII."""
        return "ellipsis" if self.unicode else "crop"

    def bar(self, done: int, total: int, width: int, style: str) -> Text:
        full, empty = ("━", "─") if self.unicode else ("#", "-")
        filled = width * done // total
        return Text.assemble((full * filled, style), (empty * (width - filled), "dim"))

    def cut(self, text: Text) -> Text:
        """Keep it on one line, whatever the width."""
        text.no_wrap = True
        text.overflow = self.overflow
        return text

    def flow(self, parts: Iterable[str], width: int, first_style: str = "") -> list[Text]:
        """The parts on as few lines as hold them, broken between parts only."""
        separator = " · " if self.unicode else " | "
        lines: list[Text] = []
        for part in parts:
            text = Text(part, style="" if lines else first_style)
            if lines and lines[-1].cell_len + len(separator) + text.cell_len <= width:
                lines[-1] = Text.assemble(lines[-1], (separator, "dim"), text)
            else:
                lines.append(text)
        return [self.cut(line) for line in lines]


def _opening(tally: _Tally) -> str:
    at_once = f"{tally.slots} at once" if tally.slots > 1 else "one at a time"
    if tally.step is not None:
        done = f"; {tally.ended.total()} of them done" if tally.ended.total() else ""
        number = len(tally.step.seeds)
        seeds = f"{number} fresh seed{'s' if number > 1 else ''}"
        runs = f"{tally.trials} runs of {tally.epochs} epochs on {seeds}"
        return f"{tally.name}: {_step_title(tally.step)}{runs}, {at_once}{done}"
    swa = tally.planned("swa")
    line = (
        f"{tally.name}: {tally.planned('baseline')} baseline and {swa} SWA "
        f"trial{'s' if swa != 1 else ''} of {tally.epochs} epochs, {at_once}"
    )
    if tally.epochs_done:
        line += f"; resumed after {tally.ended.total()} trials, {tally.epochs_done:,} epochs"
    return line


def _step_title(step: Step) -> str:
    """What comes before the number of runs."""
    if isinstance(step, Round):
        rounds = f"round {step.number} of {len(step.rounds)}, " if len(step.rounds) > 1 else ""
        return f"race on the validation images, {rounds}"
    if isinstance(step, Look) and len(step.looks) > 1:
        return f"look {step.looks.index(len(step.seeds)) + 1} of {len(step.looks)} at most, "
    return ""


def _judged(event: Event, look: Look) -> str:
    """What a look at the test images means for the seeds to come."""
    seeds = f"after {len(look.seeds)} fresh seeds"
    if event["stop"] is None:
        return f"{seeds} the answer is open, so more are trained"
    if event["stop"] == "seeds" or len(look.seeds) == look.looks[-1]:
        return f"{seeds} the planned looks are done"
    if event["stop"] == "success":
        return f"{seeds} a finalist is better, so no more are needed"
    return f"{seeds} no finalist can still become better, so no more are trained"


def _restart_line(trial: TrialState, event: Event, epochs: int) -> Text:
    done = f"goes on after {event['from_epoch']}/{epochs} epochs"
    if event.get("retried"):
        return Text(f"{trial.name}: GPU memory was exhausted; it {done} with streamed images")
    return Text(f"{trial.name}: its worker died; another one {done}")


def _damaged_line(trial: TrialState, damaged: list[str], epoch: int, epochs: int) -> Text:
    goes_on = f"goes on after {epoch}/{epochs} epochs" if epoch else "begins anew"
    return Text(f"{trial.name}: {'; '.join(damaged)}: it {goes_on}", "yellow")


def _ended_line(trial: TrialState, baseline: TrialState | None, tally: _Tally, screen: _Screen) -> Text:
    """One trial's end; `baseline` is the best one that had completed before."""
    total = str(tally.trials)
    at = f"at {trial.next_epoch}/{tally.epochs}"
    reason = ""
    if trial.status == "completed":
        # of single runs on different seeds a difference says little; the verdict pairs them
        outcome = Text() if tally.step is not None else _against(trial, baseline)
    elif trial.status == "pruned":
        rung = next((r for r, decision in reversed(trial.rungs.items()) if decision == "stop"), None)
        outcome = Text.assemble((f"pruned {at}" + ("" if rung is None else f", rung {rung}"), "yellow"))
    else:
        outcome = Text.assemble((f"failed {at}", "red"))
        reason = screen.clean(trial.error or "no reason was given")
        if len(reason) > REASON_LENGTH:
            reason = reason[: REASON_LENGTH - 3] + "..."
    outcome.pad_right(max(0, len("+0.00 points vs baseline") - outcome.cell_len))
    line = Text(f"[{tally.ended.total():>{len(total)}}/{total}] {trial.name:<13}  {_percent(trial):>8}  ")
    line.append_text(outcome).append(f"  {screen.clean(tally.label(trial))}")
    return line.append(f": {reason}") if reason else line


def _against(trial: TrialState, baseline: TrialState | None) -> Text:
    if baseline is None:
        return Text("first baseline" if trial.kind == "baseline" else "no baseline yet")
    return _difference(trial, baseline).append(" vs baseline")


def _difference(trial: TrialState, baseline: TrialState) -> Text:
    assert trial.last is not None
    assert baseline.last is not None
    points = round(100 * (trial.last["accuracy"] - baseline.last["accuracy"]), 2)
    if points == 0:  # also -0.0
        return Text("0.00 points")
    # the style of a span: what is appended must not have it
    return Text.assemble((f"{points:+.2f} points", "green" if points > 0 else "red"))


def _percent(trial: TrialState) -> str:
    return f"{100 * trial.last['accuracy']:.2f} %" if trial.last else "-"


def _done(tally: _Tally) -> list[str]:
    """How many trials of each kind have ended."""
    kinds: tuple[tuple[str, Kind], ...] = (("baseline", "baseline"), ("SWA", "swa"))
    return [f"{title} {tally.ended[kind]}/{tally.planned(kind)}" for title, kind in kinds]


def _lost(tally: _Tally) -> list[str]:
    """How many of these have no result."""
    return [f"{tally.statuses[s]} {s}" for s in ("pruned", "failed") if tally.statuses[s]]


def _times(tally: _Tally, now: float) -> list[str]:
    """How far it is, in epochs and in time."""
    parts = [f"{tally.epochs_done:,} epochs done"]
    if tally.epochs_shared:
        parts.append(f"{tally.epochs_shared:,} shared")
    if tally.epochs_left > 0:
        parts.append(f"at most {tally.epochs_left:,} left")
    parts.append(f"elapsed {_duration(now - tally.begun)}")
    left = tally.seconds_left(now)
    if left is not None and tally.epochs_left > 0:
        parts.append(f"about {_duration(left)} left")
    return parts


def _status(tally: _Tally, now: float, waiting: str = "", *, final: bool = False) -> str:
    """Everything that matters in one line, in words that stand without a live region around them."""
    lost = _lost(tally)
    parts = [" and ".join(_done(tally)) + " trials done" + (f" ({', '.join(lost)})" if lost else "")]
    if not final:
        parts[0] += f", {len(tally.running)} of {tally.slots} slots busy"
    swa, baseline = tally.leader("swa"), tally.leader("baseline")
    if tally.step is not None:
        swa = baseline = None  # the verdict is about means over the seeds
    for trial, title in ((swa, "best SWA"), (baseline, "best baseline")):
        if trial is not None:
            unfinished = "" if trial.ended else f" after {trial.next_epoch}/{tally.epochs} epochs"
            parts.append(f"{title} {_percent(trial)}{unfinished} ({trial.name})")
    if swa is not None and baseline is not None:
        parts.append(f"{_difference(swa, baseline)} for SWA")
    parts.append(", ".join(_times(tally, now)))
    if waiting:
        parts.append(f"waiting: {waiting}")
    return f"{tally.name}: " + "; ".join(parts)


def _duration(seconds: float) -> str:
    """Two units at most: `45s`, `2m 05s`, `1h 07m`, `2d 03h`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02}h"
    if hours:
        return f"{h}h {m:02}m"
    return f"{m}m {s:02}s" if minutes else f"{s}s"


# ---------------------------------------------------------------------------------- live region

WIDE = 76
"""Columns from which on there is room for speed and for words in full."""
NARROW = 54
"""Columns below which there is no room for a bar."""
WIDEST_BAR = 30


def _picture(
    tally: _Tally, screen: _Screen, width: int, height: int, now: float, waiting: str
) -> RenderableType:
    """The live region, in at most `height` lines."""
    busy = f"{len(tally.running)} of {tally.slots} slots busy"
    head = screen.flow([tally.name, *_done(tally), *_lost(tally), busy], width, first_style="bold")
    foot = [
        *([] if tally.step is not None else _best(tally, screen)),
        *screen.flow(_times(tally, now), width),
    ]
    if waiting:
        foot.append(screen.cut(Text(f"waiting: {waiting}", style="yellow")))
    # one line for the gap above, one for the headings, one for "more", one for the cursor
    room = max(1, height - len(head) - len(foot) - 4)
    shown = list(tally.running.values())[:room]
    lines: list[RenderableType] = [Text(), *head]
    if shown:
        lines.append(_table([r.trial for r in shown], tally, screen, width))
    if len(tally.running) > len(shown):
        lines.append(Text(count_hidden(len(tally.running) - len(shown)), style="dim"))
    return Group(*lines, *foot)


def _table(trials: list[TrialState], tally: _Tally, screen: _Screen, width: int) -> Table:
    """The running trials; the bar takes what the configurations leave."""
    wide, epochs = width >= WIDE, tally.epochs
    digits = len(str(epochs))
    labels = [screen.clean(tally.label(t)) for t in trials]
    phases = [_phase(t, "averaging" if wide else "avg") for t in trials]
    # widths that depend on the run alone where they can: columns that move are hard to read
    names = max(len(t.name) for t in trials)
    phase = max(len("starting"), len("averaging" if wide else "avg") + 1 + digits)
    counter = 2 * digits + 1
    taken = names + phase + counter + len("97.20") + 4 * 2 + (len("img/s") + 4 if wide else 0)
    bar = 0
    if width >= NARROW:
        bar = min(WIDEST_BAR, max(6, width - taken - 1 - max(map(len, labels))))
        taken += bar + 1
    configuration = max(4, min(width - taken, max(len("configuration"), *map(len, labels))))

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")

    def column(heading: str, size: int, justify: JustifyMethod = "left") -> None:
        table.add_column(heading, width=size, no_wrap=True, overflow=screen.overflow, justify=justify)

    column("trial", names)
    column("configuration", configuration)
    column("phase", phase)
    column("epochs", counter + bar + (1 if bar else 0))
    column("acc %", len("97.20"), "right")
    if wide:
        column("img/s", len("img/s") + 2, "right")
    for trial, name, words in zip(trials, labels, phases, strict=True):
        averaging = bool(trial.last and trial.last["n_averaged"])
        done = f"{trial.next_epoch:>{digits}}/{epochs}"
        style = "green" if averaging else "cyan"
        progress = screen.bar(trial.next_epoch, epochs, bar, style).append(" ") if bar else Text()
        table.add_row(
            Text(trial.name),
            Text(name),  # a Text, in which [brackets] are not markup
            Text(words, style=style),
            progress.append(done),
            Text(f"{100 * trial.last['accuracy']:.2f}" if trial.last else "-"),
            *([Text(_speed(trial))] if wide else []),
        )
    return table


def _speed(trial: TrialState) -> str:
    """Of its last epoch; one that another trial trained has none."""
    speed = trial.last and trial.last["images_per_second"]
    return f"{speed:,.0f}" if speed else "-"


def _phase(trial: TrialState, averaging: str) -> str:
    if trial.last is None:
        return "starting"
    return f"{averaging} {trial.last['n_averaged']}" if trial.last["n_averaged"] else "trunk"


def _best(tally: _Tally, screen: _Screen) -> list[Text]:
    """The best SWA trial against the best baseline, one line each."""
    swa, baseline = tally.leader("swa"), tally.leader("baseline")
    lines = []
    for title, trial, rival in (("best SWA", swa, baseline), ("best baseline", baseline, None)):
        line = Text(f"{title:<13}  ")
        if trial is None:
            line.append("none yet", style="dim")
        else:
            line.append(f"{_percent(trial):>8}", style="bold")
            if rival is not None:
                line.append("  ").append_text(_difference(trial, rival))
            if not trial.ended:
                line.append(f"  after {trial.next_epoch}/{tally.epochs} epochs", style="yellow")
            line.append(f"  {trial.name}  {screen.clean(tally.label(trial))}")
        lines.append(screen.cut(line))
    return lines
