"""What is taken from under a whole search: its folder, its journal, Ray's server. It stops, and goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.serial_search import assert_same, go_on, held, journal_of, new_search

TRIALS = 4


def move_folder(folder: Path) -> None:
    folder.rename(folder.with_name("away"))


def remove_journal(folder: Path) -> None:
    (folder / "journal.jsonl").unlink()


@pytest.mark.parametrize(
    ("take", "said"),
    [
        (move_folder, "/away now. Move it back (`"),
        (remove_journal, "has been written back. Continue with --resume"),
    ],
)
def test_a_search_whose_journal_is_taken_stops_and_goes_on(
    take: Callable[[Path], None], said: str, tmp_path: Path, short: Path
) -> None:
    results = new_search(tmp_path)
    folder = journal_of(results).parent
    with held(results, TRIALS, epochs=6) as search:
        take(folder)
        search.send_signal(signal.SIGCONT)
        out, err = search.communicate(timeout=200)
    assert search.returncode == 1, out + err
    assert err.startswith("error: the search stopped. ")
    assert said in err
    if take is move_folder:
        assert not folder.exists()
        subprocess.run(shlex.split(err.partition("`")[2].partition("`")[0]), check=True)  # the advice
    go_on(results, TRIALS)
    assert_same(results, short)


def find_server(session: int) -> int:
    """Ray's server of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session and (folder / "comm").read_text() == "gcs_server\n":
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("no server")


def test_a_dead_server_of_rays_ends_the_search_soon(tmp_path: Path, short: Path) -> None:
    results = new_search(tmp_path)
    with held(results, TRIALS, epochs=6) as search:
        os.kill(find_server(search.pid), signal.SIGKILL)
        search.send_signal(signal.SIGCONT)
        out, err = search.communicate(timeout=200)
    assert search.returncode == 1, out + err
    assert "within 10 seconds" in err  # Ray's own line: 60 is its default
    go_on(results, TRIALS)
    assert_same(results, short)
