"""When a silence is spoken of, and what is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from helpers.journals import make_event
from tune_swa.monitoring.watchdog import AGAIN_SECONDS, Watchdog

STATE: Any = SimpleNamespace(trials={f"swa-{i}": SimpleNamespace(next_epoch=3) for i in range(9)})


class Search:
    """A search whose clock and events are ours."""

    def __init__(self) -> None:
        self.now, self.nodes = 0.0, 2
        self.live: list[str] = []
        self.said: list[str] = []
        self.merges: list[str] = []
        self.dog = Watchdog(
            self.said.append,
            lambda: self.live,
            lambda: self.nodes,
            merges=lambda: self.merges,
            least=100,
            clock=lambda: self.now,
        )

    def event(self, kind: str, trial: str) -> None:
        fields = {
            "started": {"device": "cpu", "attempt": 1},
            "epoch": {
                "record": {"epoch": 0, "accuracy": 0.5},
                "decision": "continue",
                "rung": None,
                "checkpoint": None,
            },
            "ended": {"status": "completed", "error": None},
        }
        self.dog(make_event(kind, trial=trial, **fields.get(kind, {})), STATE)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.dog.tick(STATE)


@pytest.fixture
def search() -> Search:
    return Search()


def test_a_running_search_is_left_alone(search: Search) -> None:
    search.live = ["swa-0"]
    search.event("started", "swa-0")
    for _ in range(20):
        search.wait(99)
        search.event("epoch", "swa-0")
    assert search.said == []


def test_a_trial_that_hangs_is_named(search: Search) -> None:
    search.live = ["swa-0"]
    search.event("started", "swa-0")
    search.wait(200)
    assert search.said == [
        "nothing has happened for 3 min: waiting for swa-0 (epoch 3, for 3 min). Ctrl-C stops the search, "
        "and --resume goes on with it"
    ]


def test_long_epochs_are_given_their_time(search: Search) -> None:
    search.live = ["swa-0"]
    search.event("started", "swa-0")
    search.wait(90)
    search.event("epoch", "swa-0")
    search.wait(5 * 90 - 1)
    assert search.said == []
    search.wait(2)
    assert len(search.said) == 1


def test_a_computer_that_has_gone(search: Search) -> None:
    search.live = [f"swa-{i}" for i in range(6)]
    search.nodes = 1
    search.wait(101)
    assert search.said[0].startswith(
        "nothing has happened for 101 s: waiting for a slot to run swa-0, swa-1, swa-2, swa-3 and 2 more; "
        "of 2 nodes Ray has 1 left."
    )


def test_it_repeats_itself_rarely_and_stops_when_something_moves(search: Search) -> None:
    search.live = ["swa-0"]
    search.wait(101)
    search.wait(AGAIN_SECONDS - 1)
    assert len(search.said) == 1
    search.wait(2)
    assert len(search.said) == 2
    search.event("started", "swa-0")
    search.wait(99)
    assert len(search.said) == 2


def test_a_merge_is_waited_for_like_a_trial(search: Search) -> None:
    search.merges = ["greedy soup of 4 trials"]
    search.wait(200)
    assert search.said == [
        "nothing has happened for 3 min: waiting for the greedy soup of 4 trials. Ctrl-C stops the search, "
        "and --resume goes on with it"
    ]
