"""The display of a search, on made-up events and a made-up clock."""

from __future__ import annotations

import io
import itertools
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from rich.console import Console

from helpers.journals import make_event
from tune_swa.config import Experiment
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.monitoring.progress import Progress
from tune_swa.monitoring.progress_lines import look_line

EPOCHS = 10
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def experiment(**changes: Any) -> Experiment:
    """Two baselines and six SWA trials of ten epochs."""
    return Experiment.model_validate(
        {
            "name": "made-up",
            "train": {"epochs": EPOCHS},
            "space": {"lr": {"choice": [1e-3, 1e-2]}, "swa_start": {"int": [2, 6]}, "swa_lr": 1e-3},
            "search": {"sampler": "random", "trials": 6},
            **changes,
        }
    )


class Search:
    """A search whose events are told by the test, one after the other."""

    def __init__(
        self,
        *,
        terminal: bool = False,
        width: int = 100,
        height: int = 40,
        encoding: str = "utf-8",
        slots: int = 2,
        quiet: bool = False,
        state: ExperimentState | None = None,
        spec: Experiment | None = None,
    ) -> None:
        self.now = 1000.0
        self.bytes = io.BytesIO()
        self.console = Console(
            file=io.TextIOWrapper(self.bytes, encoding=encoding, write_through=True),
            force_terminal=terminal,
            width=width,
            height=height,
            color_system="truecolor" if terminal else None,
            legacy_windows=False,
            _environ={},
        )
        self.encoding = encoding
        self.state = state or ExperimentState()
        self.progress = Progress(
            self.console, spec or experiment(), self.state, slots=slots, quiet=quiet, clock=lambda: self.now
        )

    @property
    def output(self) -> str:
        return self.bytes.getvalue().decode(self.encoding)

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    def drawn(self, seconds: float = 1.0) -> str:
        """What the next drawing of the live region shows, without colours and cursor movements."""
        before = len(self.output)
        self.wait(seconds)
        return ESCAPE.sub("", self.output[before:]).replace("\r", "").strip("\n")

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.progress.tick()

    def tell(self, event: str, **fields: Any) -> None:
        entry = make_event(event, **{"time": 0.0, **fields})
        self.state.apply(entry)
        self.progress(entry, self.state)

    def suggest(self, name: str, stage: str = "search", **params: Any) -> None:
        swa = name.startswith("swa")
        params = {"lr": 1e-3, **({"swa_start": 4, "swa_lr": 1e-3} if swa else {}), **params}
        self.tell(
            "suggested",
            trial=name,
            kind="swa" if swa else "baseline",
            stage=stage,
            params=params,
            seed=0,
            source="made up",
            index=0,
            trunk="t",
            first_average=params["swa_start"] + 1 if swa else None,
        )

    def start(self, name: str, attempt: int = 1, from_epoch: int = 0, damaged: tuple[str, ...] = ()) -> None:
        self.tell(
            "started",
            trial=name,
            device="cpu",
            node="here",
            attempt=attempt,
            from_epoch=from_epoch,
            damaged=list(damaged),
        )

    def epochs(self, name: str, number: int, accuracy: float = 0.5, seconds: float = 0.0) -> None:
        trial = self.state.trials[name]
        for epoch in range(trial.next_epoch, trial.next_epoch + number):
            self.now += seconds
            first = trial.fork_epoch
            self.tell(
                "epoch",
                trial=name,
                record={
                    "epoch": epoch,
                    "accuracy": accuracy,
                    "nll": 1 - accuracy,
                    "n_averaged": 0 if first is None else max(0, epoch - first + 1),
                    "images_per_second": 1234.5,
                },
                decision="continue",
                rung=None,
                checkpoint=None,
            )

    def end(self, name: str, status: str, error: str | None = None) -> None:
        self.tell("ended", trial=name, status=status, value=None, error=error)

    def prune(self, name: str, accuracy: float) -> None:
        """End it at a rung."""
        self.epochs(name, 1, accuracy)
        trial = self.state.trials[name]
        trial.rungs[trial.next_epoch - 1] = "stop"
        self.end(name, "pruned")

    def run(self, name: str, accuracy: float, **params: Any) -> None:
        """A whole trial."""
        self.suggest(name, **params)
        self.start(name)
        self.epochs(name, EPOCHS, accuracy)
        self.end(name, "completed")


