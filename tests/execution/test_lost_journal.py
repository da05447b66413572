"""What is taken from a whole search: its folder, its journal, Ray's server, large files."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.narrow_resnet import narrow_environment
from helpers.serial_search import assert_same, command, go_on, held, journal_of, new_search

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


@pytest.mark.slow  # Ray itself waits for half a minute
def test_a_limit_under_which_ray_does_not_start_is_named(tmp_path: Path, decoded: None) -> None:
    """Ray raises a plain Exception there, which says nothing of the limit."""
    results = new_search(tmp_path)
    limited = ["bash", "-c", 'ulimit -f 20000; exec "$@"', "-", sys.executable, *command(results, TRIALS)]
    ended = subprocess.run(limited, env=narrow_environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    [error] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "Ray cannot be started on this machine (" in error
    assert "ulimit -f (20.5 MB)" in error
    assert "Traceback" not in ended.stderr
