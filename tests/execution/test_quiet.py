"""A search speaks with nobody outside of its machine, and leaves nothing outside of its results folder."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.narrow_resnet import narrow_environment
from helpers.programs import RUN_SEARCH
from helpers.serial_search import SPACE
from tune_swa import scratch
from tune_swa.errors import Interrupted, SearchFailed
from tune_swa.execution import first_worker, ray_runtime, ray_setup
from tune_swa.execution.slots import Placement

HELPERS = Path(__file__).parent.parent / "helpers"
WATCHED = HELPERS / "watched_python"
LOOPBACK = re.compile(r"'(127\.0\.0\.\d+|localhost|::1|0\.0\.0\.0)'|\('/|\(b?'\\x00|\(None")
"""In the arguments of a call: this machine, or a socket in its file system."""
ONE_SLOT = Placement(gpus=0, cpus=1, slots=1, gpus_per_trial=0.0, cpus_per_trial=1)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets, whose paths hold few bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="q") as folder:
        yield Path(folder)


def isolate_network(packets: Path) -> list[str]:
    """Return the words before a command that count its packets into a file; none without the rights."""
    before = ["unshare", "--net", str(HELPERS / "isolated_network.sh"), str(packets)]
    return before if subprocess.run([*before, "true"], capture_output=True).returncode == 0 else []


@pytest.mark.skipif(shutil.which("unshare") is None or shutil.which("ip") is None, reason="needs iproute2")
def test_packets_to_elsewhere_are_counted(tmp_path: Path) -> None:
    """So that the count of a search can be wrong."""
    packets = tmp_path / "packets"
    before = isolate_network(packets)
    if not before:
        pytest.skip("may not make networks here")
    ask = "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'?', ('169.254.169.254', 53))"
    subprocess.run([*before, sys.executable, "-c", ask], check=True)
    assert packets.read_text() == "1\n"


def test_a_search_speaks_with_this_machine_and_leaves_no_files(
    short_path: Path, tmp_path: Path, decoded: None
) -> None:
    packets = tmp_path / "packets"
    before = isolate_network(packets)
    (tmp_path / "space.yaml").write_text(SPACE)
    home, temporary, watched = short_path / "home", short_path / "tmp", tmp_path / "watched.jsonl"
    home.mkdir()
    temporary.mkdir()
    environment = narrow_environment()
    environment |= {
        "HOME": str(home), "TMPDIR": str(temporary), "WATCHED": str(watched), "XDG_CONFIG_HOME": str(home),
        "PYTHONPATH": f"{WATCHED}:{environment['PYTHONPATH']}",
    }  # fmt: skip
    given = ["--space", "space.yaml", "--gpus", "0", "--cpus", "1", "--trials", "1", "--no-confirm"]
    search = subprocess.run(
        [*before, sys.executable, str(RUN_SEARCH), *given],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert search.returncode == 0, search.stdout + search.stderr
    if before:  # of Ray's servers, too, which are not Python's
        assert packets.read_text() == "0\n"
    calls: list[dict[str, Any]] = [json.loads(line) for line in watched.read_text().splitlines()]
    started = [" ".join(call["program"]) for call in calls if call["event"] == "start"]
    for program in ("run_search.py", "default_worker.py", "runtime_env/agent/main.py", "dashboard/agent.py"):
        assert any(program in words for words in started), program
    assert [call for call in calls if call["event"] == "import"] == []
    spoken = [call for call in calls if call["event"].startswith("socket")]
    assert [call for call in spoken if not LOOPBACK.search(call["detail"])] == []
    assert [str(path) for path in home.rglob("*") if path.is_file()] == []
    left = {path.name for path in temporary.rglob("*")}
    assert left - {"ray", "tune_swa"} == {name for name in left if name.startswith("torchinductor_")}


def test_the_session_of_ray_is_closed_to_others_and_removed() -> None:
    """Also where a signal ends the search."""
    sessions = []

    def be_interrupted() -> None:
        with ray_runtime.start_local_ray(ONE_SLOT):
            logs = first_worker.find_logs()
            assert logs is not None
            sessions.append(logs.parent)
            assert stat.S_IMODE(logs.parent.stat().st_mode) == 0o700
            scratch.remove_leftovers(logs.parent.parent, "session_*")
            assert logs.exists()
            raise Interrupted

    with pytest.raises(Interrupted):
        be_interrupted()
    assert [session.exists() for session in sessions] == [False]


def test_the_session_of_a_search_that_failed_is_closed_to_others(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logs stay. Ray's processes have opened it as they started, and no worker came."""
    node: Any = importlib.import_module("ray._private.node")
    monkeypatch.setenv("RAY_TMPDIR", str(short_path))
    session = short_path / "ray" / "session_of_a_test"

    def fail() -> None:
        with ray_setup.own_session_folder():
            node.try_to_create_directory(str(session))
            session.chmod(0o777)
            raise SearchFailed("no worker starts")

    with pytest.raises(SearchFailed):
        fail()
    assert stat.S_IMODE(session.stat().st_mode) == 0o700


HOLDER = """
import sys
from tune_swa.scratch import scratch_folder
with scratch_folder("test-") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "FRESH_SECONDS", 0.0)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    folders = []
    for holder in holders:
        assert holder.stdout is not None
        folders.append(Path(holder.stdout.readline().strip()))
    foreign = tmp_path / "tune_swa-foreign"
    foreign.mkdir()
    (tmp_path / "tune_swa-link").symlink_to(folders[1])
    scratch.remove_leftovers(tmp_path)
    assert all(folder.exists() for folder in folders)
    holders[0].kill()
    holders[0].wait()
    scratch.remove_leftovers(tmp_path)
    assert [folder.exists() for folder in folders] == [False, True]
    holders[1].communicate("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tune_swa-foreign", "tune_swa-link"]
