"""`tune-swa compare`: experiments in every state, and what a shell's `results/*` brings along."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.journals import Writer, confirmed, usual
from tune_swa.cli import main


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """One experiment with fresh seeds, one without, one of baselines only, and one that has just begun."""
    confirmed(tmp_path / "a-confirmed")
    usual(tmp_path / "b-searched")
    Writer(tmp_path / "c-baseline").trial("base-0", {"lr": 1e-3}, [0.5, 0.6, 0.7, 0.8])
    Writer(tmp_path / "d-begun")
    return tmp_path


@pytest.mark.parametrize(
    "names",
    [
        ["a-confirmed", "b-searched"],
        ["b-searched", "a-confirmed"],
        ["a-confirmed", "d-begun"],
        ["c-baseline", "a-confirmed"],
        ["d-begun", "d-begun"],
        ["a-confirmed", "b-searched", "c-baseline", "d-begun"],
    ],
)
def test_experiments_in_different_states(
    names: list[str], folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    assert main(["compare", *(str(folders / name) for name in names)]) == 0
    out = capsys.readouterr().out
    for name in names:
        row = next(line for line in out.splitlines() if f"/{name}" in line)
        assert "nan" not in row.lower()
        assert "None" not in row
        # without fresh seeds: no difference and no verdict
        assert row.split()[-3:] == ["0", "-", "-"] or name == "a-confirmed"
        if name == "d-begun":
            assert row.split()[1:] == ["-", "-", "0", "-", "-"]


def test_what_holds_no_experiment_is_named_and_passed_over(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    (folders / "README.md").write_text("text")
    (folders / "examples").mkdir()
    (folders / "torn").mkdir()
    (folders / "torn" / "journal.jsonl").write_text('{"event":"cre')
    (folders / "new\nerror: line").mkdir()
    given = sorted(str(path) for path in folders.iterdir())
    assert main(["compare", *given]) == 0
    out, err = capsys.readouterr()
    assert all(name in out for name in ("a-confirmed", "b-searched", "c-baseline", "d-begun"))
    assert sorted(err.splitlines()) == [
        f"note: {folders / 'README.md'}: is a file, passed over",
        f"note: {folders / 'examples'}: holds no experiment, passed over",
        f"note: {folders}/new\\nerror: line: holds no experiment, passed over",
        f"note: {folders / 'torn'}: has not started yet, passed over",
    ]


@pytest.mark.parametrize("given", [["README.md"], ["b-searched", "b-serched"], ["b-searched", "b\0"]])
def test_nothing_is_passed_over_where_nothing_remains_or_a_name_is_mistyped(
    given: list[str], folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "README.md").write_text("text")
    assert main(["compare", *(str(folders / name) for name in given)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {folders / given[-1]}: ".replace("\0", "\\x00"))
    assert err.count("\n") == 1
