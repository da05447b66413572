"""Report what a search waits for when nothing has happened for long.

Ray waits in silence: for a node that has gone, for slots that never become free, for a worker that hangs
in a file system. Nothing here ends a search; a person who reads the message can.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tune_swa.experiment.events import EpochReported, Event, TrialEnded, TrialStarted
from tune_swa.experiment.state import ExperimentState
from tune_swa.text import name_first

LEAST_SECONDS = 120.0
"""Shorter silences are not reported, whatever the length of an epoch."""
EPOCHS = 5.0
"""Longest epochs that a silence has to exceed to be reported."""
AGAIN_SECONDS = 600.0
"""Seconds between two messages about one silence."""
SHOWN = 4
"""Trials named in a message."""


class Watchdog:
    """Listens to the journal, and reports when it has been silent for too long.

    Args:
        say: takes the message.
        live: names of the trials that are out with Ray.
        nodes: nodes that Ray has now.
        dead_workers: a clause on worker processes that could not start, if there are any.
        merges: what workers merge now, in words.
        least: seconds of silence that are nothing to speak of.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        say: Callable[[str], object],
        live: Callable[[], list[str]],
        nodes: Callable[[], int],
        dead_workers: Callable[[], str | None] = lambda: None,
        merges: Callable[[], list[str]] = list,
        *,
        least: float = LEAST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report, self._live, self._nodes = say, live, nodes
        self._dead_workers, self._merges = dead_workers, merges
        self._least = least
        self._clock = clock
        self._moved = clock()
        self._reported: float | None = None
        self._longest = 0.0
        self._since: dict[str, float] = {}
        self._most_nodes = nodes()

    def __call__(self, event: Event, state: ExperimentState) -> None:
        now = self._clock()
        self._moved, self._reported = now, None
        if isinstance(event, EpochReported):
            self._longest = max(self._longest, now - self._since.get(event.trial, now))
            self._since[event.trial] = now
        elif isinstance(event, TrialStarted):
            self._since[event.trial] = now
        elif isinstance(event, TrialEnded):
            self._since.pop(event.trial, None)

    @property
    def patience(self) -> float:
        """Seconds of silence that are not reported yet."""
        return max(self._least, EPOCHS * self._longest)

    def tick(self, state: ExperimentState) -> None:
        """Report if it is due. Costs next to nothing when it is not."""
        now = self._clock()
        if now - self._moved < self.patience:
            return
        if self._reported is not None and now - self._reported < AGAIN_SECONDS:
            return
        self._reported = now
        self._report(
            f"nothing has happened for {_format_time(now - self._moved)}: {self._list_reasons(state, now)}"
        )

    def _list_reasons(self, state: ExperimentState, now: float) -> str:
        live = self._live()
        at_work = [name for name in live if name in self._since]
        waiting = [name for name in live if name not in self._since]
        parts = []
        if at_work:
            described = [
                f"{name} (epoch {state.trials[name].next_epoch}, for {_format_time(now - self._since[name])})"
                for name in at_work
            ]
            parts.append(f"waiting for {name_first(described, SHOWN)}")
        if waiting:
            parts.append(f"waiting for a slot to run {name_first(waiting, SHOWN)}")
            if dead := self._dead_workers():
                parts.append(dead)
        merges = self._merges()
        if merges:
            parts.append(f"waiting for the {name_first(merges, SHOWN)}")
        if not live and not merges:
            parts.append("no trial is running, which is a fault of the search itself")
        nodes = self._nodes()
        if nodes < self._most_nodes:
            parts.append(f"of {self._most_nodes} nodes Ray has {nodes} left")
        self._most_nodes = max(self._most_nodes, nodes)
        return "; ".join(parts) + ". Ctrl-C stops the search, and --resume goes on with it"


def _format_time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