# ------------------------------------------------------------------------------------ plain lines


def test_a_log_file_gets_a_line_per_trial_and_no_control_characters() -> None:
    search = Search()
    with search.progress:
        search.run("baseline-0000", 0.8)
        search.run("swa-0000", 0.8123)
        search.run("swa-0001", 0.79, lr=1e-2)
        search.run("swa-0002", 0.8)
    assert not CONTROL.search(search.output)
    first, *ended, last = search.lines
    assert first == "made-up: 2 baseline and 6 SWA trials of 10 epochs, 2 at once"
    assert [line.split() for line in ended] == [
        line.split()
        for line in (
            "[1/8] baseline-0000 80.00 % first baseline baseline lr=1e-3",
            "[2/8] swa-0000 81.23 % +1.23 points vs baseline SWA_4_1e-3 lr=1e-3",
            "[3/8] swa-0001 79.00 % -1.00 points vs baseline SWA_4_1e-3 lr=0.01",
            "[4/8] swa-0002 80.00 % 0.00 points vs baseline SWA_4_1e-3 lr=1e-3",
        )
    ]
    assert last == (
        "made-up: baseline 1/2 and SWA 3/6 trials done; best SWA 81.23 % (swa-0000); best baseline 80.00 % "
        "(baseline-0000); +1.23 points for SWA; 40 epochs done, at most 40 left, elapsed 0s, about 0s left"
    )


def test_a_trial_is_compared_with_the_baselines_that_had_completed() -> None:
    search = Search()
    search.run("swa-0000", 0.8)
    assert "80.00 %  no baseline yet" in search.lines[-1]
    search.run("baseline-0000", 0.7)
    search.run("baseline-0001", 0.75)
    assert "75.00 %  +5.00 points vs baseline" in search.lines[-1]
    search.run("swa-0001", 0.8)
    assert "80.00 %  +5.00 points vs baseline" in search.lines[-1]


def test_a_pruned_trial_says_where() -> None:
    search = Search()
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.epochs("swa-0000", 2)
    search.prune("swa-0000", 0.4)
    assert "swa-0000        40.00 %  pruned at 3/10, rung 2    SWA_4_1e-3 lr=1e-3" in search.lines[-1]


def test_a_failed_trial_says_why_on_one_line() -> None:
    search = Search()
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.end("swa-0000", "failed", "RuntimeError: \x1b[31mno\n  memory\x1b[0m " + "x" * 500)
    (line,) = search.lines
    assert "failed at 0/10" in line
    assert "SWA_4_1e-3 lr=1e-3: RuntimeError: [31mno memory[0m xxx" in line
    assert line.endswith("x...")
    assert len(line) < 250


def test_an_interrupted_trial_is_not_a_failure() -> None:
    search = Search()
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.epochs("swa-0000", 1)
    search.end("swa-0000", "interrupted")
    assert search.lines == []
    with search.progress:
        pass
    assert "baseline 0/2 and SWA 0/6 trials done;" in search.lines[-1]
    assert "1 epoch done, at most 79 left" in search.lines[-1]


def test_a_worker_that_takes_over_is_mentioned_and_takes_no_second_slot() -> None:
    search = Search()
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.epochs("swa-0000", 3)
    search.start("swa-0000", attempt=2, from_epoch=2)
    assert search.lines == ["swa-0000: its worker died; another one goes on after 2/10 epochs"]
    search.wait(60)
    assert "1 of 2 slots busy" in search.lines[-1]
    assert "3 epochs done" in search.lines[-1]


