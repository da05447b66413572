"""The doctor: each check on a machine that is fine and on one that is not, and the whole command."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tune_swa.child_process import Child, ChildError
from tune_swa.cli import main
from tune_swa.config import DataSpec
from tune_swa.data import cache
from tune_swa.data.dataset import prepare_dataset
from tune_swa.doctor import checks, contents, findings, folders, machine, packages, ray_check, torch_check
from tune_swa.doctor.findings import Finding, run_check
from tune_swa.execution import slots
from tune_swa.files import hold_lock as turn
from tune_swa.hardware import torch_probe
from tune_swa.hardware.gpu_survey import survey_gpus
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey, TorchFacts

ROOT = Path(__file__).parent.parent.parent
GB = 1_000_000_000
Usage = namedtuple("Usage", "total used free")


def one(found: Iterable[Finding]) -> Finding:
    """The only finding of a check. A problem says what to do."""
    (result,) = found
    assert result.level != "problem" or result.remedy
    assert "\n" not in result.text
    return result


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * GB, 100 * GB - count, count))


# ------------------------------------------------------------------------------ how checks are run


def test_whatever_happens_in_a_check_is_a_finding() -> None:
    def fails(error: Exception) -> Callable[[], Iterator[Finding]]:
        def check() -> Iterator[Finding]:
            yield Finding("ok", "thing", "first part")
            raise error

        return check

    first, second = run_check("thing", fails(KeyError("x")))
    assert first.level == "ok"
    assert second == Finding("note", "thing", "could not be checked (KeyError: 'x')")
    assert run_check("thing", fails(ImportError("No module named 'yaml'")))[1].level == "problem"
    denied = PermissionError(errno.EACCES, "Permission denied", "/proc/1")
    assert "(PermissionError: /proc/1: Permission denied)" in run_check("thing", fails(denied))[1].text
    begun = time.monotonic()
    hung = run_check("thing", lambda: time.sleep(5) or [], seconds=0.1)
    assert [f.level for f in hung] == ["problem"]
    assert "no answer within 0.1 seconds" in hung[0].text
    assert time.monotonic() - begun < 2


def test_an_answer_from_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with Child("platform:python_version") as asked:
        assert asked.result(20) == platform.python_version()
    with Child("builtins:print", "not the answer") as asked:  # libraries print what they like
        assert asked.result(20) is None
    monkeypatch.setenv("TUNE_SWA_GIVEN", "here")
    with Child("os:getenv", "TUNE_SWA_GIVEN", environment={"TUNE_SWA_GIVEN": "there"}) as asked:
        assert asked.result(20) == "there"
    with Child("builtins:len", "x" * 1_000_000) as asked:  # more than a pipe or a command line holds
        assert asked.result(20) == 1_000_000


@pytest.mark.parametrize(
    ("function", "argument", "seconds", "message"),
    [
        ("os:abort", None, 20, "its process crashed: Aborted"),
        ("sys:exit", "out of luck", 20, "its process ended with exit code 1: out of luck"),
        ("os:listdir", "/nowhere", 20, "FileNotFoundError: /nowhere: No such file or directory"),
        ("nothing:nothing", None, 20, "ModuleNotFoundError: No module named 'nothing'"),
        ("time:sleep", 30, 0.3, "no answer within 0.3 seconds"),
    ],
)
def test_a_process_of_its_own_that_fails(function: str, argument: Any, seconds: float, message: str) -> None:
    given = [] if argument is None else [argument]
    with Child(function, *given) as asked, pytest.raises(ChildError) as caught:
        asked.result(seconds)
    assert str(caught.value) == message


def test_nothing_is_left_of_a_process_that_is_not_waited_for() -> None:
    with Child("time:sleep", 30) as asked:
        pid = asked.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ------------------------------------------------------------------------------ Python and packages


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    have: dict[str, str | None] = {}

    def version(name: str) -> str:
        found = have.get(name, real(name))
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = one(packages.check_packages())
    assert found.level == "ok"
    assert f"torch {real('torch')}" in found.text
    have = {"optuna": "4.2.0", "cmaes": None}
    texts = {f.text: f.remedy for f in packages.check_packages()}
    assert len(texts) == 2
    assert texts["cmaes is not installed"] == "Run: pip install 'cmaes>=0.12'"
    assert any(text.startswith("optuna is 4.2.0, but tune_swa needs ") for text in texts)


def test_a_package_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert one(packages.check_packages()).level == "note"


# ------------------------------------------------------------------------------ cores and memory


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the system tells of a computer with 4 cores and 32 GB, of which 24 are free."""
    monkeypatch.setattr(slots, "usable_cores", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 32000000 kB\nMemAvailable: 24000000 kB\n")
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    return tmp_path


def control_groups(root: Path, membership: str, files: dict[str, str]) -> None:
    (root / "proc" / "self" / "cgroup").write_text(membership)
    for name, content in files.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_computer_without_limits(computer: Path) -> None:
    assert one(machine.check_cores(computer)) == Finding("ok", "CPU", "4 of 4 cores may be used")
    assert one(machine.check_memory(computer)) == Finding("ok", "memory", "24.6 GB of 32.8 GB are free")


VERSION_1 = {
    "cpu/docker/x/cpu.cfs_quota_us": "-1\n",
    "cpu/docker/cpu.cfs_quota_us": "150000\n",
    "cpu/docker/cpu.cfs_period_us": "100000\n",
    "memory/job/memory.limit_in_bytes": str(4 * GB),
    "memory/job/memory.usage_in_bytes": str(3 * GB),
    "memory/job/memory.stat": f"cache 5\ntotal_inactive_file {GB}\n",
    "memory/memory.limit_in_bytes": "9223372036854771712",
    "memory/memory.usage_in_bytes": "7",
}
VERSION_2 = {
    "a/b/cpu.max": "max 100000\n",
    "a/cpu.max": "150000 100000\n",
    "a/b/memory.max": str(4 * GB),
    "a/b/memory.current": str(3 * GB),
    "a/b/memory.stat": f"anon 5\ninactive_file {GB}\n",
    "a/memory.max": "max",
}


@pytest.mark.parametrize(
    ("membership", "files"),
    [("5:memory:/job\n4:cpu,cpuacct:/docker/x\n0::/\n", VERSION_1), ("0::/a/b\n", VERSION_2)],
    ids=["version 1", "version 2"],
)
def test_the_limits_of_a_container(computer: Path, membership: str, files: dict[str, str]) -> None:
    control_groups(computer, membership, files)
    found = one(machine.check_cores(computer))
    assert found.level == "ok"
    assert found.text.endswith("the container's quota is 1.5: a search plans for 1")
    found = one(machine.check_memory(computer))
    assert (found.level, found.text.partition(":")[0]) == (
        "note",
        "2 GB of 4 GB are free (the container's limit)",
    )


def test_too_little_memory(computer: Path) -> None:
    (computer / "proc" / "meminfo").write_text("MemTotal: 2000000 kB\nMemAvailable: 400000 kB\n")
    assert one(machine.check_memory(computer)).level == "problem"


def test_shared_memory(computer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 16 * GB)
    assert one(machine.check_shared_memory(computer)).level == "ok"
    free(monkeypatch, 64_000_000)
    found = one(machine.check_shared_memory(computer))
    assert (found.level, found.remedy) == ("note", "In a container: docker run --shm-size=8.1g")
    monkeypatch.undo()
    (computer / "dev" / "shm").rmdir()
    assert one(run_check("x", lambda: machine.check_shared_memory(computer))).level == "note"


# ------------------------------------------------------------------------------ places to write to

FOLDERS = ["results", "image cache", "temporary"]


def check_folder(area: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Finding:
    monkeypatch.setenv("TUNE_SWA_CACHE", str(folder))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    check = {
        "results": lambda: folders.check_results_folder(folder),
        "image cache": folders.check_cache_folder,
        "temporary": folders.check_ray_folder,
    }[area]
    return one(check())


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary one, whatever the tests run on."""
    free(monkeypatch, 50 * GB)
    monkeypatch.setattr(folders, "find_file_system", lambda path: "ext4")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, as Ray wants it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="d") as folder:
        yield Path(folder)


@pytest.mark.parametrize("area", FOLDERS)
def test_a_place_that_is_fine(area: str, place: Path, disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_folder(area, place, monkeypatch)
    assert found.level == "ok"
    assert "50 GB free; writing" in found.text
    assert list(place.iterdir()) == []
    found = check_folder(area, place / "a" / "b", monkeypatch)
    assert "will be made" in found.text
    assert list(place.iterdir()) == []  # nothing is made before it is needed


@pytest.mark.parametrize("area", FOLDERS)
def test_a_place_that_cannot_be_written(
    area: str, place: Path, disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("")
    found = check_folder(area, place / "file" / "x", monkeypatch)
    assert found.level == "problem"
    assert found.text.endswith(f"x cannot be used ({place}/file: Not a directory)")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    found = check_folder(area, place, monkeypatch)
    assert found.level == "problem"
    assert "No space left on device" in found.text
    assert [path.name for path in place.iterdir()] == ["file"]


@pytest.mark.parametrize("area", FOLDERS)
def test_a_place_that_is_full(area: str, place: Path, disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 90_000_000)
    found = check_folder(area, place, monkeypatch)
    assert found.level == "problem"
    assert "90 MB free" in found.text
    free(monkeypatch, 900_000_000)
    assert check_folder(area, place, monkeypatch).level == "note"


def test_a_file_system_without_locks(tmp_path: Path, disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    found = one(folders.check_results_folder(tmp_path))
    assert found.level == "problem"
    assert "no locks (No locks available)" in found.text
    monkeypatch.setattr(fcntl, "flock", lambda file, operation: None)
    found = one(folders.check_results_folder(tmp_path))
    assert found.level == "problem"
    assert "one lock to two at once" in found.text
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())
    assert one(folders.check_ray_folder()).level == "ok"  # Ray wants none there


def test_a_folder_that_ray_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    found = one(folders.check_ray_folder())
    assert found.level == "problem"
    assert found.text.startswith("RAY_TMPDIR=")


@pytest.mark.parametrize(
    ("kind", "text"),
    [("nfs4", "a network file system"), ("tmpfs", "restarted"), ("overlay", "the container is removed")],
)
def test_kinds_of_file_systems(
    kind: str, text: str, tmp_path: Path, disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "find_file_system", lambda path: kind)
    found = one(folders.check_results_folder(tmp_path))
    assert found.level == "note"
    assert text in found.text


def test_which_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    here = tmp_path / "my images"
    here.mkdir()
    point = str(here).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {point} nfs4 rw,relatime 0 0\n")
    assert folders.find_file_system(here, mounts) == "nfs4"
    assert folders.find_file_system(tmp_path, mounts) == "ext4"
    assert folders.find_file_system(here, tmp_path / "nothing") == "unknown file system"


def test_storage(tmp_path: Path) -> None:
    assert one(folders.check_storage(str(tmp_path))).level == "ok"
    assert list(tmp_path.iterdir()) == []
    found = one(run_check("storage", lambda: folders.check_storage("/proc/nothing"), "See it"))
    assert found.level == "problem"
    assert "--storage /proc/nothing: cannot be written to" in found.text


# ------------------------------------------------------------------------------ torch and GPUs

GPU = Gpu("Card", 80 * GB, 79 * GB, "9.0", bf16=True)
FINE = TorchFacts(cuda="13.0")
SURVEY = GpuSurvey(cuda="13.0", driver_cuda="13.1", gpus=(GPU,))
DRIVER = GpuSurvey(cuda="13.0", driver_cuda="13.1")


@pytest.mark.parametrize(
    ("survey", "level", "text"),
    [
        (SURVEY, "ok", "Card, 80 GB, compute capability 9.0, bf16; a training step works"),
        (replace(SURVEY, gpus=(replace(GPU, bf16=False),)), "ok", "no bf16, so fp16 or fp32 is used"),
        (replace(SURVEY, gpus=(replace(GPU, free=9 * GB),)), "note", "only 9 GB are free"),
        (replace(SURVEY, gpus=(replace(GPU, error="no kernel image"),)), "problem", "it (no kernel image)"),
        (
            replace(SURVEY, gpus=(Gpu("MIG-5", 0, 0, "", bf16=False, error="CUDA finds no such GPU"),)),
            "problem",
            "MIG-5: torch cannot train on it (CUDA finds no such GPU)",
        ),
        (GpuSurvey(), "note", "none that torch can use; searches run on the CPU"),
        (
            replace(DRIVER, error="Torch not compiled with CUDA enabled"),
            "note",
            "a driver (CUDA 13.1), but no",
        ),
        (replace(DRIVER, hidden=True), "note", "CUDA_VISIBLE_DEVICES"),
        (replace(DRIVER, error="No CUDA GPUs are available"), "note", "a driver (CUDA 13.1), but no GPU"),
        (
            replace(DRIVER, driver_cuda="12.4", error="The NVIDIA driver on your system is too old (found"),
            "problem",
            "the driver of the GPUs is too old: it serves up to CUDA 12.4, and torch is built with CUDA 13.0",
        ),
        (replace(DRIVER, error="no answer within 120 seconds"), "problem", "CUDA cannot be used (no answer"),
    ],
)
def test_gpus(survey: GpuSurvey, level: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = one(torch_check.check_gpus(survey))
    assert found.level == level
    assert text in found.text


def test_a_machine_without_a_driver() -> None:
    found = one(torch_check.check_gpus(GpuSurvey()))
    assert found.remedy is not None
    assert "install its driver; in a container: docker run --gpus all" in found.remedy


def test_torch_itself() -> None:
    assert torch_check.check_cpu(FINE) == Finding("ok", "torch", "trains on the CPU; built with CUDA 13.0")
    assert torch_check.check_cpu(TorchFacts(cpu_error="illegal")).level == "problem"
    found = torch_check.check_cpu(TorchFacts(torchvision_error="operator torchvision::nms does not exist"))
    assert found.level == "problem"
    assert found.remedy is not None
    assert "pip install" in found.remedy


def test_a_step_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_probe._train_a_step("cpu") is None
    assert torch_probe._train_a_step("cpu", "bf16") is None
    assert torch_probe._train_a_step("cuda:99")
    real = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *given: real(*given) * 1.01)
    assert torch_probe._train_a_step("cpu") == "a convolution in fp32 gives wrong numbers"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpus_of_this_machine() -> None:
    found = survey_gpus()
    assert found.driver_cuda is not None
    assert found.driver is not None
    assert len(found.gpus) == torch.cuda.device_count()
    assert [gpu.error for gpu in found.gpus] == [None] * len(found.gpus)


def test_the_driver() -> None:
    assert torch_probe.driver_cuda("libnothing-of-this-name.so") is None
    assert torch_probe.driver_cuda("libc.so.6") is None
    assert torch_probe.driver_version("libnothing-of-this-name.so") is None
    assert torch_probe.driver_version("libc.so.6") is None


# ------------------------------------------------------------------------------ the network


# ------------------------------------------------------------------------------ images


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 12 training and 6 test images in two classes, and an empty cache."""
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path / "cache"))
    for part, count in (("train", 6), ("test", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (9, 9), (i, 9 * i, 5)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_the_folder_of_images(photos: Path) -> None:
    found = one(contents.check_image_folder(photos))
    assert found.level == "ok"
    assert "12 training, 0 validation, 6 test images in 2 classes (cat, dog)" in found.text
    assert not cache.cache_folder().exists()
    assert one(contents.check_image_folder(photos / "none")).level == "problem"
    assert "is a file" in one(contents.check_image_folder(photos / "train" / "cat" / "0.png")).text
    found = one(contents.check_image_folder(photos / "train" / "cat"))
    assert found.level == "note"
    assert "no images were found in folders of classes" in found.text


def test_the_cache(photos: Path) -> None:
    assert one(contents.check_cached_images()) == Finding(
        "ok", "image cache", "sets of decoded images: 0 (0 bytes)"
    )
    first = prepare_dataset(DataSpec(dataset="folder", image_size=8), photos).cache_path
    assert first is not None
    entries = [first.with_name(24 * digit) for digit in "abcd"]
    for entry in entries:
        shutil.copytree(first, entry)
    assert one(contents.check_cached_images()).text.startswith("sets of decoded images: 5 (")
    flipped, torn, old, _ = entries
    pixels = np.load(flipped / cache.IMAGES, mmap_mode="r+")
    pixels[0, 0, 0, 0] ^= 1
    pixels.flush()
    with (torn / cache.IMAGES).open("r+b") as file:
        file.truncate(100)
    meta = json.loads((old / cache.META).read_text())
    (old / cache.META).write_text(json.dumps({**meta, "format": cache.FORMAT - 1}))
    half = old.with_name(f".{old.name}.new")
    half.mkdir()
    whole, useless = contents.check_cached_images()
    assert whole.text.startswith("sets of decoded images: 2 (")
    assert useless.level == "note"
    assert {"1 half written", "2 damaged", "1 other version"} == set(
        useless.text.partition(" (")[0].split(", ")
    )
    assert useless.remedy is not None
    assert {str(folder) for folder in (flipped, torn, old, half)} <= set(useless.remedy.split())
    assert str(entries[3]) not in useless.remedy
    with turn(old.with_name(f"{old.name}.lock")):  # somebody is writing it
        assert "half written" not in list(contents.check_cached_images())[1].text


# ------------------------------------------------------------------------------ Ray


def process(proc: Path, pid: int, parent: int, name: str, command: str, state: str = "S") -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {state} {parent} 1 1 0 -1")
    (proc / str(pid) / "cmdline").write_bytes(command.encode() + b"\0x\0")


def test_rays_that_run(tmp_path: Path) -> None:
    process(tmp_path, 1, 0, "init", "/sbin/init")
    process(tmp_path, 7, 1, "a (b) c", "/usr/bin/thing")
    process(tmp_path, 90, 1, "raylet", "", state="Z")
    (tmp_path / "91").mkdir()  # has just ended
    assert one(ray_check.check_processes(tmp_path)) == Finding("ok", "Ray", "no Ray runs on this machine")
    process(tmp_path, 20, 1, "python3", "/opt/venv/bin/python3.11")
    for pid, name in ((21, "gcs_server"), (22, "raylet")):
        process(tmp_path, pid, 20, name, "/ray/x")
    found = one(ray_check.check_processes(tmp_path))
    assert (found.level, found.text) == ("ok", "in use by process 20; a search would share this machine")
    for pid, name in ((31, "gcs_server"), (32, "raylet")):
        process(tmp_path, pid, 1, name, "/ray/x")
    _, left = ray_check.check_processes(tmp_path)
    assert left.level == "note"
    assert left.remedy is not None
    assert "kill 31 32." in left.remedy


def test_no_cluster() -> None:
    found = one(run_check("cluster", lambda: ray_check.check_cluster("127.0.0.1:1"), "See the docs"))
    assert found.level == "problem"
    assert "no Ray cluster answers there" in found.text


@pytest.mark.parametrize(
    ("question", "level"),
    [
        (["builtins:str", "127.0.0.1"], "ok"),
        (["builtins:str", "192.0.2.1"], "problem"),
        (["os:listdir", "/nowhere"], "problem"),
    ],
)
def test_a_start_of_ray(question: list[str], level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one is part of the whole command, below."""
    monkeypatch.setattr(ray_check, "Child", lambda _: Child(*question))
    assert one(run_check("Ray", ray_check.check_start, "See the logs")).level == level


# ------------------------------------------------------------------------------ the whole command


def test_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    shown = findings.print_findings(
        iter([Finding("ok", "CPU", "2 of 2"), Finding("problem", "results", "full", "Free space")])
    )
    print(findings.summarize_findings(shown))
    assert capsys.readouterr().out == (
        "ok       CPU            2 of 2\n"
        "problem  results        full\n"
        "         -> Free space\n"
        "1 problem: a search would not run here as it should. What to do is below each.\n"
    )


def test_the_text_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    findings.print_findings([Finding("problem", "results", "[/x] is " + "very " * 20 + "full", "Free space")])
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert lines[0].startswith("problem  results        [/x] is very")
    assert all(line.startswith(" " * 24) for line in lines[1:])
    assert "-> Free space" in lines[-1]
    assert max(map(len, lines)) <= 60


def test_a_machine_with_everything_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    monkeypatch.setattr(checks, "Child", lambda _: Child("os:abort"))
    below = str(tmp_path / "file" / "results")
    code = main(["doctor", "--results-dir", below, "--data-dir", below, "--storage", below])
    out = capsys.readouterr().out
    assert code == 1
    assert "Traceback" not in out
    lines = out.splitlines()
    areas = {line[9:23].strip() for line in lines if line.startswith("problem")}
    assert areas >= {"results", "image cache", "temporary", "images", "storage", "torch"}
    for line, following in itertools.pairwise(lines):
        if line.startswith("problem"):
            assert following.strip().startswith("-> ")
    assert "torch          its process crashed: Aborted" in out
    assert " problems: a search would not run here" in lines[-1]


def test_the_command(tmp_path: Path) -> None:
    """As it is typed, with a real torch and a real Ray."""
    result = subprocess.run(
        [sys.executable, "-m", "tune_swa", "doctor", "--ray", "--results-dir", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TUNE_SWA_CACHE": str(tmp_path / "cache")},
    )
    assert result.stderr == ""
    assert "Traceback" not in result.stdout
    *lines, empty, last = result.stdout.splitlines()
    assert empty == ""
    findings = [line for line in lines if not line.startswith("         -> ")]
    levels = [line[:9].strip() for line in findings]
    assert set(levels) <= {"ok", "note", "problem"}
    assert result.returncode == int("problem" in levels), result.stdout
    assert ("No problem found" in last) == (result.returncode == 0)
    areas = list(dict.fromkeys(line[9:24].strip().rstrip("0123456789 ") for line in findings))
    assert areas == [
        "packages", "CPU", "memory", "shared memory", "results", "image cache", "temporary", "torch", "GPU",
        "Ray",
    ]  # fmt: skip
    assert any("starts on the loopback interface, and runs a task" in line for line in findings)
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_facts_travel_as_json() -> None:
    assert GpuSurvey.from_dict(json.loads(json.dumps(asdict(SURVEY)))) == SURVEY
