"""A search that a program or a notebook calls: results, errors, interruptions, and what stays as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import tune_swa
from helpers.called_search import call_search
from helpers.narrow_resnet import narrow_environment
from helpers.programs import ROOT
from helpers.serial_search import TIMES, assert_same_tables, count_epochs
from tune_swa.cli.parser import build_parser
from tune_swa.from_python import search_process
from tune_swa.from_python.screen import KEPT_LINES
from tune_swa.from_python.search_process import SearchProcess
from tune_swa.from_python.searches import ARGUMENTS, _collect_options, _fill_defaults, search
from tune_swa.results.api import Results

NOTEBOOK = ROOT / "docs" / "examples" / "search.ipynb"


def read_notebook() -> tuple[Any, dict[str, Any]]:
    """The notebook of the documentation, and what its first cell defines."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    names: dict[str, Any] = {}
    exec(next(cell.source for cell in notebook.cells if cell.id == "space"), names)
    return notebook, names


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """Processes that are started have the narrow network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", narrow_environment()["PYTHONPATH"])
        yield


def describe_process() -> dict[str, Any]:
    """What a call must leave as it was."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGTSTP)
    return {
        "environment": dict(os.environ),
        "handlers": [signal.getsignal(number) for number in numbers],
        "threads": torch.get_num_threads(),
        "folder": Path.cwd(),
        "path": list(sys.path),
    }


@pytest.fixture(scope="module")
def called(module_path: Path, decoded: None, narrow: None) -> tuple[Results, dict[str, Any], dict[str, Any]]:
    """The search of the notebook, called in a thread, with the process before and after."""
    _, names = read_notebook()
    before = describe_process()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(tune_swa.search, names["SPACE"], results_dir=module_path, **names["OPTIONS"])
        return call.result(), before, describe_process()


def test_a_search_in_a_thread_returns_its_results_and_changes_nothing_here(
    called: tuple[Results, dict[str, Any], dict[str, Any]],
) -> None:
    results, before, after = called
    assert after == before
    loaded = tune_swa.load_results(results.folder)
    assert_same_tables({"epochs": results.epochs}, {"epochs": loaded.epochs}, [])
    assert list(results.trials["status"]).count("completed") > 0
    assert results.experiment.search.trials == 6
    assert (results.folder / "best_model.pt").exists()


async def run_cells(client: NotebookClient, cells: dict[str, Any], journal: Path) -> str:
    """Run the notebook, with an interrupt in its search; returns how that cell ended."""
    async with client.async_setup_kernel():
        index = {cell.id: number for number, cell in enumerate(client.nb.cells)}
        await client.async_execute_cell(cells["space"], index["space"])
        search = asyncio.ensure_future(client.async_execute_cell(cells["search"], index["search"]))
        while count_epochs(journal) < 9 and not search.done():
            await asyncio.sleep(0.05)
        begun = time.monotonic()
        await client.km.interrupt_kernel()
        with pytest.raises(CellExecutionError) as error:
            await search
        assert time.monotonic() - begun < search_process.PATIENCE_SECONDS + 2
        for name in ("resume", "leaderboard", "best"):
            await client.async_execute_cell(cells[name], index[name])
    return str(error.value.ename)


