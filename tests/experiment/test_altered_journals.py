"""Altered journals through everything that reads one: a result, or one sentence that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tune_swa
from helpers.altered_journals import draw_alterations
from helpers.journals import usual
from tune_swa.cli import main
from tune_swa.errors import RequestError

JOURNALS = Path(__file__).parent / "journals"


def look(folder: Path) -> None:
    """All that `load_results` gives."""
    results = tune_swa.load_results(folder)
    results.leaderboard()
    results.compare()
    results.gain()


@pytest.mark.parametrize(("name", "count"), [("looks", 260), ("digits_2026_11", 60)])
def test_an_altered_journal_gives_results_or_one_sentence(
    name: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(JOURNALS / name, tmp_path / name))
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines()
    refused = 0
    for number, alteration in enumerate(draw_alterations(lines, count, seed=1)):
        journal.write_text(alteration.apply_to(lines))
        try:
            look(folder)
        except RequestError as error:
            refused += 1
            assert str(journal) in str(error) or "predictions" in str(error), alteration.where
        except Exception as error:
            pytest.fail(f"{alteration.where}: {type(error).__name__}: {error}")
        if number % 8 == 0:
            for command in (["compare", str(folder), str(folder)], ["report", str(folder)]):
                code = main(command)
                out, err = capsys.readouterr()
                errors = [line for line in err.splitlines() if not line.startswith("note: ")]
                assert len(errors) == (code == 2), alteration.where
                assert all(line.startswith("error: ") for line in errors), alteration.where
                assert "\x1b" not in out + err, alteration.where
                assert "\nerror" not in out + err, alteration.where
    assert count / 10 < refused < count


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"time":', '"time":1e12,"was":'),
        ('"accuracy":', '"accuracy":1e308,"was":'),
        ('"accuracy":', f'"accuracy":{"9" * 400},"was":'),
        ('"train_seconds":', '"train_seconds":1e300,"was":'),
        ('"lr":', r'"lr":1e-3,"a\nerror: b":'),
        ('"device":"cpu"', r'"device":"\ud800"'),
    ],
)
def test_what_was_seen(before: str, after: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = usual(tmp_path).path
    journal.write_text(journal.read_text().replace(before, after))
    for command in (["report", str(tmp_path)], ["compare", str(tmp_path), str(tmp_path)]):
        code = main(command)
        err = capsys.readouterr().err
        if "device" in before:  # a word for people, which is shown as it can be
            assert (code, err) == (0, "")
            continue
        assert code == 2
        assert err.startswith(f"error: {journal}")
        assert err.count("\n") == 1
    assert "device" not in before or tune_swa.load_results(tmp_path).trials["device"][0] == "\\ud800"


@pytest.mark.parametrize("field", ["phase", "live_accuracy", "nll", "ece", "n_averaged", "train_seconds"])
@pytest.mark.parametrize("change", ["dropped", "null"])
def test_epochs_may_lack_what_is_not_compared(
    field: str, change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = usual(tmp_path).path
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for event in lines:
        if event["event"] == "epoch" and (change == "dropped" or field != "phase"):
            event["record"][field] = None
            if change == "dropped":
                del event["record"][field]
    journal.write_text("".join(json.dumps(event) + "\n" for event in lines))
    look(tmp_path)
    for command in (["report", str(tmp_path)], ["compare", str(tmp_path)]):
        assert main(command) == 0, capsys.readouterr().err
