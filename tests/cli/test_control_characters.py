"""Names from outside give the terminal no orders and begin no line: whatever prints them escapes them."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from helpers.journals import usual
from tune_swa.cli import main
from tune_swa.cli.terminal import NamesConsole
from tune_swa.doctor.findings import Finding, print_findings
from tune_swa.monitoring.log_file import log_file

NAME = "a\x1b]0;owned\x9c\x00\u202eb\udcff"
ESCAPED = "a\\x1b]0;owned\\x9c\\x00\\u202eb\\udcff"


def test_the_console_escapes_names_in_all_it_renders() -> None:
    table = Table("name")
    table.add_row(Text(NAME))
    for shown in (NAME, Text(NAME), table, Panel(NAME)):
        file = io.StringIO()
        NamesConsole(file=file, width=100, force_terminal=True, highlight=False).print(shown, markup=False)
        assert "a\\x1b]0;" in file.getvalue()
        assert not set("\x9c\x00\u202e\udcff") & set(file.getvalue())


def test_its_own_codes_stay() -> None:
    file = io.StringIO()
    NamesConsole(file=file, force_terminal=True, color_system="standard").print(Text("a", style="red"))
    assert file.getvalue() == "\x1b[31ma\x1b[0m\n"


SPACE = "name: there\nspace: {lr: 1e-3, swa_start: 0, swa_lr: 1e-3}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "--space", "spoiled.yaml", "--dry-run"],
        ["search", "--space", "space.yaml", "--dry-run", "--set", "train.x\x1b\nerror: lost=1"],
        ["search", "--space", "a\x1b\nerror: lost.yaml"],
        ["search", "--space", "space.yaml", "--cpus", "x\x1b\nerror: lost"],
        ["search", "--space", "space.yaml", "--results-dir", "a\x1b\nerror: lost", "--resume"],
        ["confirm", "a\x1b\nerror: lost"],
        ["report", "a\x1b\nerror: lost"],
        ["compare", "a\x1b\nerror: lost"],
        ["export-model", "a\x1b\nerror: lost"],
    ],
)
def test_an_error_is_one_error_whatever_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    Path("spoiled.yaml").write_text(SPACE + '"x\\e\\nerror: lost": 1\n')
    try:
        code = main(arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    err = capsys.readouterr().err
    assert code == 2
    assert "\x1b" not in err
    assert [line for line in err.splitlines() if line.startswith("error:")] == err.splitlines()[:1]
    assert "lost" in err


def test_a_damaged_journal_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = usual(tmp_path)
    lines = writer.path.read_text().splitlines()
    lines.insert(2, lines[-1].replace("swa-1", "\\u001b\\nerror: lost"))
    writer.path.write_text("\n".join(lines) + "\n")
    assert main(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count("error:") == err.count("\n") + err.count("\\nerror:")


def test_the_doctor_and_the_log_escape_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_findings([Finding("note", "images", NAME, NAME)])
    assert capsys.readouterr().out.count(ESCAPED) == 2
    # pytest would take the message down, and pytest-xdist cannot pass on what is not UTF-8
    monkeypatch.setattr(logging.getLogger("tune_swa"), "propagate", False)
    with log_file(tmp_path) as log:
        log.begin()
        logging.getLogger("tune_swa.somewhere").warning("%s", NAME)
    assert ESCAPED in (tmp_path / "search.log").read_text()