def test_a_damaged_checkpoint_is_mentioned() -> None:
    search = Search()
    for name in ("swa-0000", "swa-0001"):
        search.suggest(name)
    search.start("swa-0000", from_epoch=4, damaged=("epoch-00005.pt: cannot be read (torn)",))
    search.start("swa-0001", damaged=("epoch-00001.pt: x", "epoch-00000.pt: y"))
    assert search.lines == [
        "swa-0000: epoch-00005.pt: cannot be read (torn): it goes on after 4/10 epochs",
        "swa-0001: epoch-00001.pt: x; epoch-00000.pt: y: it begins anew",
    ]


def test_a_status_line_every_minute() -> None:
    search = Search()
    with search.progress:
        search.suggest("swa-0000")
        search.start("swa-0000")
        for _ in range(300):
            search.wait(0.5)
        assert [line for line in search.lines[1:] if "1 of 2 slots busy" in line] == search.lines[1:]
        assert len(search.lines[1:]) == 2


def test_waiting_is_said_at_once_and_then_now_and_then() -> None:
    search = Search()
    search.progress.show_waiting("starting Ray")
    assert search.lines == ["starting Ray"]
    for image in range(1, 51):
        search.now += 1
        search.progress.show_waiting(f"decoding images {image}/60")
    assert search.lines == ["starting Ray", *(f"decoding images {n}/60" for n in (10, 20, 30, 40, 50))]
    for _ in range(5):
        search.wait(10)
    assert len(search.lines) == 7
    assert search.lines[-1].endswith("; waiting: decoding images 50/60")  # the status line of the minute


def test_waiting_ends_with_the_next_epoch() -> None:
    search = Search()
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.progress.show_waiting("a place")
    search.epochs("swa-0000", 1)
    search.wait(60)
    assert "waiting" not in search.lines[-1]


def test_long_lines_are_not_folded() -> None:
    search = Search(width=40)
    with search.progress:
        search.run("swa-0000", 0.8)
    assert len(search.lines) == 3


def test_quiet_shows_nothing() -> None:
    for terminal in (True, False):
        search = Search(quiet=True, terminal=terminal)
        with search.progress:
            search.progress.show_waiting("starting Ray")
            search.run("swa-0000", 0.8)
            search.wait(100)
        assert search.output == ""


# ----------------------------------------------------------------------------------- live region


@pytest.fixture
def busy() -> Search:
    """A search with two baselines and a pruned trial behind it and two SWA trials running."""
    return make_busy(width=80)


def make_busy(**options: Any) -> Search:
    search = Search(terminal=True, **options)
    search.progress.__enter__()
    search.run("baseline-0000", 0.8)
    search.run("baseline-0001", 0.82, lr=1e-2)
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.prune("swa-0000", 0.1)
    for name, epochs, accuracy in (("swa-0001", 8, 0.85), ("swa-0002", 3, 0.6)):
        search.suggest(name)
        search.start(name)
        search.epochs(name, epochs, accuracy, seconds=2.0)
    return search


def test_the_live_region_at_80_columns(busy: Search) -> None:
    assert [line.rstrip() for line in busy.drawn().splitlines()] == [
        "made-up · baseline 2/2 · SWA 1/6 · 1 pruned · 2 of 2 slots busy",
        "trial     configuration       phase         epochs                acc %    img/s",
        "swa-0001  SWA_4_1e-3 lr=1e-3  averaging 3   ━━━━━━━━━━━───  8/10  85.00    1,234",
        "swa-0002  SWA_4_1e-3 lr=1e-3  trunk         ━━━━──────────  3/10  60.00    1,234",
        "best SWA        85.00 %  +3.00 points  after 8/10 epochs  swa-0001  SWA_4_1e-3 …",
        "best baseline   82.00 %  baseline-0001  baseline lr=0.01",
        "32 epochs done · at most 39 left · elapsed 23s · about 10s left",
    ]


