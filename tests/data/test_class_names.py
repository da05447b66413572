"""Names of classes: in any script, under any normal form, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from helpers.drawn_images import draw_tree, folder_spec
from helpers.empty_images import touch_images
from tune_swa.config import DataSpec
from tune_swa.config.yaml_file import load_experiment
from tune_swa.data.dataset import estimate_dataset, prepare_dataset
from tune_swa.data.source_lookup import find_source
from tune_swa.errors import RequestError
from tune_swa.execution.dry_run import make_plan
from tune_swa.execution.plan_table import print_plan
from tune_swa.execution.slots import Machine

WRITABLE = {
    "zero-width non-joiner": "می‌خواهم",
    "ideographic space": "東京　タワー",
    "emoji with joiners": "👩‍🔬",
    "no-break space": "blanc\u00a0noir",
    "right-to-left mark": "שלום\u200f",
    "soft hyphen": "co\u00adop",
    "markup": "[bold]x[bold] <b> & $x^2$",
    "private use": "\ue000",
}


@pytest.mark.parametrize("name", WRITABLE.values(), ids=WRITABLE.keys())
def test_names_in_all_scripts_are_kept_as_they_are(name: str, tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2}, classes=("a", name))
    for _ in range(2):  # decoded, and from the cache
        assert set(prepare_dataset(folder_spec(), tmp_path).class_names) == {"a", name}
    assert name in print_the_plan(tmp_path)["classes"]


def print_the_plan(folder: Path) -> dict[str, str]:
    """Rows of the plan of a search over the images in `folder`."""
    (folder / "space.yaml").write_text(
        "name: x\ndata: {dataset: folder, image_size: 16}\ntrain: {epochs: 3}\n"
        "space: {lr: 1e-3, swa_start: 0, swa_lr: 1e-3}\n"
    )
    experiment = load_experiment(folder / "space.yaml")
    console = Console(file=StringIO(), width=1000)
    print_plan(console, make_plan(experiment, folder, machine=Machine(gpus=0, cpus=2)))
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    return {line[:16].strip(): line[16:].strip() for line in lines if line[:16].strip()}


def test_hundreds_of_names_are_cut_in_the_plan(tmp_path: Path) -> None:
    touch_images(tmp_path, *(f"{i:03}" for i in range(200)), count=8)
    shown = print_the_plan(tmp_path)["classes"]
    assert shown.startswith("000, 001, 002")
    assert shown.endswith("and 160 more")


def test_classes_of_other_sets_are_in_the_plan_where_they_are_known(tmp_path: Path) -> None:
    assert estimate_dataset(DataSpec(image_size=8)).class_names == tuple("0123456789")
    assert estimate_dataset(DataSpec(dataset="flowers102"), tmp_path).class_names == ()


@pytest.mark.parametrize("first", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_one_class(first: str, tmp_path: Path) -> None:
    second = "NFD" if first == "NFC" else "NFC"
    forms = {form: unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD")}
    draw_tree(tmp_path, {"train": 5}, classes=("Ameise", forms[first]))
    draw_tree(tmp_path, {"test": 2}, classes=("Ameise", forms[second]))
    data = prepare_dataset(folder_spec(), tmp_path)
    assert data.class_names == ("Ameise", forms[first])
    assert list(data.labels[data.test]) == [0, 0, 1, 1]


def test_names_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    touch_images(tmp_path, "train/{Ameise,Käfer}", "test/{Ameise,Käfer}")
    program = (
        "import sys\nfrom pathlib import Path\nfrom tune_swa.data.folders import ImageFolders\n"
        "assert sys.getfilesystemencoding() == 'ascii', sys.getfilesystemencoding()\n"
        "source = ImageFolders(Path(sys.argv[1]))\n"
        "assert source.list_images().class_names == ('Ameise', 'K\\xe4fer')\n"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program, tmp_path], env={**os.environ, **plain}, check=True)


def test_the_same_name_twice_in_one_folder_is_refused(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        touch_images(tmp_path, unicodedata.normalize(form, "Käfer"), "Ameise")
    with pytest.raises(RequestError, match="differ in their way of writing accents .* one folder"):
        prepare_dataset(folder_spec(), tmp_path)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"c\nd", r"c\\nd holds characters that control a terminal"),
        (b"\x1b[31mred", r"\\x1b\[31mred holds characters that control a terminal"),
        (b"tab\tbed", r"tab\\tbed holds characters"),
        ("Käfer".encode("latin-1"), r"K\\xe4fer holds bytes that are not UTF-8"),
    ],
)
def test_names_that_cannot_be_kept_are_refused_and_shown_on_one_line(
    name: bytes, shown: str, tmp_path: Path
) -> None:
    touch_images(tmp_path, "a", os.fsdecode(name))
    with pytest.raises(RequestError, match=rf"the name of the class {shown}.*Rename the folder$") as caught:
        prepare_dataset(folder_spec(), tmp_path)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("train", "test", "shown"),
    [
        ("sea", "sea ", r"sea missing; 'sea ' not in train"),
        ("red\u00a0sea", "red sea", r"red\\xa0sea missing; red sea not in train"),
        ("sea\u200d", "sea", r"sea\\u200d missing; sea not in train"),
    ],
)
def test_names_that_look_the_same_are_told_apart(train: str, test: str, shown: str, tmp_path: Path) -> None:
    touch_images(tmp_path, f"train/{{ant,{train}}}", f"test/{{ant,{test}}}")
    with pytest.raises(RequestError, match=shown):
        prepare_dataset(folder_spec(), tmp_path)


def test_a_class_of_two_images_is_named_with_its_count(tmp_path: Path) -> None:
    touch_images(tmp_path, "{aardvark,bee}", count=40)
    touch_images(tmp_path, "rare_newt", count=2)
    with pytest.raises(RequestError) as caught:
        estimate_dataset(folder_spec(), tmp_path)
    assert "rare_newt has 2, 1 of them left to draw from. At least 3 images of each class" in str(
        caught.value
    )
    touch_images(tmp_path, "rare_newt", count=3)  # as advised
    assert estimate_dataset(folder_spec(), tmp_path).num_classes == 3


def test_a_class_of_one_image_with_a_test_set_of_its_own(tmp_path: Path) -> None:
    touch_images(tmp_path, "{train,test}/{ant,bee}", count=10)
    touch_images(tmp_path, "{train,test}/newt", count=1)
    with pytest.raises(RequestError, match="newt has 1. At least 2 images of each class are needed"):
        estimate_dataset(folder_spec(), tmp_path)
    touch_images(tmp_path, "train/newt", count=2)
    assert estimate_dataset(folder_spec(), tmp_path).test == 21


def test_a_class_in_one_part_alone_is_named(tmp_path: Path) -> None:
    touch_images(tmp_path, "{train,test}/{ant,bee}", "train/newt")
    with pytest.raises(RequestError, match="test: its classes differ from those of .*: newt missing"):
        find_source(folder_spec(), tmp_path).list_images()


def test_a_folder_that_is_not_utf8_above_the_classes(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4"))
    draw_tree(root, {"train": 5, "test": 2})
    with pytest.raises(RequestError, match=r"/\\xe4: the path holds bytes that are not UTF-8.*a link to it"):
        prepare_dataset(folder_spec(), root)
    (tmp_path / "link").symlink_to(root)
    data = prepare_dataset(folder_spec(), tmp_path / "link")
    assert len(data.train) == 12
    data.name.encode()
    "".join(data.folder_notes).encode()