def test_a_notebook_is_interrupted_and_goes_on_as_if_it_had_not_been(
    called: tuple[Results, Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    narrow: None,
    decoded: None,
) -> None:
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    notebook, _ = read_notebook()
    cells = {cell.id: cell for cell in notebook.cells}
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    folder = tmp_path / "results" / "notebook"
    assert asyncio.run(run_cells(client, cells, folder / "journal.jsonl")) == "KeyboardInterrupt"

    stopped, whole = (check_cell(cells[name]) for name in ("search", "resume"))
    assert stopped[-1] == "Interrupted. What was done is kept. Call it again with resume=True to go on."
    assert any("6 SWA trials of 6 epochs" in line for line in stopped)
    assert any(line.startswith("Files in ") for line in whole)
    assert "SWA_" in cells["leaderboard"].outputs[0]["data"]["text/plain"]
    assert cells["best"].outputs[0]["text"].endswith("of the validation images\n")

    expected = called[0]
    found = tune_swa.load_results(folder)
    for name in ("trials", "epochs", "comparison"):
        pair = ({name: getattr(results, name)} for results in (found, expected))
        assert_same_tables(*pair, ignored=TIMES)
    assert (folder / "best_model.pt").read_bytes() == (expected.folder / "best_model.pt").read_bytes()


def check_cell(cell: Any) -> list[str]:
    """Check that a cell has one output of some lines, and perhaps its error; returns the lines."""
    shown = [output for output in cell.outputs if output["output_type"] != "error"]
    assert [output["output_type"] for output in shown] == ["display_data"]
    text, html = shown[0]["data"]["text/plain"], shown[0]["data"]["text/html"]
    assert "\x1b" not in text + html
    assert html.startswith("<pre")
    lines: list[str] = text.splitlines()
    assert 5 < len(lines) <= KEPT_LINES + 1
    return lines


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"trials": "many"}, ["--trials", "many"]),
        ({"trials": 0}, ["--trials", "0"]),
        ({"name": "a/b"}, ["--name", "a/b"]),
        ({"train.epochs": 1}, ["--set", "train.epochs=1"]),
        ({"space.lr": {"choise": [1]}}, ["--set", 'space.lr={"choise": [1]}']),
        ({"gpus": 77}, ["--gpus", "77"]),
        ({"epochs": 1}, ["--epochs", "1"]),
        ({"plugin": "./gone.py"}, ["--plugin", "./gone.py"]),
    ],
)
def test_errors_are_those_of_the_command_line(
    given: dict[str, Any], options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = ROOT / "search_spaces" / "digits.yaml"
    code, _, printed = call_search(capfd, "--space", space, "--results-dir", tmp_path, *options)
    assert code == 2
    with pytest.raises(tune_swa.RequestError) as error:
        tune_swa.search(space, results_dir=tmp_path, **given)
    lines = [line.strip() for line in printed.removeprefix("error: ").strip().splitlines()]
    assert str(error.value).splitlines() == lines
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpu": 1}, "gpu: unknown argument. Did you mean gpus?"),
        ({"cpus": 1.5}, "cpus=1.5: expected a whole number, or None"),
        ({"cpus": np.arange(2)}, "cpus=array([0, 1]): expected a whole number, or None"),
        ({"log": "tensorflow"}, "log='tensorflow': expected mlflow, wandb, none"),
        ({"train.epochs": object}, "train.epochs=<class 'object'>: expected numbers, texts"),
        ({"plugin": 3}, "3: expected a text or a path, or a list of these"),
        ({"results_dir": 3}, "results_dir=3: expected a path, or None"),
        ({"name": Path("x")}, "name=PosixPath('x'): expected a text, or None"),
        ({"address": 6379}, "address=6379: expected a text, or None"),
        ({"overrides": ["a=1"]}, "overrides=['a=1']: expected a mapping of dotted names to values"),
        (
            {"log": None, "plugin": None, "results_dir": None, "overrides": None, "cpus": "all"},
            "cpus='all': expected a whole number, or None",
        ),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(tune_swa.RequestError) as error:
        tune_swa.search(ROOT / "search_spaces" / "digits.yaml", **given)
    assert str(error.value).startswith(message)


def test_a_current_folder_that_has_been_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(tune_swa.RequestError, match="the current folder has been removed"):
        tune_swa.search(ROOT / "search_spaces" / "digits.yaml")


def test_what_is_none_is_not_given() -> None:
    defaults = search.__kwdefaults__ or {}
    given = {"space": {}, **dict.fromkeys(defaults), "gpus": np.int64(0)}
    filled = _fill_defaults(given)
    assert filled == {"space": {}, **defaults, "gpus": 0}
    options = _collect_options(filled)
    assert options == _collect_options({"space": {}, **defaults, "gpus": 0})
    assert (options["no_confirm"], type(options["gpus"])) == (False, int)


def test_every_option_of_the_command_has_an_argument() -> None:
    options = vars(build_parser("tune-swa").parse_args(["search", "--space", "x"]))
    others = {"space", "set", "no_confirm", "dry_run", "smoke", "command", "takes_resume"}
    assert {*options} - others == {*ARGUMENTS} - {"confirm", "overrides"}


class Recorded:
    """A display that keeps what it is shown, and acts when it reads `ready`."""

    reads_output = True
    environment: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, *interrupts: str) -> None:
        self.text, self._interrupts = "", list(interrupts)

    def write_output(self, text: str) -> None:
        self.text += text
        if self._interrupts and self._interrupts[0] in self.text:
            del self._interrupts[0]
            signal.raise_signal(signal.SIGINT)

    write_error = write_output

    def refresh(self, *, final: bool = False) -> None:
        pass