@pytest.mark.parametrize("width", [40, 54, 60, 70, 80, 100, 200])
def test_every_line_fits_the_terminal(width: int) -> None:
    search = make_busy(width=width)
    search.progress.show_waiting("a very long reason to wait " * 10)
    lines = search.drawn().splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("swa-0001") for line in lines)


def test_the_bar_leaves_before_the_numbers_do() -> None:
    row = next(line for line in make_busy(width=50).drawn().splitlines() if line.startswith("swa-0001"))
    assert "━" not in row
    assert "8/10  85.00" in row


def test_a_completed_trial_leads_even_if_a_running_one_is_better(busy: Search) -> None:
    busy.run("swa-0003", 0.83)
    best = next(line for line in busy.drawn().splitlines() if line.startswith("best SWA"))
    assert best.split()[2:7] == ["83.00", "%", "+1.00", "points", "swa-0003"]


def test_nothing_is_best_at_first() -> None:
    search = Search(terminal=True)
    with search.progress:
        search.progress.show_waiting("starting Ray")
        drawn = search.drawn()
    assert [line.split() for line in drawn.splitlines()[1:]] == [
        ["best", "SWA", "none", "yet"],
        ["best", "baseline", "none", "yet"],
        ["0", "epochs", "done", "·", "at", "most", "80", "left", "·", "elapsed", "1s"],
        ["waiting:", "starting", "Ray"],
    ]


def test_more_trials_than_lines() -> None:
    search = Search(terminal=True, height=15, slots=30, width=80)
    search.progress.__enter__()
    for index in range(30):
        search.suggest(f"swa-{index:04d}")
        search.start(f"swa-{index:04d}")
    lines = search.drawn().splitlines()
    assert len(lines) < 15
    shown = sum(line.startswith("swa-") for line in lines)
    assert shown > 3
    assert f"and {30 - shown} more" in [line.strip() for line in lines]


def test_output_without_unicode_is_ascii() -> None:
    search = make_busy(width=60, encoding="ascii")
    search.progress.show_waiting("für Elise")
    drawn = search.drawn()
    assert "###" in drawn
    assert "made-up | baseline 2/2" in drawn
    assert r"waiting: f\xfcr Elise" in drawn


def test_names_are_not_markup() -> None:
    search = Search(terminal=True, width=120)
    with search.progress:
        search.suggest("swa-0000", **{"train.optimizer": "[bold]adam[/bold]"})
        search.start("swa-0000")
        assert "optimizer=[bold]adam[/bold]" in search.drawn()
        search.progress.show_waiting("[red]x[/nonsense]")
        assert "waiting: [red]x[/nonsense]" in search.drawn()
        search.end("swa-0000", "failed", "[/red] is no tag")
    assert ": [/red] is no tag" in ESCAPE.sub("", search.output)


def test_drawing_follows_the_clock_and_not_the_events(busy: Search) -> None:
    busy.drawn()
    busy.epochs("swa-0002", 1, 0.5)
    assert busy.drawn(0.05) == ""
    assert "4/10" in busy.drawn(0.2)
    assert busy.drawn(0.5) == ""  # nothing happened
    assert "elapsed" in busy.drawn(0.6)


