"""Wrong requests about averages and what belongs to them: exit code 2, one message, nothing written.

Each row has what the message says to do, done: it is a right request.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from helpers.called_search import call_search
from helpers.journals import first_events
from tune_swa import signals
from tune_swa.config.yaml_file import load_experiment

GOOD = """\
name: wrong
data: {dataset: digits, image_size: 8, train_images: 50}
train: {epochs: 20, optimizer: sgd}
averages: []
space:
  lr: 1e-3
  swa_start: {choice: [5, 10]}
  swa_lr: {log_uniform: [1e-4, 1e-2]}
search: {trials: 4}
baseline: {averages: []}
confirm: {seeds: 5}
averaging: {score: rungs}
"""
SWA = "averages: []\nspace"
PLAIN = "baseline: {averages: []}"
TRAIN = "optimizer: sgd}"
SEEDS = "{seeds: 5}"
TAIL = "{score: rungs}"
RATES = "  swa_start: {choice: [5, 10]}\n  swa_lr: {log_uniform: [1e-4, 1e-2]}"
END = GOOD[GOOD.index("  swa_lr") :]


def listed(averages: str) -> str:
    return f"averages: {averages}\nspace"


def best(averages: str) -> str:
    return f"averages: {averages}\nobjective: {{of: best}}\nspace"


def merged(merges: str) -> str:
    return f"{TAIL}\nmerge: [{merges}]"


def plain(averages: str) -> str:
    return f"baseline: {{averages: {averages}}}"


ROWS: list[tuple[str, str, str, str, str]] = [
    # what is changed, the wrong text, the place that the message names, the remedy, the remedy taken
    # -------------------------------------------------------------------------------- methods
    (SWA, listed("[{method: swq}]"), "f.yaml:4: averages.0", "expected one of 'swa', 'ema'", listed("[{method: swa}]")),
    (SWA, listed("[{method: EMA}]"), "f.yaml:4: averages.0", "not 'EMA'", listed("[{method: ema}]")),
    (SWA, listed("[{horizon: 2}]"), "f.yaml:4: averages.0", "expected 'method' among its settings", listed("[{method: ema, horizon: 2}]")),
    (SWA, listed("[ema]"), "averages.0: 'ema'", "expected settings of its own (KEY: VALUE)", listed("[{method: ema}]")),
    (SWA, listed("ema"), "averages: 'ema'", "expected a list", listed("[{method: ema}]")),
    (SWA, listed("{method: ema}"), "f.yaml:4: averages", "expected a list", listed("[{method: ema}]")),
    (SWA, "average: [{method: ema}]\nspace", "f.yaml:4: average: unknown key", "Did you mean averages?", listed("[{method: ema}]")),
    (SWA, listed("[{method: ema}, {method: ema, horizon: 2}]"), "averages", "ema-2 is listed twice; leave one out", listed("[{method: ema}, {method: ema, horizon: 3}]")),
    (SWA, listed("[{method: swa}, {method: swa}]"), "averages", "swa is listed twice; leave one out", listed("[{method: swa}]")),
    # ------------------------------------------------------------------------------- settings
    (SWA, listed("[{method: ema, horizn: 2}]"), "averages.0.horizn: unknown key", "Did you mean horizon?", listed("[{method: ema, horizon: 2}]")),
    (SWA, listed("[{method: swa, horizon: 2}]"), "averages.0.horizon: unknown key", "Allowed: method", listed("[{method: swa}]")),
    (SWA, listed("[{method: ema, horizon: -1}]"), "averages.0.horizon: -1", "a number greater than 0", listed("[{method: ema, horizon: 0.1}]")),
    (SWA, listed("[{method: ema, horizon: .inf}]"), "averages.0.horizon: inf", "a finite number", listed("[{method: ema, horizon: 1e9}]")),
    (SWA, listed("[{method: ema, horizon: two}]"), "averages.0.horizon: 'two'", "expected a number", listed("[{method: ema, horizon: 2}]")),
    (SWA, listed("[{method: ema, statistics: averaged}]"), "averages.0.statistics: 'averaged'", "'refresh' or 'average'", listed("[{method: ema, statistics: average}]")),
    (SWA, listed("[{method: lawa, last: 1}]"), "averages.0.last: 1", "at least 2", listed("[{method: lawa, last: 2}]")),
    (SWA, listed("[{method: lawa, last: 2.5}]"), "averages.0.last: 2.5", "a whole number", listed("[{method: lawa, last: 3}]")),
    (SWA, listed("[{method: power_ema, length: 2}]"), "averages.0.length: 2", "a number of at most 0.15", listed("[{method: power_ema, length: 0.15}]")),
    (SWA, listed("[{method: swad, ratio: 0}]"), "averages.0.ratio: 0", "a number greater than 0", listed("[{method: swad, ratio: 0.1}]")),
    # ------------------------------------------------------------------- what the space is short of
    (SWA, listed("[{method: lawa, last: 10}]"), "averages.0.last: 10: last needs 10 models", "give last 9 or less", listed("[{method: lawa, last: 9}]")),
    (SWA, listed("[{method: swag}]"), "averages.0: rank is 20 by default and needs 20 models, but with swa_start 10 of 20 epochs 9 are averaged", "give rank 9 or less", listed("[{method: swag, rank: 9}]")),
    (SWA, listed("[{method: swag, rank: 1}]"), "averages.0: rank 1", "give 2 or more, or diagonal: true", listed("[{method: swag, diagonal: true}]")),
    (SWA, listed("[{method: swag, rank: 4, diagonal: true}]"), "averages.0: rank 4", "take one of the two out", listed("[{method: swag, rank: 4}]")),
    # ------------------------------------------------------------------------------- baselines
    (PLAIN, plain("[{method: swa}]"), "f.yaml:10: baseline.averages", "list ema, power_ema, lawa or swad", plain("[{method: lawa}]")),
    (PLAIN, plain("[{method: swag, rank: 3}]"), "baseline.averages", "list ema, power_ema, lawa or swad", plain("[{method: ema}]")),
    (PLAIN, plain("[{method: subspace}]"), "baseline.averages", "list ema, power_ema, lawa or swad", plain("[{method: power_ema}]")),
    (PLAIN, plain("[{method: swa}, {method: ema}]"), "baseline.averages", "list ema, power_ema, lawa or swad", plain("[{method: swad}]")),
    (PLAIN, plain("[{method: lawa, last: 30}]"), "baseline.averages.0.last: 30", "a baseline has 20 (train.epochs); give last 20 or less", plain("[{method: lawa, last: 20}]")),
    (PLAIN, plain("[{method: emma}]"), "baseline.averages.0", "expected one of", plain("[{method: ema}]")),
    (PLAIN, plain("[{method: ema, horizons: 3}]"), "baseline.averages.0.horizons", "Did you mean horizon?", plain("[{method: ema, horizon: 3}]")),
    # ------------------------------------------------------------------- ensembles, objective, tails
    (SEEDS, "{seeds: 5, ensemble: 30}", "confirm.ensemble: 30", "give confirm.seeds 30 or more", "{seeds: 30, ensemble: 30}"),
    (SEEDS, "{seeds: 5, merges: true}", "confirm.merges: True", "list one in merge", "{seeds: 5, merges: true}\nmerge: [{method: soup}]"),
    (SEEDS, "{seeds: 5, merges: soup}", "confirm.merges: 'soup'", "true or false", "{seeds: 5, merges: false}"),
    (SEEDS, "{seeds: 5, ensemble: 1}", "confirm.ensemble: 1", "at least 2", "{seeds: 5, ensemble: 2}"),
    (TAIL, "{score: rungs}\nobjective: {metric: acuracy}", "objective.metric: 'acuracy'", "'accuracy' or 'nll'", "{score: rungs}\nobjective: {metric: accuracy}"),
    (TAIL, "{score: rungs}\nobjective: nll", "f.yaml:13: objective: 'nll'", "settings of its own (KEY: VALUE)", "{score: rungs}\nobjective: {metric: nll}"),
    (TAIL, "{score: rungs}\nobjective: {of: bset}", "objective.of: 'bset'", "'first' or 'best'", "{score: rungs}\nobjective: {of: first}"),
    (TAIL, "{score: rungs}\nobjective: best", "f.yaml:13: objective: 'best'", "settings of its own (KEY: VALUE)", "{score: rungs}\nobjective: {of: first}"),
    (SWA, best("[]"), "f.yaml:5: objective.of: 'best'", "there is none: list two or more under averages", best("[{method: swa}, {method: ema}]")),
    (SWA, best("[{method: swa}, {method: swad}]"), "objective.of: 'best'", "there is swa alone: list two or more", best("[{method: swa}, {method: swad}, {method: lawa}]")),
    (SWA, best("[{method: swag, rank: 4}, {method: ema}, {method: swa}]"), "f.yaml:4: averages.0: swag-4", "list ema-2 before it", best("[{method: ema}, {method: swag, rank: 4}, {method: swa}]")),
    (TAIL, "{score: never}", "averaging.score: 'never'", "'rungs' or 'every'", "{score: every}"),
    (TAIL, "{tail: cylic}", "averaging.tail: 'cylic'", "'constant', 'cyclic' or 'base'", "{tail: cyclic}"),
    (TAIL, "{cycle_epochs: 4}", "averaging.cycle_epochs: 4: has no effect", "give averaging.tail cyclic", "{tail: cyclic, cycle_epochs: 4}"),
    (TAIL, "{tail: cyclic, cycle_epochs: 9}", "swa_start 10 leaves 8 of 20 epochs", "take swa_start up to 9", "{tail: cyclic, cycle_epochs: 8}"),
    ("  swa_lr: {log_uniform: [1e-4, 1e-2]}", "  swa_lr: 1e-3\n  averages: {choice: [1, 2]}", "space.averages: unknown parameter", "Allowed: lr, swa_start", "  swa_lr: 1e-3"),
    # ------------------------------------------------------------------------------------ SWAP
    (TAIL, merged("{method: swap, members: 1}"), "f.yaml:13: merge.0.members: 1", "at least 2", merged("{method: swap, members: 2}")),
    (TAIL, merged("{method: swap, members: 0}"), "merge.0.members: 0", "at least 2", merged("{method: soup}")),
    (TAIL, merged("{method: swap, members: 2.5}"), "merge.0.members: 2.5", "a whole number", merged("{method: swap, members: 3}")),
    (TAIL, merged("{method: swap, member: 4}"), "merge.0.member: unknown key", "Did you mean members?", merged("{method: swap, members: 4}")),
    (TAIL, merged("{method: swap, top: 0}"), "merge.0.top: 0", "greater than 0", merged("{method: swap, top: 1}")),
    (TAIL, merged("{method: swap, rule: greedy}"), "merge.0.rule: unknown key", "Allowed: method, members", merged("{method: swap}")),
    (TAIL, merged("{method: swip}"), "merge.0", "expected one of 'soup', 'swap'", merged("{method: swap}")),
    (TAIL, merged("{method: swap}, {method: swap, members: 2}"), "merge", "swap is listed twice; leave one out", merged("{method: swap}")),
    (TAIL, merged("{method: swap, batch_size: 1}"), "merge.0.batch_size: 1", "at least 2", merged("{method: swap, batch_size: 2}")),
    (TAIL, merged("{method: swap, batch_size: 256}"), "merge.0.batch_size: 256: the batches of the members are larger", "give 64 or less", merged("{method: swap, batch_size: 64}")),
    (RATES, "  swa_start: {choice: [5, 18]}\n  swa_lr: 1e-3\nmerge: [{method: swap}]", "f.yaml:7: space.swa_start: swa_start 18 of 20 epochs leaves none after the fork", "give an swa_start of at most 17", "  swa_start: {choice: [5, 17]}\n  swa_lr: 1e-3\nmerge: [{method: swap}]"),
    (RATES, "  swa_start: 5\n  swa_lr: 1e-3\n  train.weight_decay: {log_uniform: [1e-5, 1e-3]}\nmerge: [{method: swap}]", "space.train.weight_decay: members of swap share a trunk", "give a choice of values or a step", "  swa_start: 5\n  swa_lr: 1e-3\n  train.weight_decay: {choice: [1e-5, 1e-3]}\nmerge: [{method: swap}]"),
    (END, "averaging: {tail: base}\nmerge: [{method: swap, batch_size: 16}]", "merge.0.batch_size: 16: the base schedule goes on", "leave batch_size out", "averaging: {tail: base}\nmerge: [{method: swap}]"),
    # --------------------------------------------------------------- low precision, schedule-free
    (TRAIN, "optimizer: adam, arithmetic: {bits: 8}}", "train.arithmetic", "give train.optimizer=sgd", "optimizer: sgd, arithmetic: {bits: 8}}"),
    (TRAIN, "optimizer: sgd, arithmetic: {bits: 2}}", "train.arithmetic.bits: 2", "at least 3", "optimizer: sgd, arithmetic: {bits: 3}}"),
    (TRAIN, "optimizer: sgd, arithmetic: 8}", "train.arithmetic: 8", "settings of its own (KEY: VALUE)", "optimizer: sgd, arithmetic: {bits: 8}}"),
    (TRAIN, "optimizer: schedulefree}", "train.optimizer: 'schedulefree'", "'schedulefree_sgd' or 'schedulefree_adamw'", "optimizer: schedulefree_sgd}"),
    (TRAIN, "optimizer: schedulefree_sgd, schedule: cosine}", "train.schedule: 'cosine'", "give train.schedule: constant", "optimizer: schedulefree_sgd, schedule: constant}"),
    (TRAIN, "optimizer: schedulefree_sgd, momentum: 0}", "train.momentum: 0", "0.9 is usual", "optimizer: schedulefree_sgd, momentum: 0.9}"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signal handlers stay the tests' own."""
    monkeypatch.setattr(signals, "interrupt_once", lambda: None)


def write_space(folder: Path, old: str, new: str) -> Path:
    """The good space file with one change."""
    assert GOOD.count(old) == 1
    path = folder / "f.yaml"
    path.write_text(GOOD.replace(old, new))
    return path


@pytest.mark.parametrize(("old", "new", "place", "remedy", "right"), ROWS, ids=[row[1][:60] for row in ROWS])
def test_a_wrong_request(
    old: str,
    new: str,
    place: str,
    remedy: str,
    right: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_space(tmp_path, old, new)
    code, out, err = call_search(capfd, "--space", path, "--results-dir", tmp_path / "results")
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    assert place in err
    assert remedy in err
    assert os.listdir(tmp_path) == ["f.yaml"]  # noqa: PTH208
    load_experiment(write_space(tmp_path, old, right))


def begin_search(folder: Path) -> list[Any]:
    """The journal of a search with the good space file; returns how to resume it."""
    path = write_space(folder, SWA, listed("[{method: swa}, {method: ema}]"))
    events = first_events(load_experiment(path))
    journal = folder / "results" / "wrong" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    return ["--space", path, "--results-dir", folder / "results", "--resume"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("averages", "[{method: swa}, {method: ema, horizon: 3}]"),
        ("averages", "[{method: ema}, {method: swa}]"),
        ("averages", "[]"),
        ("baseline.averages", "[{method: ema}]"),
        ("averaging.tail", "cyclic"),
        ("objective.metric", "nll"),
        ("train.arithmetic", "{bits: 8}"),
    ],
)
def test_what_may_not_change_on_a_resume(
    setting: str, value: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = begin_search(tmp_path)
    journal = tmp_path / "results" / "wrong" / "journal.jsonl"
    before = journal.read_bytes()
    code, out, err = call_search(capfd, *request, "--set", f"{setting}={value}")
    assert (code, out) == (2, ""), err
    assert setting.split(".")[0] in err
    assert "was" in err
    assert "another --name" in err
    assert "Traceback" not in err
    assert journal.read_bytes() == before


@pytest.mark.parametrize(("options", "said"), [(["--no-confirm"], True), ([], False)])
def test_merges_without_fresh_seeds_to_test_them(
    options: list[str], said: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_space(tmp_path, SEEDS, "{seeds: 5, merges: true}\nmerge: [{method: soup}]")
    given = ("--space", path, "--results-dir", tmp_path / "my results", "--dry-run", *options)
    code, out, err = call_search(capfd, *given)
    assert code == 0, err
    note = f"`tune-swa confirm '{tmp_path / 'my results' / 'wrong'}'` runs them later"
    assert out.count(note) == said
    plan = " ".join(out.split())
    assert ("the recipe of the best greedy soup on" in plan) != said
