"""Show a search while it runs.

A terminal gets a live region below the lines of the trials that have ended; a log file gets plain lines
alone. Nothing here looks at all trials after the start: an event costs the same in a search of thousands
of trials as in one of ten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import get_args

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tune_swa.config import Experiment
from tune_swa.experiment.events import (
    EpochReported,
    Event,
    LookJudged,
    LookPlanned,
    MembersPlanned,
    RacePlanned,
    TrialEnded,
    TrialStarted,
    TrialSuggested,
    TrunkShared,
)
from tune_swa.experiment.state import ExperimentState
from tune_swa.monitoring.live_table import draw_search
from tune_swa.monitoring.progress_lines import (
    OutputFormat,
    damaged_line,
    ended_line,
    look_line,
    opening_line,
    restart_line,
    status_line,
)
from tune_swa.monitoring.trial_counts import TrialCounts
from tune_swa.search.confirmation import Look, Round, Step
from tune_swa.search.members import MemberRuns

REDRAW_SECONDS = 0.2
"""The live region is drawn at most this often, however fast the epochs come."""
CLOCK_SECONDS = 1.0
"""And this often if nothing happens, since it shows the time."""
DRAWING_SHARE = 0.05
"""Share of the driver's time that drawing may take: many slots and slow connections take longer."""
STATUS_SECONDS = 60.0
"""Seconds between two status lines where there is no live region."""
CountedEvent = EpochReported | TrialSuggested | TrunkShared | TrialStarted | TrialEnded
COUNTED_EVENTS = get_args(CountedEvent)
"""Kinds that change the totals; a union that is written in a check is made anew at each of them."""
WAITING_SECONDS = 10.0
"""Seconds between two lines about waiting where there is no live region: a counter in them changes fast."""


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
        step: what is run after the search, where that is over already.
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
        self._counts = TrialCounts(experiment, state, slots, clock(), step)
        self._format = OutputFormat.of_console(console)
        self._mute = quiet
        self._on_terminal = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._changed = True
        self._drawn = self._status_printed = clock()
        self._pause = REDRAW_SECONDS
        self._waiting = ""
        self._waiting_is_new = False
        self._waiting_printed = -float("inf")

    def __enter__(self) -> Progress:
        self._counts.begun = self._status_printed = self._clock()
        self._print_line(Text(opening_line(self._counts)))
        if self._on_terminal and not self._mute:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._write(self._live.start)
            self._draw_region(self._clock())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._mute = False  # whatever happened: rich has to give stdout and the cursor back
            self._write(self._live.stop)
            self._live = None
        self._print_line(Text(status_line(self._counts, self._clock(), final=True)))

    def __call__(self, event: Event, state: ExperimentState) -> None:
        """Count an event that `state` has applied, and print its line."""
        if isinstance(event, MembersPlanned):
            self.begin_step(state, MemberRuns.from_event(event))
        elif isinstance(event, RacePlanned):
            self.begin_step(state, Round.from_event(event))
        elif isinstance(event, LookPlanned):
            self.begin_step(state, Look.from_event(event))
        elif isinstance(event, LookJudged):
            self._print_line(Text(look_line(event, Look.from_event(state.confirmations[event.look - 1]))))
        elif isinstance(event, COUNTED_EVENTS):
            self._count_event(event, state)

    def _count_event(self, event: CountedEvent, state: ExperimentState) -> None:
        trial = state.trials[event.trial]
        now, counts = self._clock(), self._counts
        if trial.stage != counts.stage:
            return
        self._changed = True
        if isinstance(event, EpochReported):
            self._waiting = ""
            counts.report_epoch(trial, now)
        elif isinstance(event, TrialSuggested):
            counts.suggest_trial(trial)
        elif isinstance(event, TrunkShared):
            counts.share_epochs(trial, event.epochs)
        elif isinstance(event, TrialStarted):
            self._waiting = ""
            if counts.start_trial(trial, now):
                self._print_line(restart_line(trial, event, counts.epochs))
            if event.damaged:
                self._print_line(damaged_line(trial, event.damaged, event.from_epoch or 0, counts.epochs))
        else:
            baseline = counts.best.get("baseline")
            counts.end_trial(trial, now)
            if trial.ended:
                self._print_line(ended_line(trial, baseline, counts, self._format))

    def begin_step(self, state: ExperimentState, step: Step) -> None:
        """Show the runs of this step from now on."""
        now = self._clock()
        self._print_line(Text(status_line(self._counts, now, final=True)))
        self._counts = TrialCounts(self._experiment, state, self._slots, now, step)
        self._status_printed, self._changed = now, True
        self._print_line(Text(opening_line(self._counts)))

    def set_slots(self, slots: int) -> None:
        """Show another number of trials at once from now on."""
        self._slots = self._counts.slots = slots

    def show_waiting(self, text: str) -> None:
        """Show what the search waits for, until the next trial or epoch."""
        text = self._format.clean_text(text)
        if text != self._waiting:
            self._waiting, self._waiting_is_new, self._changed = text, True, True
        self.tick()

    def tick(self) -> None:
        """Draw or print what is due. Costs next to nothing when nothing is."""
        now = self._clock()
        if self._live is not None:
            since = now - self._drawn
            if since >= (self._pause if self._changed else max(self._pause, CLOCK_SECONDS)):
                self._draw_region(now)
        elif not self._on_terminal:
            if self._waiting and self._waiting_is_new and now - self._waiting_printed >= WAITING_SECONDS:
                self._waiting_is_new, self._waiting_printed = False, now
                self._print_line(Text(self._waiting))
            if now - self._status_printed >= STATUS_SECONDS:
                self._status_printed = now
                self._print_line(Text(status_line(self._counts, now, self._waiting)))

    def _draw_region(self, now: float) -> None:
        live = self._live
        assert live is not None
        size = self._console.size
        picture = draw_search(self._counts, self._format, size.width, size.height, now, self._waiting)
        self._write(lambda: live.update(picture, refresh=True))
        self._changed, self._drawn = False, self._clock()
        self._pause = max(REDRAW_SECONDS, (self._drawn - now) / DRAWING_SHARE)

    def _print_line(self, line: Text) -> None:
        """Print one line, above the live region; never folded, so that it can be searched and copied."""
        self._write(lambda: self._console.print(line, soft_wrap=True, highlight=False))

    def _write(self, action: Callable[[], object]) -> None:
        """Write, unless muted. A terminal that went away must not end a search of hours."""
        if self._mute:
            return
        try:
            action()
        except (OSError, SystemExit):  # rich turns a broken pipe into SystemExit
            self._mute = True
