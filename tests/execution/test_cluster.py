"""Searches on a cluster: two Ray nodes on this machine, one of which dies in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tune_swa
from helpers.narrow_resnet import narrow_environment
from helpers.programs import run_program
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.execution import ray_runtime
from tune_swa.execution.cluster_check import Answer, Question, agree, ask_all
from tune_swa.execution.slots import Node, Placement
from tune_swa.experiment.state import ExperimentState
from tune_swa.storage import FolderStore, open_store
from tune_swa.training.numerics import Numerics

ROOT = Path(__file__).parent.parent.parent
SPACE = """
name: cluster
data: {dataset: digits, image_size: 16, train_images: 100, val_fraction: 0.2, test_fraction: 0.7}
train: {epochs: 14, batch_size: 20}
space: {lr: 1e-3, swa_start: {choice: [3, 5]}, swa_lr: 1e-3}
search: {sampler: grid, max_failures: 1, checkpoint_every: 1}
scheduler: {asha: false}
"""
TIMES = ["train_seconds", "bn_seconds", "eval_seconds", "images_per_second"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and a second node with a core each, quick to notice that one is gone.

    Trials have half of the network's channels there, and last long enough to meet in their middle.
    """
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", narrow_environment()["PYTHONPATH"])
    monkeypatch.setenv("NARROW_BY", "2")
    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 3,
    }
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick},
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def command(space: Path, results: Path, *more: str) -> list[str]:
    program = [
        sys.executable,
        str(ROOT / "run_search.py"),
        "--space",
        str(space),
        "--gpus",
        "0",
        "--no-confirm",
    ]
    return [*program, "--results-dir", str(results), *more]


def send_to_workers(node: Any, number: int) -> list[int]:
    """Send a signal to all workers of a node, which its raylet has started; returns them."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = [path.read_text().split() for path in Path(f"/proc/{raylet}/task").glob("*/children")]
    workers = [int(pid) for pids in children for pid in pids]
    for worker in workers:
        os.kill(worker, number)
    return workers


def test_a_node_dies_and_its_trials_move(cluster: Any, space: Path, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    store = f"file://{tmp_path}/shared"
    results = tmp_path / "results"
    search = subprocess.Popen(
        command(space, results, "--address", cluster.address, "--storage", store),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = results / "cluster" / "journal.jsonl"

    def both_in_the_middle() -> bool:
        # a trial is called running from its suggestion on, and may have its trunk's epochs by then: only
        # one that has started has a worker that can die
        trials = ExperimentState.read(journal).trials.values() if journal.exists() else []
        running = [t for t in trials if t.status == "running" and t.attempts]
        return len(running) == 2 and all(2 <= t.next_epoch <= 12 for t in running)

    while search.poll() is None:
        if both_in_the_middle():
            # its clock stops first, so that no trial ends between the look at the journal and the kill
            workers = send_to_workers(node, signal.SIGSTOP)
            if both_in_the_middle():
                break
            send_to_workers(node, signal.SIGCONT)
        time.sleep(0.05)
    assert search.poll() is None, "the search was over before both trials ran"
    cluster.remove_node(node, allow_graceful=False)  # kill -9
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    out, err = search.communicate(timeout=300)
    assert search.returncode == 0, out + err
    assert "its worker died; another one goes on after" in out

    trials = ExperimentState.read(journal).trials
    assert {t.status for t in trials.values()} == {"completed"}
    assert len(trials) == 3
    assert all([r["epoch"] for r in t.records] == list(range(14)) for t in trials.values())
    moved = [t for t in trials.values() if t.attempts == 2]
    assert len(moved) == 1
    starts = [
        e
        for e in tune_swa.experiment.journal.read_events(journal)
        if e["event"] == "started" and e["attempt"] == 2
    ]
    assert [e["trial"] for e in starts] == [moved[0].name]
    assert starts[0]["from_epoch"] >= 2  # from its checkpoint, not from the start

    # the same numbers as on one machine alone
    alone = run_program(command(space, tmp_path / "alone", "--cpus", "1", "--quiet")[1:])
    assert alone.returncode == 0, alone.stdout + alone.stderr
    found, expected = (
        pd.read_parquet(folder / "cluster" / "epochs.parquet")
        .drop(columns=TIMES)
        .sort_values(["trial", "epoch"])
        for folder in (results, tmp_path / "alone")
    )
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True), expected.reset_index(drop=True), check_exact=True
    )

    # what people read is in the store, too, and beside it the checkpoints that are kept
    shared = tmp_path / "shared" / "cluster"
    for name in ("journal.jsonl", "space.yaml", "trials.parquet", "best_model.pt", "best_model.json"):
        assert (shared / name).read_bytes() == (results / "cluster" / name).read_bytes(), name
    assert not (results / "cluster" / "checkpoints").exists()
    kept = sorted(str(p.relative_to(shared)) for p in shared.rglob("epoch-*.pt"))
    assert kept == sorted(c for t in trials.values() for c in t.checkpoints)


def test_requests_that_a_cluster_cannot_take(cluster: Any, space: Path, tmp_path: Path) -> None:
    def refused(*more: str) -> str:
        given = command(space, tmp_path / "results", "--address", cluster.address, *more)
        result = run_program(given[1:], timeout=120)
        assert result.returncode == 2, result.stdout + result.stderr
        assert not (tmp_path / "results" / "cluster").exists()
        return result.stderr

    assert "--gpus 3: the cluster at" in refused("--gpus", "3")
    held = tmp_path / "shared" / "cluster"
    held.mkdir(parents=True)
    (held / "space.yaml").write_text("")
    message = refused("--storage", str(tmp_path / "shared"))
    assert f"--storage {held}: holds a search of this name already" in message


# ----------------------------------------------------------------------------------- tokens

JOIN = """
import sys
import ray
from tune_swa.errors import RequestError
from tune_swa.execution import ray_runtime

