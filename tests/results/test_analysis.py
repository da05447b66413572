"""load_results: whatever state the search is in."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from helpers.journals import Writer, confirmed, experiment, usual
from tune_swa.errors import RequestError
from tune_swa.monitoring.result_writer import ResultWriter
from tune_swa.results.api import load_results, side_by_side
from tune_swa.results.export import write_tables
from tune_swa.results.report.page import build_report
from tune_swa.storage import open_store


def test_frames(tmp_path: Path) -> None:
    usual(tmp_path)
    results = load_results(tmp_path)
    assert results.experiment.name == "made-up"
    assert results.folder == tmp_path
    assert (len(results.trials), len(results.epochs), len(results.comparison)) == (4, 16, 4)
    assert results.confirm.empty
    assert results.trials["swa_start"].dtype == "Int64"  # whole numbers in spite of the baselines' nulls
    assert results.trials["accuracy"].dtype == "float64"
    assert results.comparison["best_baseline"].dtype == "boolean"
    assert results.trials.loc[results.trials.swa_start == 1, "trial"].tolist() == ["swa-0"]


def test_leaderboard(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.trial("swa-9", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3}, [0.99], status="pruned")
    board = load_results(str(tmp_path)).leaderboard()
    assert board["trial"].tolist() == ["swa-0", "base-0", "swa-1", "base-1"]
    assert board.index.tolist() == [1, 2, 3, 4]
    assert board.loc[1, "delta_vs_baseline"] == pytest.approx(0.03)
    assert len(load_results(tmp_path).leaderboard(2)) == 2
    with pytest.raises(RequestError, match=r"leaderboard\(0\)"):
        load_results(tmp_path).leaderboard(0)


def test_curve(tmp_path: Path) -> None:
    results = load_results(usual(tmp_path).path)
    curve = results.curve("swa-1")
    assert curve["accuracy"].tolist() == [0.5, 0.6, 0.8, 0.89]
    assert curve.index.tolist() == [0, 1, 2, 3]
    with pytest.raises(RequestError, match=r"no trial 'swa-11'\. Did you mean swa-1"):
        results.curve("swa-11")
    with pytest.raises(RequestError, match="It has base-0, base-1, swa-0, swa-1"):
        results.curve("?")


def test_the_journal_is_believed_rather_than_stale_files(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    write_tables(writer.state(), tmp_path)
    writer.trial("base-2", {"lr": 2e-3}, [0.1])
    assert len(load_results(tmp_path).trials) == 5
    (tmp_path / "trials.parquet").write_bytes(b"half a fi")
    assert len(load_results(tmp_path).trials) == 5


def test_a_running_search(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.suggest("swa-9", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3})
    results = load_results(tmp_path)
    assert results.trials.set_index("trial").loc["swa-9", "status"] == "running"
    assert results.curve("swa-9").empty


def test_a_killed_search(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.trial("swa-9", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3}, [0.5, 0.6], status=None)
    data = writer.path.read_bytes()
    writer.path.write_bytes(data[:-20])  # in the middle of a line
    results = load_results(tmp_path)
    assert results.curve("swa-9")["accuracy"].tolist() == [0.5]
    writer.path.write_bytes(data)
    writer.session(2)
    assert load_results(tmp_path).trials.set_index("trial").loc["swa-9", "status"] == "interrupted"


def test_every_point_at_which_a_search_can_be_killed(tmp_path: Path) -> None:
    lines = usual(tmp_path).path.read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines), 3):
        (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:count]) + lines[count][:7])
        results = load_results(tmp_path)
        assert len(results.epochs) == sum(b'"event":"epoch"' in line for line in lines[:count])


def test_the_gain_is_the_averages_lead_over_its_own_live_model(tmp_path: Path) -> None:
    """One column for each SWA trial, from its first average on."""
    writer = Writer(tmp_path)
    writer.trial("base-0", {"lr": 1e-3}, [0.5, 0.6, 0.7, 0.8])
    for name, start in (("swa-0", 0), ("swa-1", 2)):
        writer.suggest(name, {"lr": 1e-3, "swa_start": start, "swa_lr": 1e-3})
        for epoch in range(4):
            writer.epoch(name, epoch, 0.5 + epoch / 10, averaged=max(0, epoch - start))
        writer.end(name, value=0.8)
    gain = load_results(tmp_path).gain()
    assert gain.columns.tolist() == ["swa-0", "swa-1"]
    assert gain.index.tolist() == [1, 2, 3]
    assert gain["swa-0"].tolist() == pytest.approx([0.01] * 3)
    assert gain["swa-1"].isna().tolist() == [True, True, False]


def test_importance_names_the_setting_that_matters(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for k in range(24):
        params = {"lr": [1e-3, 3e-3][k % 2], "swa_start": k % 3, "swa_lr": 1e-4 * (1 + k)}
        writer.trial(f"swa-{k}", params, [0.5, 0.5, 0.5, 0.6 + 0.2 * (k % 2)])
    shares = load_results(tmp_path).importance()
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    few = Writer(tmp_path / "few")
    few.trial("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}, [0.5] * 4)
    with pytest.raises(RequestError, match=r"few: 1 completed SWA trials are too few for an estimate"):
        load_results(tmp_path / "few").importance()


@pytest.mark.parametrize(
    ("name", "content"),
    [("best_model.pt", b"half a fi"), ("best_model.json", b"{"), ("best_model.json", b'{"num_classes": 7}')],
)
def test_a_damaged_model_is_one_message(tmp_path: Path, name: str, content: bytes) -> None:
    import torch
    import torchvision

    usual(tmp_path)
    model = torchvision.models.resnet18(num_classes=2)
    torch.save(model.state_dict(), tmp_path / "best_model.pt")
    (tmp_path / "best_model.json").write_text('{"num_classes": 2}')
    images = torch.rand(2, 3, 32, 32)
    loaded = load_results(tmp_path).best_model()
    assert torch.equal(loaded(images), model.eval()(images))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=r"is damaged\. Write it again"):
        load_results(tmp_path).best_model()


def test_everything_tells_the_settings_of_the_newest_session(tmp_path: Path) -> None:
    """Those of the first one where a journal is of a version that did not write them."""
    writer = usual(tmp_path)
    writer.session(2)
    assert load_results(tmp_path).experiment == experiment(name="made-up")
    more = experiment(name="made-up", search={"seed": 7, "trials": 80}, confirm={"seeds": 10})
    writer.session(3, more)
    writer.trial("swa-2", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3}, [0.5, 0.5, 0.5, 0.5])
    assert load_results(tmp_path).experiment == more
    write_tables(writer.state(), tmp_path)
    space = json.loads(pq.read_schema(tmp_path / "trials.parquet").metadata[b"tune_swa.space"])
    assert (space["search"]["trials"], space["confirm"]["seeds"]) == (80, 10)
    assert "  trials: 80\n" in build_report(writer.state(), tmp_path)


def test_an_experiment_without_trials(tmp_path: Path) -> None:
    Writer(tmp_path)
    results = load_results(tmp_path)
    assert results.trials.empty
    assert results.leaderboard().empty
    with pytest.raises(RequestError, match="It has none yet"):
        results.curve("swa-0")


def test_without_fresh_seeds_there_is_no_verdict(tmp_path: Path) -> None:
    usual(tmp_path)
    results = load_results(tmp_path)
    assert results.confirm.empty
    assert results.predictions.empty
    assert results.verdict is None
    assert results.compare().empty


def test_a_wrong_path_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"results/NAME"):
        load_results(tmp_path / "nowhere")
    usual(tmp_path / "digits")
    with pytest.raises(RequestError) as caught:
        load_results(tmp_path / "digit")
    assert str(caught.value) == (
        f"{tmp_path}/digit: there is no such folder (looked for {tmp_path}/digit/journal.jsonl). "
        f"Experiments in {tmp_path}: digits"
    )
    with pytest.raises(RequestError, match=f"holds no experiment .*Experiments in {tmp_path}: digits"):
        load_results(tmp_path)


def test_a_journal_without_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b"")
    with pytest.raises(RequestError, match="no experiment yet"):
        load_results(tmp_path)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A confirmed experiment and its copy in a store that is no folder, as a running search makes it."""
    folder = tmp_path / "here"
    folder.mkdir()
    writer = confirmed(folder)
    uri = "memory://results-elsewhere/made-up"
    ResultWriter(folder, open_store(uri)).write_all(writer.state())
    yield folder, uri
    import fsspec

    fsspec.filesystem("memory").rm("/results-elsewhere", recursive=True)


def test_a_uri_is_read_like_a_folder(elsewhere: tuple[Path, str]) -> None:
    folder, uri = elsewhere
    here, there = load_results(folder), load_results(uri)
    assert there.where == uri
    for name in ("trials", "epochs", "comparison", "confirm", "predictions"):
        pd.testing.assert_frame_equal(getattr(here, name), getattr(there, name))
    assert len(there.predictions) > 0
    pd.testing.assert_frame_equal(here.compare(), there.compare())
    assert there.verdict is not None
    compared = side_by_side([folder, uri])
    assert compared["experiment"].tolist() == [str(folder), uri]
    assert compared["delta"].nunique() == 1
    copy = there.folder
    assert copy.is_dir()
    del there
    gc.collect()
    assert not copy.exists()


def test_what_is_not_at_a_uri_is_told(elsewhere: tuple[Path, str]) -> None:
    _, uri = elsewhere
    with pytest.raises(RequestError, match=r"no experiment there .*URI/NAME"):
        load_results(uri.replace("made-up", "another"))
    with pytest.raises(RequestError, match=r"nosuch://x: cannot be read \("):
        load_results("nosuch://x")
    with pytest.raises(RequestError, match="there is no best_model.pt yet"):
        load_results(uri).best_model()
