"""Folders and object stores: the same files by the same names."""

from __future__ import annotations

import errno
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tune_swa import storage
from tune_swa.errors import RequestError
from tune_swa.storage import FolderStore, RemoteStore, Store, check_usable, open_store

PLACES: list[Callable[[Path], str]] = [
    lambda path: str(path),
    lambda path: f"file://{path}",  # by pyarrow
    lambda path: f"memory://{path.name}",  # by fsspec
]


@pytest.fixture(params=PLACES, ids=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    (tmp_path / "experiment").mkdir()
    return open_store(request.param(tmp_path), "experiment")


def put(store: Store, name: str, text: str) -> None:
    store.write(name, lambda path: path.write_text(text))


def read(store: Store, name: str) -> str:
    with store.local(name) as path:
        return path.read_text()


def test_files_by_name(store: Store) -> None:
    assert store.names("checkpoints/a") == []
    put(store, "checkpoints/a/epoch-1", "one")
    put(store, "checkpoints/a/epoch-0", "zero")
    put(store, "checkpoints/b/epoch-0", "other")
    put(store, "checkpoints/a/epoch-1", "one, again")
    assert store.names("checkpoints/a") == ["epoch-0", "epoch-1"]
    assert store.names("checkpoints") == []
    assert store.folders("checkpoints") == ["a", "b"]
    assert store.folders("checkpoints/a") == store.folders("nowhere") == []
    assert read(store, "checkpoints/a/epoch-1") == "one, again"
    store.remove("checkpoints/a/epoch-0")
    store.remove("checkpoints/a/never there")
    assert store.names("checkpoints/a") == ["epoch-1"]
    with pytest.raises(FileNotFoundError):
        read(store, "checkpoints/a/epoch-0")


def test_keeping_some_files_of_a_folder(store: Store) -> None:
    for name in ("epoch-0", "epoch-1", "epoch-2"):
        put(store, f"trial/{name}", name)
    store.keep_only("trial", {"epoch-1"})
    assert store.names("trial") == ["epoch-1"]
    store.keep_only("trial", set())
    store.keep_only("never there", set())
    assert store.names("trial") == []


def test_a_failed_write_changes_nothing(store: Store) -> None:
    put(store, "a", "whole")

    def fail(path: Path) -> None:
        path.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.write("a", fail)
    assert read(store, "a") == "whole"
    assert store.names("") == ["a"]
    if isinstance(store, FolderStore):
        assert [p.name for p in store.root.iterdir()] == ["a"]


def test_what_a_kill_left_half_written_is_tidied(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    put(store, "trial/epoch-1", "one")
    (tmp_path / "trial" / ".epoch-2.77.tmp").write_text("ha")
    assert store.names("trial") == ["epoch-1"]
    store.keep_only("trial", {"epoch-1"})
    assert [p.name for p in (tmp_path / "trial").iterdir()] == ["epoch-1"]


def test_stores_travel_to_workers(tmp_path: Path) -> None:
    for where in (str(tmp_path), f"file://{tmp_path}"):
        store = open_store(where)
        put(store, "a", where)
        again = pickle.loads(pickle.dumps(store))
        assert read(again, "a") == where
        assert again.where == where


def test_a_network_that_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.0)
    store = RemoteStore(f"file://{tmp_path}")
    real, calls = storage._connect(f"file://{tmp_path}"), []

    class Shaky:
        def __getattr__(self, name: str) -> object:
            calls.append(name)
            if name == "open_output_stream" and calls.count(name) < 3:
                raise RuntimeError("connection reset")
            return getattr(real[0], name)

    monkeypatch.setattr(storage, "_connect", lambda uri: (Shaky(), real[1]))
    put(store, "a", "through")
    assert read(store, "a") == "through"
    assert calls.count("open_output_stream") == 3
    calls.clear()
    monkeypatch.setattr(storage, "ATTEMPTS", 2)
    with pytest.raises(OSError, match="connection reset"):  # whatever the file system's own error is
        put(store, "a", "not through")


def test_a_full_disk_here_is_not_blamed_on_a_store_elsewhere(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with pytest.raises(OSError, match="No space left") as raised:
        open_store("memory://x").write("a", full)
    assert raised.value.strerror == (
        f"No space left on device in {tempfile.gettempdir()}, where uploads are made ready (TMPDIR names "
        "another place)"
    )


def test_a_place_is_written_in_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    same = ["shared", "./shared/", f"{tmp_path}/shared", f"{tmp_path}//below/../shared"]
    assert {storage.resolved(where) for where in same} == {str(tmp_path / "shared")}
    assert storage.resolved("s3://bucket/x/") == storage.resolved("s3://bucket/x") == "s3://bucket/x"
    assert storage.resolved("memory://") == "memory://"
    assert open_store("memory://", "x").where == "memory:///x"
    with pytest.raises(RequestError, match=r"--storage ~nobody-here/x: no home folder .* whole path"):
        storage.resolved("~nobody-here/x")


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("/proc/nothing", "No such file"),
        ("nosuch://bucket/x", "Protocol not known: nosuch"),
        ("abfs://container/x", "Install adlfs"),
        ("oci://x/y", "Install ocifs"),
        ("s3://", "s3"),
        ("github://x/y", ""),
    ],
)
def test_a_store_that_cannot_be_used(where: str, why: str) -> None:
    with pytest.raises(RequestError, match=f"--storage {where}.*{why}.*every machine"):
        check_usable(open_store(where), "--storage")


def test_a_usable_store_is_left_as_it_was(store: Store) -> None:
    check_usable(store, "--storage")
    assert store.names("") == []
