"""A search that is killed at any moment and resumed ends as if it had never been killed.

A small serial search of real trials (TPE, ASHA), whose driver is killed with -9 or stopped by a
signal, and gone on with. Every metric and every status has to be the same, bit for bit.
"""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import pytest

import tune_swa
from helpers.programs import RUN_SEARCH
from helpers.serial_search import (
    REUSING,
    SHARING,
    SPACE,
    assert_same,
    crash,
    go_on,
    journal_of,
    never_interrupted,
    new_search,
    signalled,
    stop,
)
from tune_swa.experiment.state import ExperimentState

# the lines of the journal number about 85, the epochs 35
MOMENTS = [
    "import:1", "import:8", "data:1", "ray:1", "ray:2", "space:1",
    "line-before:1", "line-half:1", "line-after:1", "line-half:2", "line-after:2",
    "suggest:1", "suggest:4", "suggest:12",
    "line-before:9", "line-half:20", "line-after:31", "line-half:44", "line-before:58", "line-after:70",
    "training:1", "training:7", "training:13", "training:22",
    "checkpoint:1", "checkpoint:5", "checkpoint:14", "checkpoint:23",
    "tidy:1", "tidy:3", "tidy:6",
    "parquet:1", "parquet:5", "rename:2", "rename:4", "model:1",
]  # fmt: skip


PRUNING = SPACE.replace("seed: 3", "seed: 4")
"""One of its four trials is stopped early."""


def test_one_search_killed_and_stopped_again_and_again(tmp_path: Path, decoded: None) -> None:
    """Five ends of its driver in one search: in a checkpoint, a line, by both signals, in the export."""
    trials = 4
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight = never_interrupted(tmp_path / "straight", trials, PRUNING)
    results = new_search(tmp_path / "killed", PRUNING)
    crash("checkpoint:3", results, trials)
    told = stop(signal.SIGINT, results, trials, epochs=3)
    assert told[-2:-1] == ["Interrupted. Continue with:"]
    assert told[-1].endswith(f"--results-dir {results} --no-confirm --resume")
    assert told[-1].startswith(f"{shlex.join([sys.executable, str(RUN_SEARCH)])} --space ")
    crash("line-half:6", results, trials)
    told = stop(signal.SIGTERM, results, trials, epochs=2, group=True)
    assert told[-2:-1] == ["Interrupted. Continue with:"]
    assert told[-1].count("--resume") == 1
    crash("model:1", results, trials)
    go_on(results, trials)
    assert_same(results, straight)
    state = ExperimentState.read(results / "crash" / "journal.jsonl")
    assert state.sessions == 6
    assert {t.status for t in state.trials.values()} == {"completed", "pruned"}


@pytest.fixture(scope="module")
def sharing(module_path: Path, decoded: None) -> Path:
    """Results of the search whose trials share two trunks."""
    results: Path = never_interrupted(module_path, 3, SHARING)
    return results


@pytest.mark.slow  # test_crashed_averages.py has one that is quick
@pytest.mark.parametrize("moment", [f"trunk:{n}" for n in (1, 2, 4, 5)])
def test_killed_while_a_trunk_is_published(moment: str, tmp_path: Path, sharing: Path) -> None:
    results = new_search(tmp_path, SHARING)
    crash(moment, results, 3)
    go_on(results, 3)
    assert_same(results, sharing)
    state = ExperimentState.read(results / "crash" / "journal.jsonl")
    judged = [t for t in state.of_kind("swa") if t.rungs]
    assert len(judged) == 3
    assert all(t.records[0]["shared_from"] is not None for t in judged)


@pytest.fixture(scope="module")
def reusing(module_path: Path, decoded: None) -> Path:
    """Results of the search whose suggestions go along known trunks."""
    (module_path / "reusing").mkdir()
    results: Path = never_interrupted(module_path / "reusing", 12, REUSING)
    state = ExperimentState.read(results / "crash" / "journal.jsonl")
    assert sum("reused" in trial.source for trial in state.trials.values()) > 4
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    ["suggest:4", "suggest:11", "line-half:16", "line-after:28", "line-before:41", "training:9",
     "checkpoint:8", "trunk:4"],
)  # fmt: skip
def test_killed_where_trunks_are_reused(moment: str, tmp_path: Path, reusing: Path) -> None:
    results = new_search(tmp_path, REUSING)
    crash(moment, results, 12)
    go_on(results, 12)
    assert_same(results, reusing)
    journals = [ExperimentState.read(folder / "crash" / "journal.jsonl") for folder in (results, reusing)]
    told = [[(t.name, t.source, t.params) for t in state.trials.values()] for state in journals]
    assert told[0] == told[1]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_once(moment: str, tmp_path: Path, long: Path) -> None:
    results = new_search(tmp_path)
    crash(moment, results, 12)
    go_on(results, 12)
    assert_same(results, long)


@pytest.mark.parametrize(
    "moment",
    ["ray:2", *(pytest.param(m, marks=pytest.mark.slow) for m in ("import:2", "data:1", "ray:1"))],
)
def test_stopped_before_anything_has_begun(moment: str, tmp_path: Path) -> None:
    """While Ray starts, too: it puts handlers of its own in place of ours."""
    results = new_search(tmp_path)
    told = signalled(signal.SIGTERM, moment, results, 4)
    assert told[-2:-1] == ["Interrupted. Nothing had begun. Start again with:"]
    assert told[-1].startswith(f"{shlex.quote(sys.executable)} -m tune_swa search --space ")
    assert not journal_of(results).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", ["suggest:2", "line-after:20", "parquet:5", "rename:4", "model:1"])
def test_stopped_at_a_moment(number: int, moment: str, tmp_path: Path, short: Path) -> None:
    """Outside of training: in the sampler, the journal, the export."""
    results = new_search(tmp_path)
    told = signalled(number, moment, results, 4)
    assert told[-2:-1] == ["Interrupted. Continue with:"]
    go_on(results, 4)
    assert_same(results, short)


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("epochs", [1, 12, 30])
def test_stopped_once(number: int, group: bool, epochs: int, tmp_path: Path, long: Path) -> None:
    results = new_search(tmp_path)
    told = stop(number, results, 12, epochs=epochs, group=group)
    assert told[-2:-1] == ["Interrupted. Continue with:"]
    assert told[-1].endswith("--resume")
    assert "running" not in set(tune_swa.load_results(results / "crash").trials.status)
    go_on(results, 12)
    assert_same(results, long)
