"""How long the tutorial's whole table takes on one device, from the seconds of its epochs."""

from __future__ import annotations

from dataclasses import dataclass

TUTORIAL_IMAGES = 14_034
"""To train and to validate with."""
TUTORIAL_EPOCHS = 120
TUTORIAL_STARTS = (60, 75, 90, 90, 90, 90, 90)
"""Where its SWA runs begin to average, all on one trunk. The baseline, with a warm-up, has its own."""


@dataclass
class _Trial:
    """What a trial has still to train."""

    trunk: int
    """Epochs before it averages."""
    branch: int
    """Epochs with its average."""
    left: float = 1.0
    """Of the present epoch."""

    def seconds(self, trunk: float, branch: float) -> float:
        """Of its present epoch."""
        return trunk if self.trunk else branch

    def end_epoch(self) -> None:
        self.left = 1.0
        if self.trunk:
            self.trunk -= 1
        else:
            self.branch -= 1


def predict_table(trunk: dict[int, float], branch: dict[int, float], slots: int) -> float:
    """Simulate the search for the tutorial's eight rows on one device, trunks shared.

    Trials wait for the epochs of their trunk and for a free slot; every epoch takes what it takes beside as
    many others as run then.

    Args:
        trunk: seconds of a trunk epoch by the number of trials at once.
        branch: seconds of a branch epoch likewise.
        slots: how many trials may run at once.

    Returns:
        Seconds until the last one has ended.
    """
    # epoch start + 1 is the first one averaged, and still the trunk's
    forks = sorted(start + 2 for start in TUTORIAL_STARTS)
    longest = forks.pop()  # of the run that trains the trunk and goes on as a branch
    producer = _Trial(longest, TUTORIAL_EPOCHS - longest)
    ready = [producer, _Trial(TUTORIAL_EPOCHS, 0)]
    running: list[_Trial] = []
    now = 0.0
    while ready or running or forks:
        while forks and longest - producer.trunk >= forks[0]:
            ready.append(_Trial(0, TUTORIAL_EPOCHS - forks.pop(0)))
        while ready and len(running) < slots:
            running.append(ready.pop(0))
        beside = [interpolate(seconds, len(running)) for seconds in (trunk, branch)]
        step = min(trial.left * trial.seconds(*beside) for trial in running)
        now += step
        for trial in running:
            trial.left -= step / trial.seconds(*beside)
            if trial.left < 1e-9:
                trial.end_epoch()
        running = [trial for trial in running if trial.trunk or trial.branch]
    return now


def interpolate(seconds: dict[int, float], together: int) -> float:
    """Seconds of an epoch beside so many others, in between where they were not measured."""
    below = max((n for n in seconds if n <= together), default=min(seconds))
    above = min((n for n in seconds if n >= together), default=max(seconds))
    if below == above:
        return seconds[below]
    share = (together - below) / (above - below)
    return seconds[below] + share * (seconds[above] - seconds[below])
