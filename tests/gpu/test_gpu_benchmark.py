"""benchmarks/gpu.py on a CPU: every part runs, and none can take the others with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"


def run_python(*words: str, timeout: float = 500, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=timeout
    )


def test_a_walk_on_the_cpu_reaches_every_part(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    done = run_python("benchmarks/gpu.py", "--device", "cpu", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    catalogue = run_python(
        "-c", "import gpu_catalogue as c, json; print(json.dumps([p.name for p in c.CHECKS + c.MEASURES]))",
        PYTHONPATH=f"{BENCHMARKS}:{ROOT}",
    )  # fmt: skip
    assert [part["name"] for part in report["parts"]] == json.loads(catalogue.stdout)
    assert [(p["name"], p["reason"]) for p in report["parts"] if p["status"] != "pass"] == []
    assert all(part["figures"] for part in report["parts"] if part["kind"] == "measurement")
    assert set(report["table_hours"]) == {"1", "2"}
    assert all(hours > 0 for hours in report["table_hours"].values())
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    for part in report["parts"]:
        assert any(row.startswith(f"| {part['name']} | pass |") for row in rows)
    assert "453 to train" in done.stdout


# what a catalogue of parts may hold that goes wrong, and one part that does not
BAD_PARTS = """
import os, time
from gpu_parts import CheckFailedError, Figure, NotOnThisDeviceError, Part

def work(bench, record):
    return "done"

def die(bench, record):
    record(Figure("before it died", 1.0))
    os._exit(3)

def hang(bench, record):
    if os.fork() == 0:
        time.sleep(100)
    record(Figure("pid", str(os.getpid())))
    time.sleep(100)

def refuse(bench, record):
    raise CheckFailedError("2 is not 3")

def skip(bench, record):
    raise NotOnThisDeviceError("no such device")

def crash(bench, record):
    return 1 / 0

CHECKS = tuple(Part(f.__name__, "check", f, 1) for f in (work, die, hang, refuse, skip, crash))
MEASURES = (Part("work again", "measurement", work, 20), Part("late", "measurement", work, 20))
"""
RUNNER = """
import json, sys, tempfile, time
from pathlib import Path
import bad_parts, gpu, gpu_parts
if __name__ == "__main__":
    bench = gpu_parts.choose_sizes("cpu", Path(sys.argv[1]), quick=True)
    runner = gpu.Runner(bench, 300, Path(sys.argv[1]) / "out.json", "bad_parts")
    runner.run(bad_parts.CHECKS)
    runner.run(bad_parts.MEASURES[:1])
    runner._ends = time.monotonic() + 1
    runner.run(bad_parts.MEASURES[1:])
    runner.stop()
"""


def test_a_part_that_fails_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "bad_parts.py").write_text(BAD_PARTS)
    (tmp_path / "runner.py").write_text(RUNNER)
    done = run_python(
        str(tmp_path / "runner.py"), str(tmp_path), PYTHONPATH=f"{tmp_path}:{BENCHMARKS}:{ROOT}"
    )
    assert done.returncode == 0, done.stderr
    parts = {part["name"]: part for part in json.loads((tmp_path / "out.json").read_text())["parts"]}
    assert {name: (part["status"], part["reason"]) for name, part in parts.items()} == {
        "work": ("pass", "done"),
        "die": ("FAIL", "its process died (exit code 3)"),
        "hang": ("FAIL", "not done after 5 s"),
        "refuse": ("FAIL", "2 is not 3"),
        "skip": ("skipped", "no such device"),
        "crash": ("FAIL", "ZeroDivisionError: division by zero"),
        "work again": ("pass", "done"),
        "late": ("skipped", "no time left in the budget"),
    }
    assert parts["die"]["figures"][0]["what"] == "before it died"
    assert "1 / 0" in parts["crash"]["trace"]
    hung = int(parts["hang"]["figures"][0]["value"])
    with pytest.raises(ProcessLookupError):
        os.killpg(hung, 0)  # nor do the processes live on that it has started


def test_what_is_missing_is_named() -> None:
    hidden = "import sys; sys.modules['pydantic'] = None; sys.argv = ['gpu.py']; import gpu; gpu.main()"
    done = run_python("-c", hidden.replace("import gpu; ", "import gpu; gpu.NEEDED['no_such_one'] = 'odd'; "))
    assert done.returncode == 2
    assert "pydantic and odd cannot be imported; install with: pip install pydantic odd" in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--minutes", "nan"], "argument --minutes: nan: expected more than 0"),
        (["--minutes", "-1"], "argument --minutes: -1: expected more than 0"),
        (["--json", "/nowhere/at/all.json"], "argument --json: /nowhere/at/all.json: no such file can be"),
        (["--json", "/"], "argument --json: /: no such file can be written"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given: list[str], message: str) -> None:
    done = run_python("-c", f"import sys, gpu; sys.argv = ['gpu.py', *{given}]; gpu.main()")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("trunk", "branch", "slots", "seconds"),
    [
        ({1: 1.0}, {1: 1.0}, 1, 453),  # what --dry-run says there is to train
        ({1: 2.0}, {1: 3.0}, 1, 2 * 212 + 3 * 241),
        ({1: 1.0, 8: 1.0}, {1: 1.0, 8: 1.0}, 8, 120),  # no shorter than one run
        ({1: 1.0, 2: 2.0}, {1: 1.0, 2: 2.0}, 2, 453),  # twice the trials at half the speed
    ],
)
def test_the_table_is_predicted(trunk: Any, branch: Any, slots: int, seconds: float) -> None:
    call = f"import gpu_table; print(gpu_table.predict_table({trunk}, {branch}, {slots}))"
    assert float(run_python("-c", call).stdout) == pytest.approx(seconds, rel=0.02)
