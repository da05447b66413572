"""Decide what follows the death of a worker process: its trial runs again, or fails.

Ray could start a trial again by itself, but it does so at once, and counts a shortage of memory as the
trial's fault: three workers that its memory monitor kills within seconds would end a trial for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial

from tune_swa.hardware.shortages import PATIENCE_SECONDS, MemoryWatch, usage_threshold
from tune_swa.search.coordinator import Coordinator

MONITOR_WORDS = ("running low on memory", "OutOfMemoryError", "memory monitor")
"""By which Ray says that it has killed a worker because memory was short."""


class WorkerDeaths:
    """Counts what the workers of each trial died of.

    Args:
        coordinator: keeps the journal, and the trials that wait.
        max_failures: how often a trial is run again after its worker died.
        memory: watches this machine's; one that cannot read it for a cluster, of which only Ray's words are
            known.
        slots: trials that run at once.
        warn: shows a message to whoever watches the search.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        max_failures: int,
        memory: MemoryWatch,
        slots: int,
        warn: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.coordinator = coordinator
        self.memory = memory
        self.slots = slots
        """Trials that run at once: one fewer after each death for want of memory."""
        self._max_failures = max_failures
        self._warn: Callable[[str], object] | None = warn
        self._deaths: Counter[str] = Counter()
        self._starved: Counter[str] = Counter()
        """Deaths for want of memory while a trial had the machine to itself."""
        self._alone: str | None = None
        """The trial that began with nothing beside it."""
        self._lost: dict[str, str] = {}
        """Why a trial's last worker could not use its GPU any more."""
        self._exhausted: dict[str | None, str] = {}
        """The error by which a trial's worker ran out of memory, and ended itself."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what Ray cannot pickle into its snapshot, which is never read."""
        return {**self.__dict__, "_warn": None}

    def note_start(self, name: str | None) -> None:
        """Remember whether anything else runs beside a trial that begins now: nothing with one slot."""
        self._alone = name if self.slots == 1 else None

    def note_lost_gpu(self, name: str | None, reason: str) -> None:
        """Remember why the worker that is about to end itself could not use its GPU."""
        if name is not None:
            self._lost[name] = reason

    def note_exhausted_memory(self, name: str | None, reason: str) -> None:
        """Remember the error of the worker that is about to end itself for want of memory."""
        self._exhausted[name] = reason

    def take_death(self, name: str | None, ray_trial: Trial) -> None:
        """Decide what follows the death of a worker. Its trial waits again, unless it failed.

        Args:
            name: of the trial; None: the worker was warmed up.
            ray_trial: as Ray knows it.
        """
        text = _read_error(ray_trial)
        lost, exhausted = self._lost.pop(name or "", None), self._exhausted.pop(name, None)
        killed = self.memory.has_killed()
        if exhausted is None and (killed or any(words in text for words in MONITOR_WORDS)):
            exhausted = "killed by the system" if killed else "killed by Ray's memory monitor"
        if exhausted is not None:
            self._take_shortage(name, exhausted)
        elif name is not None and not _was_preempted(ray_trial):
            self._deaths[name] += 1
            if self._deaths[name] > self._max_failures:
                self.coordinator.fail_trial(name, _describe_death(self._deaths[name], text, lost))
        if name is not None:
            self.coordinator.requeue_trial(name)

    def stop_search(self) -> None:
        """Stop the search, to be resumed: there has been no memory for a worker for long."""
        self.coordinator.halt_search(
            f"for {PATIENCE_SECONDS / 60:.0f} minutes there was too little memory to start a worker "
            f"({self.memory.describe_shortage()}; Ray kills workers where more than {usage_threshold():.0%} "
            "are used)"
        )

    def _take_shortage(self, name: str | None, reason: str) -> None:
        """Wait for memory, and run one trial fewer at once; fail a trial that dies with nothing beside it."""
        who = "a worker" if name is None else f"the worker of {name}"
        free = self.memory.describe_shortage()
        self.memory.begin_waiting()
        if self.slots > 1:
            self.slots -= 1
            at_once = "one trial at a time" if self.slots == 1 else f"{self.slots} trials at once"
            self._show(f"memory was exhausted: {who} ended ({reason}). {free}; from here on {at_once}")
            return
        if name is None or name != self._alone:  # others had begun before it, and may have ended just now
            self._show(f"memory was exhausted: {who} ended ({reason}). {free}")
            return
        self._starved[name] += 1
        if self._starved[name] <= self._max_failures:
            self._show(f"memory was exhausted: {who} ended ({reason}). {free}; it is tried again")
            return
        self.coordinator.fail_trial(
            name,
            f"memory was exhausted {self._starved[name]} times with no other trial beside it ({reason}; "
            f"{free}). Free memory, and --resume runs this trial again; or start another search with a "
            "smaller train.batch_size or data.image_size",
            exhausted=0.0,
        )

    def _show(self, text: str) -> None:
        if self._warn is not None:
            self._warn(text)


def _read_error(trial: Trial) -> str:
    """What Ray wrote of a trial's last failure."""
    try:
        text = Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition("Failure #")[2]


def _was_preempted(trial: Trial) -> bool:
    """Whether the worker's node was taken away in order, which is nobody's failure."""
    try:
        return bool(getattr(trial.get_pickled_error(), "preempted", False))
    except Exception:  # Ray's own file is gone or damaged: nobody knows
        return False


def _describe_death(times: int, text: str, lost: str | None) -> str:
    """What is known of a worker's death, in one line.

    Args:
        times: how many of the trial's workers have died.
        text: Ray's, of the last one.
        lost: why it could not use its GPU any more; None: as far as anybody knows, it could.
    """
    died = f"its worker process died ({times} time{'s' * (times > 1)})"
    if lost is not None:
        return f"{died}: the GPU could not be used any more ({lost})"
    detail = text.partition("Worker exit detail:")[2] or text.partition("\n")[2]
    known = " ".join(detail.split())[:300]
    return f"{died}: {known or 'Ray does not know why'}"