class Actor:
    def answer(self):
        return "an actor answered"

try:
    with ray_runtime.join_cluster(sys.argv[1]):
        print(ray.get(ray.remote(Actor).remote().answer.remote(), timeout=60))
except RequestError as error:
    print(error)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's home with a token, which every local Ray leaves behind."""
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    return tmp_path / "home"


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_cluster_is_shown_a_token_where_it_asks_for_one(mode: str, home: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    ray = str(Path(sys.executable).parent / "ray")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(home)}
    head = subprocess.Popen(
        [ray, "start", "--head", "--block", "--port", address.rpartition(":")[2], "--num-cpus", "1",
         "--include-dashboard", "false", "--disable-usage-stats"],
        env=environment | {"RAY_AUTH_MODE": mode}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert head.stdout is not None
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail(f"ray start ended with {head.wait()}")

        def join(environment: dict[str, str]) -> str:
            program = [sys.executable, "-c", JOIN, address]
            return subprocess.run(
                program, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
            ).stdout

        assert join(environment) == "an actor answered\n"
        without = join(environment | {"HOME": str(tmp_path)})
        if mode == "disabled":
            assert without == "an actor answered\n"
        else:
            assert f"--address {address}: something listens there, but no Ray cluster lets" in without
            assert "~/.ray/auth_token" in without
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.communicate(timeout=60)


# ------------------------------------------------------------------- what the computers answer


def test_auto_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray_runtime, "_resolve_address", nothing)
    with (
        pytest.raises(RequestError, match=r"--address auto: no Ray cluster answers there .*ray start"),
        ray_runtime.join_cluster("auto"),
    ):
        pass


def test_who_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    asked: list[str] = []
    timeouts: list[float] = []

    class Task:
        def remote(self, question: Question) -> str:
            asked.append(f"question {len(asked)}")
            return asked[-1]

    def wait(references: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        timeouts.append(timeout)
        answered = num_returns if len(timeouts) > 2 else 1
        return references[:answered], references[answered:]

    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: Task())
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda reference: GOOD)
    nodes = [Node(name, 0, 2, f"{i:056x}") for i, name in enumerate(("one", "two", "three"))]
    question = Question(Experiment.model_construct(), None, "cpu", 1, open_store("/mnt/here"), "probe")
    said: list[str] = []
    answers = ask_all(nodes, Placement(0, 6, 6, 0.0, 1), question, said.append)
    assert answers == {"one": GOOD, "two": GOOD, "three": GOOD}
    assert [line.partition(":")[0] for line in said] == ["waiting for an answer of two, three"] * 2
    assert timeouts == [15.0, 30.0, 60.0]


NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)
GOOD = Answer("2.15", NUMERICS, "abc")


def test_computers_that_agree(tmp_path: Path) -> None:
    assert agree({"one": GOOD, "two": GOOD}, "abc", FolderStore(tmp_path)) == NUMERICS


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Answer(wrong="/data: no such folder"), "two: /data: no such folder"),
        (Answer("2.15", NUMERICS, "xyz"), "two: its images are not those of this machine"),
        (Answer("2.15", NUMERICS, "abc", sees_probe=False), "two: does not see /mnt/here, .* Give --storage"),
        (Answer("2.14", NUMERICS, "abc"), "different numerics.*'torch': '2.14'"),
    ],
)
def test_a_computer_that_cannot_take_part_is_named(other: Answer, message: str) -> None:
    with pytest.raises(RequestError, match=f"(?s){message}"):
        agree({"one": GOOD, "two": other}, "abc", open_store("/mnt/here"))