def test_a_slow_terminal_is_drawn_less_often(busy: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    busy.drawn()
    write = busy.console.file.write

    def slow(text: str) -> int:
        busy.now += 0.5
        return write(text)

    monkeypatch.setattr(busy.console.file, "write", slow)
    busy.epochs("swa-0002", 1)
    assert "4/10" in busy.drawn()
    busy.epochs("swa-0002", 1)
    assert busy.drawn(9) == ""
    assert "5/10" in busy.drawn(2)


def test_the_cursor_comes_back_and_the_region_goes(busy: Search) -> None:
    busy.drawn()
    before = len(busy.output)
    busy.progress.__exit__(None, None, None)
    end = busy.output[before:]
    assert "\x1b[?25h" in end
    erased, left = end.rsplit("\x1b[2K", 1)
    assert "best baseline " in erased
    assert len(left.strip().splitlines()) == 1  # the last status


def test_a_terminal_that_is_dumb_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, _environ={"TERM": "dumb"})
    with Progress(console, experiment(), ExperimentState(), slots=1, clock=lambda: 0.0):
        pass
    assert not CONTROL.search(stream.getvalue())
    assert "one at a time" in stream.getvalue()


class Gone(io.StringIO):
    """A terminal that was closed."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error
        self.attempts = 0

    def write(self, text: str) -> NoReturn:
        self.attempts += 1
        raise self.error


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_goes_away_does_not_end_the_search(terminal: bool) -> None:
    stream, stdout = Gone(OSError(5, "Input/output error")), sys.stdout
    search = Search(terminal=terminal)
    with search.progress:
        search.run("swa-0000", 0.8)
        search.console.file = stream
        search.run("swa-0001", 0.8)
        attempts = stream.attempts
        search.wait(100)
        assert stream.attempts == attempts > 0
    assert sys.stdout is stdout
    assert search.progress._counts.epochs_done == 2 * EPOCHS


# ---------------------------------------------------------------------------------- the counting


def test_a_resumed_search_counts_what_was_done_before() -> None:
    earlier = Search()
    earlier.run("baseline-0000", 0.8)
    earlier.run("swa-0000", 0.85)
    earlier.suggest("swa-0001")
    earlier.start("swa-0001")
    earlier.epochs("swa-0001", 4)
    earlier.suggest("swa-0002")
    earlier.start("swa-0002")
    earlier.end("swa-0002", "failed", "why")
    state = earlier.state
    state.apply(make_event("session", time=0.0, number=2))

    resumed = Search(state=state)
    with resumed.progress:
        assert resumed.lines == [
            "made-up: 2 baseline and 6 SWA trials of 10 epochs, 2 at once; resumed after 3 trials, 24 epochs"
        ]
        resumed.start("swa-0001", attempt=2, from_epoch=4)
        resumed.epochs("swa-0001", 6, 0.9)
        resumed.end("swa-0001", "completed")
    assert resumed.lines[1].startswith("[4/8] swa-0001        90.00 %  +10.00 points vs baseline")
    assert "baseline 1/2 and SWA 3/6 trials done (1 failed)" in resumed.lines[2]
    assert "30 epochs done, at most 40 left" in resumed.lines[2]


def test_runs_on_fresh_seeds_are_not_trials_of_the_search() -> None:
    search = Search()
    search.suggest("swa-0000-seed-1", stage="confirm")
    search.start("swa-0000-seed-1")
    search.epochs("swa-0000-seed-1", EPOCHS)
    search.end("swa-0000-seed-1", "completed")
    assert search.lines == []
    search.wait(60)
    assert "SWA 0/6" in search.lines[-1]
    assert "0 epochs done" in search.lines[-1]


def test_fewer_planned_than_there_are() -> None:
    earlier = Search()
    for index in range(4):
        earlier.run(f"swa-{index:04d}", 0.8)
    resumed = Search(state=earlier.state, spec=experiment(search={"sampler": "random", "trials": 3}))
    resumed.wait(60)
    assert "SWA 4/4" in resumed.lines[-1]


class NoScan(dict[str, TrialState]):
    """Trials that can be looked up but not gone through."""

    def _refuse(self, *arguments: Any) -> NoReturn:
        raise AssertionError("all trials were looked at")

    __iter__ = items = keys = values = __len__ = _refuse


def test_no_event_and_no_tick_looks_at_all_trials() -> None:
    for terminal in (True, False):
        search = Search(terminal=terminal)
        with search.progress:
            search.run("baseline-0000", 0.8)
            search.state.trials = NoScan(search.state.trials)
            search.run("swa-0000", 0.9)
            search.suggest("swa-0001")
            search.start("swa-0001")
            search.epochs("swa-0001", 3)
            search.progress.show_waiting("something")
            for _ in range(200):
                search.wait(1)


# ----------------------------------------------------------------------------------- time left


def seconds_left(search: Search) -> float:
    left = search.progress._counts.seconds_left(search.now)
    assert left is not None
    return left


def steady(search: Search, name: str, seconds: float, epochs: int = EPOCHS) -> Iterator[None]:
    """Train one trial at a steady pace, alone; ticks in between."""
    search.suggest(name)
    search.start(name)
    for _ in range(epochs):
        search.now += seconds / 2
        yield
        search.epochs(name, 1, seconds=seconds / 2)
        yield
    search.end(name, "completed")


def test_the_time_left_is_unknown_at_first() -> None:
    search = Search(slots=1)
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.epochs("swa-0000", 2, seconds=1.0)
    assert search.progress._counts.seconds_left(search.now) is None
    search.epochs("swa-0000", 1, seconds=1.0)
    assert seconds_left(search) == pytest.approx(77)


def test_the_time_left_falls_steadily_to_zero() -> None:
    search = Search(slots=1)
    names = ["baseline-0000", "baseline-0001", *(f"swa-{i:04d}" for i in range(6))]
    seen = []
    for name in names:
        for _ in steady(search, name, 4.0):
            if search.progress._counts.epochs_done >= 3:
                seen.append(seconds_left(search))
    assert seen[0] == pytest.approx(4 * 77)
    assert all(later < earlier for earlier, later in itertools.pairwise(seen))
    assert seen[-1] == pytest.approx(0)


def test_pruned_trials_shorten_the_estimate_but_not_the_bound() -> None:
    search = Search(slots=1)
    for index in range(2):
        for _ in steady(search, f"baseline-{index:04d}", 1.0):
            pass
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.epochs("swa-0000", 1, seconds=1.0)
    search.prune("swa-0000", 0.1)
    counts = search.progress._counts
    assert counts.epochs_left == 5 * EPOCHS
    assert seconds_left(search) == pytest.approx(5 * 2 * 1.0, rel=0.1)  # five more of two epochs each


def test_the_last_trial_takes_as_long_as_it_takes_however_many_slots_are_free() -> None:
    search = Search(slots=8, spec=experiment(search={"sampler": "random", "trials": 1}))
    for index in range(2):
        for _ in steady(search, f"baseline-{index:04d}", 2.0):
            pass
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.epochs("swa-0000", 4, seconds=2.0)
    assert seconds_left(search) == pytest.approx(6 * 2.0)


def test_time_between_trials_counts() -> None:
    search = Search(slots=1)
    for index in range(2):
        search.now += 30  # a slow proposal, a slow start
        for _ in steady(search, f"baseline-{index:04d}", 1.0):
            pass
    # 20 epochs took 20 s and one pause: the first start has no trial before it
    assert seconds_left(search) == pytest.approx(60 * (20 + 30) / 20)


def test_a_stall_does_not_promise_an_end() -> None:
    search = Search(slots=1)
    search.suggest("swa-0000")
    search.start("swa-0000")
    search.epochs("swa-0000", 5, seconds=1.0)
    search.now += 1000
    assert seconds_left(search) >= 74


@pytest.mark.parametrize(("seeds", "shown"), [(1, "after 1 fresh seed the"), (5, "after 5 fresh seeds the")])
def test_a_look_counts_its_seeds(seeds: int, shown: str) -> None:
    event, look = SimpleNamespace(stop="seeds"), SimpleNamespace(seeds=range(seeds), looks=(seeds,))
    assert look_line(event, look).startswith(shown)  # type: ignore[arg-type]
