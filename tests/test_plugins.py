"""Loading the modules that `--plugin` names, here and in workers, and what is wrong with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.plugin_files import DRAWN, SMALL_NETWORK, write_plugin
from tune_swa import plugins
from tune_swa.cli.plugin_options import load_named_plugins
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.plugin_files import PluginSource


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for source in plugins.list_sources():
        plugins.forget_plugin(source.name)


def test_a_module_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what lies beside it, also one of a package."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "inner.py").write_text("from . import beside\n" + DRAWN)
    (tmp_path / "pack" / "beside.py").write_text("import other_file\n")
    (tmp_path / "other_file.py").write_text("")
    write_plugin(tmp_path, DRAWN.replace('"drawn"', '"second"'), "my_module_x")
    plugins.load_plugins(["pack.inner", "my_module_x"])
    assert plugins.list_datasets() == ("drawn", "second")
    described = plugins.describe_sources()
    assert described["pack.inner"]["datasets"] == ["drawn"]
    assert described["my_module_x"]["file"] == str(tmp_path / "my_module_x.py")
    assert described["my_module_x"]["option"] == "my_module_x"
    for name in ("pack.inner", "pack.beside", "pack", "other_file"):
        sys.modules.pop(name, None)


def test_a_worker_runs_what_the_driver_read(tmp_path: Path) -> None:
    """Whatever has become of the file, and once."""
    path = write_plugin(tmp_path, DRAWN)
    plugins.load_plugins([str(path)])
    [source] = plugins.list_sources()
    shipped = PluginSource(**json.loads(json.dumps(source.as_dict())))
    plugins.forget_plugin("own")
    assert plugins.list_datasets() == ()
    path.unlink()
    plugins.install_plugins([shipped])
    found = plugins.find_dataset("drawn")
    assert found is not None
    plugins.install_plugins([shipped])
    assert plugins.find_dataset("drawn") is found
    assert len(found.function()["train"][0]) == 60


def test_the_code_means_what_it_means_by_itself(tmp_path: Path) -> None:
    """Annotations are values there, as in any module without a future import."""
    text = DRAWN + "\n\ndef f(x: int): ...\n\n\nassert f.__annotations__ == {'x': int}\n"
    plugins.load_plugins([str(write_plugin(tmp_path, text))])


def test_names_that_tune_swa_has_are_refused(tmp_path: Path) -> None:
    experiment = Experiment.model_validate(
        {
            "name": "x",
            "averaging": {"anneal_epochs": 1},
            "space": {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3},
        }
    )
    for text, message in (
        (DRAWN.replace('"drawn"', '"cifar10"'), "cifar10 is a set that tune_swa has"),
        (SMALL_NETWORK.replace('"small"', '"resnet18"'), "resnet18 is a network of torchvision"),
    ):
        plugins.announce_plugins([str(write_plugin(tmp_path, text))])
        with pytest.raises(RequestError, match=message):
            load_named_plugins(experiment)


def test_files_may_be_called_like_modules(tmp_path: Path) -> None:
    import json as before

    plugins.load_plugins([str(write_plugin(tmp_path, DRAWN, "json"))])
    assert sys.modules["json"] is before
    assert plugins.list_datasets() == ("drawn",)


def test_a_file_may_have_dots_in_its_name(tmp_path: Path) -> None:
    plugins.load_plugins([str(write_plugin(tmp_path, DRAWN, "my.plugin"))])
    [source] = plugins.list_sources()
    assert (source.name, source.module) == ("my.plugin", "tune_swa_plugin_my_plugin")
    assert plugins.list_datasets() == ("drawn",)


def test_what_is_announced_in_one_thread_changes_nothing_in_another() -> None:
    """Two searches of a program may be checked at the same time."""
    plugins.announce_plugins(["./own.py"])
    try:
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(plugins.accepts_model, "tiny").result()
            pool.submit(plugins.announce_plugins, []).result()
        assert plugins.accepts_model("tiny")
    finally:
        plugins.announce_plugins([])


def test_a_program_finds_the_module_in_the_package() -> None:
    code = "import tune_swa; tune_swa.plugins.load_plugins([]); print('loaded')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "loaded\n"


def test_a_trials_error_names_the_line_of_the_users_code(tmp_path: Path) -> None:
    path = write_plugin(tmp_path, "def fail():\n    return [][1]\n")
    plugins.load_plugins([str(path)])
    with pytest.raises(IndexError) as error:
        sys.modules["tune_swa_plugin_own"].fail()
    assert plugins.describe_failure(error.value) == f"IndexError: list index out of range ({path}, line 2)"
    assert plugins.describe_failure(KeyError("x")) == "KeyError: 'x'"


def test_a_package_whose_own_code_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (text, message) in enumerate(
        [
            (
                "1 / 0\n",
                r"--plugin pack0.inner: ZeroDivisionError: division by zero \(.*__init__.py, line 1\)",
            ),
            (
                "import no_such_thing\n",
                "--plugin pack1.inner: ModuleNotFoundError: No module named 'no_such_th",
            ),
            ("", "--plugin pack2.inner: no module of that name"),
        ]
    ):
        (tmp_path / f"pack{number}").mkdir()
        (tmp_path / f"pack{number}" / "__init__.py").write_text(text)
        with pytest.raises(RequestError, match=message):
            plugins.load_plugins([f"pack{number}.inner"])
    with pytest.raises(RequestError, match="no home folder is known for ~nobody_of_this_name"):
        plugins.load_plugins(["~nobody_of_this_name/own.py"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import tune_swa\n\n1 / 0\n", "--plugin own: ZeroDivisionError: division by zero (FILE, line 3)"),
        ("def f(:\n", "--plugin own: SyntaxError: invalid syntax (FILE, line 1)"),
        ("import no_such_thing\n", "No module named 'no_such_thing' (FILE, line 1)"),
        ("raise SystemExit(3)\n", "--plugin own: SystemExit: 3 (FILE, line 1)"),
        (
            "import tune_swa\ntune_swa.register_dataset('a b', len)\n",
            "register_dataset: 'a b' is no name; use letters, digits and _.- (FILE, line 2)",
        ),
        (
            "import tune_swa\n\ntune_swa.register_dataset('a', 3)\n",
            "TypeError: register_dataset: a needs a function, got int (FILE, line 3)",
        ),
    ],
)
def test_errors_name_the_line_of_the_users_code(text: str, message: str, tmp_path: Path) -> None:
    path = write_plugin(tmp_path, text)
    with pytest.raises(RequestError) as error:
        plugins.load_plugins([str(path)])
    assert message.replace("FILE", str(path)) in str(error.value)
    assert "\n" not in str(error.value)
    assert plugins.list_sources() == ()


def test_a_module_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_plugin(tmp_path, DRAWN, "my_module_y")
    write_plugin(tmp_path, DRAWN, "json")
    with pytest.raises(RequestError, match=r"no module of that name in .*Did you mean my_module_y\?"):
        plugins.load_plugins(["my_modul_y"])
    with pytest.raises(RequestError, match=r"--plugin \.my_module_y: no module of that name"):
        plugins.load_plugins([".my_module_y"])
    with pytest.raises(RequestError, match="no such file"):
        plugins.load_plugins(["./my_modul_y.py"])
    with pytest.raises(
        RequestError, match=r"is loaded already.*Give the path of the file: --plugin .*/json.py"
    ):
        plugins.load_plugins(["json"])
    with pytest.raises(RequestError, match="is not a Python file"):
        plugins.load_plugins(["sys"])


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    """Ray cannot be told of it."""
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    with pytest.raises(RequestError, match="its path is not in UTF-8.*Move the file"):
        plugins.load_plugins([str(write_plugin(folder, DRAWN))])


def test_two_plugins_with_one_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = write_plugin(tmp_path, DRAWN), write_plugin(tmp_path / "other", DRAWN)
    three = write_plugin(tmp_path, DRAWN, "third")
    plugins.load_plugins([str(one), str(one)])
    with pytest.raises(RequestError, match="another one is called own"):
        plugins.load_plugins([str(one), str(two)])
    with pytest.raises(RequestError, match="drawn is registered already, by own"):
        plugins.load_plugins([str(one), str(three)])
    plugins.load_plugins([str(three)])  # another search of this process
    assert [source.name for source in plugins.list_sources()] == ["third"]
