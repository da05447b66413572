"""Commands in processes that a shell, a service or a batch system has left in an odd state."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.narrow_resnet import narrow_environment
from helpers.programs import ROOT, RUN_SEARCH, run_program
from helpers.serial_search import command, go_on, journal_of, new_search, started
from tune_swa.cli import main
from tune_swa.experiment.state import ExperimentState

PYTHON = (sys.executable, "-c")
UNKNOWN_USER = 54321
NEEDED = "dac_read_search"  # the tests' Python may be in a folder that only root can enter
SETPRIV = [
    "setpriv", f"--reuid={UNKNOWN_USER}", f"--regid={UNKNOWN_USER}", "--clear-groups",
    f"--inh-caps=+{NEEDED}", f"--ambient-caps=+{NEEDED}",
]  # fmt: skip
PERSONAL = ("HOME", "USER", "LOGNAME", "TUNE_SWA_CACHE", "XDG_CACHE_HOME")
ODD = {
    "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "COLUMNS": "20", "TERM": "dumb",
    "NO_COLOR": "1", "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "nonsense", "PYTHONHASHSEED": "7",
    "CUDA_VISIBLE_DEVICES": "", "RAY_ADDRESS": "10.1.2.3:6379", "RAY_AIR_LOCAL_CACHE_DIR": "/nowhere",
    "RAY_NAMESPACE": "x", "RAY_RUNTIME_ENV_HOOK": "nowhere.nothing", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{",
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 0}', "TUNE_RESULT_DIR": "/nowhere", "TUNE_MAX_LEN_IDENTIFIER": "3",
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"),
}  # fmt: skip
"""What people have set for other programs."""


def run_python(
    code: str, before: str = "", after: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a process that a shell starts, with words before its `exec` and redirections after it."""
    return subprocess.run(
        ["bash", "-c", f'{before} exec "$0" "$@" {after}', *PYTHON, code],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


SET_UP = "from tune_swa.cli.process_setup import prepare_process; prepare_process(); import sys, os; "


def require_another_user() -> None:
    """Skip the test where this process may not become another user, or that could not read this."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("may not become another user")
    if subprocess.run([*SETPRIV, sys.executable, "-c", f"open({str(RUN_SEARCH)!r})"]).returncode:
        pytest.skip("another user may not read this checkout")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_do_not_become_files(closed: str, tmp_path: Path) -> None:
    """The next file that is opened would be stdout, and get what is printed."""
    code = (
        SET_UP + f"file = open({str(tmp_path / 'file')!r}, 'w'); print('x'); print('y', file=sys.stderr); "
        "sys.stdin.read(); sys.stdout.flush(); file.close()"
    )
    done = run_python(code, after=closed)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == ""


def test_any_character_can_be_printed() -> None:
    done = run_python(
        SET_UP + "print('\\u2265 \\ud800')", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"
    )
    assert done.stdout == "\\u2265 \\ud800\n"


def test_limits_and_umask_are_as_far_as_the_process_may() -> None:
    code = SET_UP + (
        "import resource, warnings; print(resource.getrlimit(resource.RLIMIT_NOFILE), oct(os.umask(0))); "
        "warnings.warn('none'); print(os.environ.get('PYTHONWARNINGS'), os.environ.get('OMP_NUM_THREADS'))"
    )
    done = run_python(
        code, "ulimit -S -n 100; ulimit -H -n 500; umask 777;", PYTHONWARNINGS="error", OMP_NUM_THREADS="0"
    )
    assert done.stdout == "(500, 500) 0o77\nNone None\n"
    kept = run_python(SET_UP + "print(os.environ['OMP_NUM_THREADS'])", OMP_NUM_THREADS="4,2")
    assert kept.stdout == "4,2\n"
    dropped = run_python(SET_UP + "print(os.environ.get('OMP_NUM_THREADS'))", OMP_NUM_THREADS="²")
    assert dropped.stdout == "None\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_one_sentence() -> None:
    words = f"{sys.executable} -m tune_swa schema > /dev/full"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "error: the output cannot be written (No space left on device). Files are not affected\n"
    )
    words = f"set -o pipefail; {sys.executable} -m tune_swa schema | true"
    assert subprocess.run(["bash", "-c", words], capture_output=True, text=True).stderr == ""


def test_a_reader_that_has_gone_ends_no_command() -> None:
    words = f"set -o pipefail; {sys.executable} -m tune_swa compare results/examples/digits | true"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_search_from_a_folder_that_has_been_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["search", "--space", "digits", "--dry-run", "--gpus", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: the current folder has been removed.")


def test_a_user_without_a_home_gets_one_that_no_path_means(tmp_path: Path) -> None:
    require_another_user()
    shared = Path("/tmp") / f"tune_swa-test-{os.getpid()}"
    shared.mkdir()
    shared.chmod(0o777)
    code = (
        "from tune_swa.files import give_user_a_home, expand_home; give_user_a_home(); import os, getpass; "
        "from tune_swa.data.cache import cache_folder; from pathlib import Path; "
        "print(Path.home(), getpass.getuser(), cache_folder().is_relative_to(Path.home())); "
        "expand_home('~/res', '--results-dir')"
    )
    bare = {k: v for k, v in os.environ.items() if k not in PERSONAL}
    try:
        done = subprocess.run(
            [*SETPRIV, *PYTHON, code], capture_output=True, text=True, env={**bare, "TMPDIR": str(shared)}
        )
    finally:
        shutil.rmtree(shared)
    assert done.stdout == f"{shared}/tune_swa-home-{UNKNOWN_USER} uid-{UNKNOWN_USER} True\n"
    assert "RequestError: --results-dir ~/res: no home folder is known for ~" in done.stderr


# ------------------------------------------------------------------------------- whole searches


def test_a_search_of_a_user_whom_nobody_knows_among_variables_of_others() -> None:
    """As in a container that runs with some number for a user; a second user beside the first one's Ray."""
    require_another_user()
    folder = Path("/tmp") / f"tune_swa-test-{os.getpid()}"
    folder.mkdir()
    try:
        results = new_search(folder)
        folder.chmod(0o777)
        bare = {k: v for k, v in narrow_environment().items() if k not in PERSONAL}
        long = folder / ("y" * 80)
        long.mkdir()
        long.chmod(0o777)
        words = [*SETPRIV, sys.executable, *command(results, 1)]
        shell = 'umask 777; ulimit -S -n 256; exec nice -n 5 "$0" "$@" <&-'
        done = subprocess.run(
            ["bash", "-c", shell, *words], capture_output=True, text=True, timeout=280,
            env={**bare, **ODD, "TMPDIR": str(long)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        trials = ExperimentState.read(journal_of(results)).trials.values()
        assert {trial.status for trial in trials} <= {"completed", "pruned"}
    finally:
        shutil.rmtree(folder)


def test_the_warning_of_a_batch_system_to_all_processes_stops_in_order(tmp_path: Path, decoded: None) -> None:
    """Slurm sends SIGUSR1 to every process of a job: Ray's would die of it, and the search with them."""
    results = new_search(tmp_path)
    with started(results, 4, epochs=2) as search:
        for process in processes_of(search.pid):
            os.kill(process, signal.SIGUSR1)
        _, err = search.communicate(timeout=60)
    assert search.returncode == 130, err
    assert err.startswith("Interrupted. Continue with:\n")
    go_on(results, 4)


def processes_of(session: int) -> list[int]:
    """All processes of a session."""

    def belongs(pid: int) -> bool:
        try:
            return os.getsid(pid) == session
        except ProcessLookupError:
            return False

    return [pid for folder in Path("/proc").glob("[0-9]*") if belongs(pid := int(folder.name))]


LOOP = """
import asyncio, os, signal, sys
from tune_swa.cli import run_search

def search(name):
    return run_search([*sys.argv[1:], "--quiet", "--name", name])

async def main():
    heard = []
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.append, "heard")
    before = [signal.getsignal(number) for number in (2, 15, 1, 10)], dict(os.environ)
    codes = [search("first"), await asyncio.to_thread(search, "second")]
    after = [signal.getsignal(number) for number in (2, 15, 1, 10)], dict(os.environ)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.2)
    changed = {name for name in after[1] if before[1].get(name) != after[1][name]}
    left = {name for name in changed if name.startswith(("TUNE_", "RAY_A", "RAY_T", "MALLOC_"))}
    print("ended:", codes, heard, before[0] == after[0], left)

asyncio.run(main())
"""


def test_a_search_in_an_event_loop_and_one_in_a_thread_leave_nothing_behind(
    tmp_path: Path, decoded: None
) -> None:
    results = new_search(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(LOOP)
    words = command(results, 1)
    assert words[0] == str(RUN_SEARCH)
    done = run_program([str(script), *words[1:]], env=narrow_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "ended: [0, 0] ['heard'] True set()"
