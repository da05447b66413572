"""What the shell has set for other programs does not reach Ray, and is as it was afterwards."""

from __future__ import annotations

import importlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tune_swa.config import ResourcesSpec
from tune_swa.data.cache import cache_folder
from tune_swa.errors import RequestError
from tune_swa.execution import ray_environment, ray_runtime, ray_setup
from tune_swa.execution.ray_environment import (
    choose_folder,
    foresee_folder,
    kept_variables,
    local_ray_environment,
    patient_start,
)
from tune_swa.execution.slots import Machine, plan_placement
from tune_swa.hardware import limits
from tune_swa.hardware.shortages import THRESHOLD_VARIABLE

FOREIGN = {
    "RAY_ADDRESS": "10.0.0.1:6379",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "{",
    "RAY_NAMESPACE": "x",
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 0}',
    "RAY_RUNTIME_ENV_HOOK": "nowhere.nothing",
    "RAY_AIR_LOCAL_CACHE_DIR": "/nowhere",
    "RAY_CHDIR_TO_TRIAL_DIR": "1",
    "TUNE_RESULT_DIR": "/nowhere",
    "TUNE_RESULT_BUFFER_LENGTH": "1000",
    "TUNE_CALLBACKS": "nonsense",
}


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of other programs."""
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)


def test_variables_of_other_programs_are_gone_meanwhile(
    foreign: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THRESHOLD_VARIABLE, "0.9")
    before = dict(os.environ)
    with local_ray_environment():
        ray_runtime.set_environment(3)
        left = {name: os.environ[name] for name in FOREIGN if name in os.environ}
        assert left == {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
        assert os.environ[THRESHOLD_VARIABLE] == "0.9"  # concerns Ray itself, and stays
        assert os.environ["TUNE_SWA_CACHE"] == before["TUNE_SWA_CACHE"]
        assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "3"
        assert os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] == "1"
    assert dict(os.environ) == before


def test_each_ray_has_a_token_that_is_written_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    tokens = []
    for _ in range(2):
        with local_ray_environment():
            assert os.environ["RAY_AUTH_MODE"] == "token"
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
    assert len(set(tokens)) == 2
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # as the user wants it
    with local_ray_environment():
        assert "RAY_AUTH_TOKEN" not in os.environ


# ------------------------------------------------------------------------------- Ray's folder


def test_the_folder_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path("/tmp") / f"r{os.getpid()}"
    monkeypatch.chdir("/tmp")
    monkeypatch.setenv("RAY_TMPDIR", short.name)  # Ray takes none that is not absolute
    try:
        assert choose_folder() == short
    finally:
        short.rmdir()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("x" * 60, "its path is too long for Ray's sockets"), ("ü", "has characters that Ray cannot read")],
)
def test_a_folder_that_ray_cannot_use(name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", f"/tmp/{name}")
    assert choose_folder() == Path("/tmp")
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{name}")
    with pytest.raises(RequestError, match=reason) as refused:
        choose_folder()
    assert str(refused.value).startswith(f"RAY_TMPDIR=/tmp/{name}: ")
    assert not Path(f"/tmp/{name}").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/x")
    with pytest.raises(RequestError, match=r"RAY_TMPDIR=/proc/x: cannot be written to \(No such file"):
        choose_folder()


# ------------------------------------------------------------------------------- a slow start


def start_slowly(monkeypatch: pytest.MonkeyPatch, answers: int, *, alive: bool) -> list[float]:
    """Have the node process answer at a call; returns the moments of the calls."""
    from ray._private import services

    now, asked = [0.0], []

    def get_node(*_: Any) -> str:
        asked.append(now[0])
        if len(asked) < answers:
            raise RuntimeError("no node yet")
        return "node"

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(ray_environment, "has_child", lambda name: alive)
    monkeypatch.setattr(ray_environment, "await_node", lambda *_: None)
    with patient_start(100, lambda: now[0], lambda _: now.__setitem__(0, now[0] + 20)):
        services.get_node("address", "id")
    assert services.get_node is get_node
    return asked


def test_the_folder_is_foreseen_without_making_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="f") as name:
        (Path(name) / "file").touch()
        for variable in ("RAY_TMPDIR", "TMPDIR"):
            monkeypatch.delenv("RAY_TMPDIR", raising=False)
            monkeypatch.setenv(variable, f"{name}/new")
            assert foresee_folder() == Path(name, "new")
            assert not Path(name, "new").exists()
            assert choose_folder() == Path(name, "new")
            Path(name, "new").rmdir()
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", f"{name}/file/x")
        assert foresee_folder() == choose_folder() == Path("/tmp")
        monkeypatch.setenv("HOME", name)
        monkeypatch.setenv("RAY_TMPDIR", "~/x")
        assert foresee_folder() == choose_folder() == Path(name, "x")


def test_the_modules_and_variables_of_ray_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that runs a search as a part of it may use Ray itself."""
    services: Any = importlib.import_module("ray._private.services")
    usage: Any = importlib.import_module("ray.air._internal.usage")
    node: Any = importlib.import_module("ray._private.node").Node
    controller: Any = importlib.import_module("ray.tune.execution.tune_controller")
    constants: Any = importlib.import_module("ray._private.ray_constants")

    def look() -> tuple[object, ...]:
        uv = constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
        changed = (
            services.subprocess,
            services.start_api_server,
            services.start_ray_process,
            usage.tag_callbacks,
        )
        return *changed, node.start_monitor, node.start_log_monitor, controller._ActorClassCache, uv

    before, variables = look(), dict(os.environ)
    placement = plan_placement(ResourcesSpec(), Machine(0, 1), trials=1)
    with (
        kept_variables(),
        ray_setup.ignore_uv_run(),
        ray_setup.adapt_ray(placement),
        ray_setup.adapt_tune(own_ray=True),
    ):
        ray_runtime.set_environment(1)
        assert all(now is not then for now, then in zip(look()[:7], before[:7], strict=True))
        assert os.environ != variables
    assert look() == before
    assert os.environ == variables