DEATHS = {
    "import os; os.kill(os.getpid(), 9)": "the search's process was killed from outside, by the system if",
    "import os; os.kill(os.getpid(), 11)": "the search's process crashed (Segmentation fault).",
    "import sys; sys.exit(1)": "Ray's processes have died, and the search with them.",
}


@pytest.mark.parametrize("code", DEATHS)
def test_a_process_that_dies_is_an_error_here(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_process, "CODE", code)
    with pytest.raises(tune_swa.SearchFailed) as error:
        SearchProcess({}, {}, Recorded()).run()
    assert str(error.value).startswith(DEATHS[code])
    assert str(error.value).endswith(" Nothing had begun. Call it again")


LONG = """
import json, os, sys
call = json.load(sys.stdin)
print("path", call["path"] == [entry for entry in call["path"] if isinstance(entry, str)], flush=True)
os.write(call["answer"], json.dumps({"code": 2, "error": "\U0001f4f7" * 50_000}).encode() + b"\\n")
"""


def test_an_answer_may_be_longer_than_a_pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(search_process, "CODE", LONG)
    # as many programs do; Python passes over what is no text
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    display = Recorded()
    with pytest.raises(tune_swa.RequestError) as error:
        SearchProcess({}, {}, display).run()
    assert str(error.value) == "\U0001f4f7" * 50_000
    assert display.text == "path True\n"


DEAF = """
import signal, time
signal.signal(signal.SIGINT, lambda *_: print("asked", flush=True))
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.mark.parametrize("again", [[], ["asked"]], ids=["patience", "second"])
def test_a_process_that_does_not_stop_is_killed(again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_process, "CODE", DEAF)
    # long enough to see that the second Ctrl-C does not wait for it
    monkeypatch.setattr(search_process, "PATIENCE_SECONDS", 300.0 if again else 0.5)
    display = Recorded("ready", *again)
    process = SearchProcess({}, {}, display)
    with pytest.raises(KeyboardInterrupt):
        process.run()
    assert display.text.replace("\n", "").startswith("readyasked")
    assert process._process is not None
    assert process._process.returncode == -signal.SIGKILL


CALLER = """
import threading, time
from tune_swa.cli.parser import build_parser
from tune_swa.from_python import search_process
from tune_swa.from_python.displays import InheritedStreams
search_process.CODE = '''
import json, os, sys, time
call = json.load(sys.stdin)
from tune_swa.cli import supervisor
supervisor.die_with_parent(call["parent"])
print(os.getpid(), flush=True)
time.sleep(600)
'''
threading.Thread(target=search_process.SearchProcess({}, {}, InheritedStreams()).run).start()
"""


def test_a_search_ends_with_the_process_that_called_it() -> None:
    caller = subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE, text=True)
    try:
        assert caller.stdout is not None
        called_process = int(caller.stdout.readline())
        assert Path(f"/proc/{called_process}").exists()
    finally:
        caller.kill()
        caller.wait()
    assert caller.stdout.read() == ""  # returns once the other end of the pipe is closed everywhere


def test_the_function_stays_though_a_room_has_its_name() -> None:
    from tune_swa.search.asha import PhaseAsha

    assert PhaseAsha.__module__ == "tune_swa.search.asha"
    assert tune_swa.search.__module__ == "tune_swa.from_python.searches"
    assert threading.current_thread() is threading.main_thread()