def test_a_node_process_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself gives up after 30 seconds."""
    assert start_slowly(monkeypatch, 4, alive=True) == [0, 20, 40, 60]


@pytest.mark.parametrize(("alive", "calls"), [(True, 7), (False, 1)])
def test_a_node_process_that_died_or_hangs_is_not_waited_for(
    alive: bool, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="no node yet"):
        start_slowly(monkeypatch, 99, alive=alive)


def test_whatever_ray_raises_at_its_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from tune_swa.errors import SearchFailed

    def fail(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr(ray, "init", fail)
    placement = plan_placement(ResourcesSpec(), Machine(0, 1), trials=1)
    with (
        pytest.raises(SearchFailed, match=r"Ray cannot be started .* \(The current node timed out during"),
        ray_runtime.start_local_ray(placement),
    ):
        pass


# ------------------------------------------------------------------------------- quotas, homes


@pytest.mark.parametrize(
    ("quota", "given", "each", "cores"),
    [
        (None, None, 1, 4),
        (1.0, None, 1, 1),
        (2.5, None, 1, 2),
        (0.5, None, 1, 1),
        (64.0, None, 1, 4),
        (1.0, 3, 1, 3),  # whoever asks for more gets it: it is slow, and not wrong
        (1.0, None, 2, 2),
    ],
)
def test_a_quota_of_cores_limits_the_slots(
    quota: float | None, given: int | None, each: int, cores: int
) -> None:
    machine = Machine(0, 4, quota=quota)
    placement = plan_placement(ResourcesSpec(cpus_per_trial=each), machine, trials=99, cpus=given)
    assert (placement.cpus, placement.slots) == (cores, cores // each)


def test_kills_for_want_of_memory_are_read_from_the_group_or_the_system(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    assert limits.count_oom_kills(tmp_path) == 7
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/a\n")
    group = tmp_path / "sys" / "fs" / "cgroup" / "a"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n")
    assert limits.count_oom_kills(tmp_path) == 2


@pytest.mark.parametrize("home", [None, "/dev/null", "relative"])
def test_decoded_images_need_no_home_folder(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TUNE_SWA_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if home is None:
        monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    else:
        monkeypatch.setenv("HOME", home)
    folder = tmp_path / f"tune_swa-cache-{os.getuid()}"
    assert cache_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)  # as another user could have made it, in wait for this one
    with pytest.raises(RequestError, match="belongs to somebody else, or others may write there"):
        cache_folder()


def test_threads_cannot_have_handlers_and_need_none() -> None:
    from tune_swa import signals

    errors: list[BaseException] = []

    def use() -> None:
        try:
            signals.interrupt_once()
            with signals.keep_handlers(), signals.ignore_in_children():
                pass
            with signals.set_on_signal(threading.Event()):
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors == []
