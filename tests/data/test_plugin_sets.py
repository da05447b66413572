"""Sets of images that a plugin loads: what they become, and one clear message for each mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.plugin_files import DRAWN, loaded_plugin
from tune_swa import plugins
from tune_swa.config import DataSpec
from tune_swa.data.dataset import Dataset, estimate_dataset, prepare_dataset
from tune_swa.errors import RequestError

SETUP = """\
import numpy as np
import torch
from PIL import Image
import tune_swa

rng = np.random.default_rng(1)
images = rng.integers(0, 256, (40, 8, 8, 3)).astype("uint8")
labels = np.arange(40) % 2


class Items:
    def __init__(self, rows, pillow=True):
        self.rows, self.pillow = rows, pillow

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return (Image.fromarray(images[row]) if self.pillow else images[row]), int(labels[row])


"""
RETURN = SETUP + "tune_swa.register_dataset('own', lambda: {})\n"


def load_set(folder: Path, text: str, data_dir: Path | None = None, **spec: object) -> Dataset:
    given = {"dataset": "own", "image_size": 8, **spec}
    with loaded_plugin(folder, text):
        return prepare_dataset(DataSpec.model_validate(given), data_dir)


def test_arrays_are_divided_like_any_set(tmp_path: Path) -> None:
    data = load_set(tmp_path, DRAWN, dataset="drawn", image_size=9)
    assert (data.name, data.class_names) == ("drawn", ("low", "middle", "high"))
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (rng.integers(0, 120, (60, 9, 9, 3)) + 40 * labels[:, None, None, None]).astype("uint8")
    assert (data.images == images).all()
    assert (data.labels == labels).all()
    assert sorted([*data.train, *data.val, *data.test]) == list(range(60))


@pytest.mark.parametrize(
    "returned",
    [
        "{'train': Items(range(24)), 'val': Items(range(24, 32)), 'test': Items(range(32, 40), False)}",
        "{'train': (list(map(Image.fromarray, images[:24])), list(labels[:24])),"
        " 'val': (images[24:32], torch.tensor(labels[24:32])),"
        " 'test': (torch.tensor(images[32:]), labels[32:])}",
        "{'train': torch.utils.data.Subset(Items(range(40)), range(24)),"
        " 'val': Items(range(24, 32)), 'test': Items(range(32, 40))}",
    ],
    ids=["items", "pairs", "subset"],
)
def test_datasets_and_pairs_give_the_same_images(returned: str, tmp_path: Path) -> None:
    data = load_set(
        tmp_path, RETURN.format(returned) if "{}" not in RETURN else RETURN.replace("{}", returned)
    )
    images = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 3)).astype("uint8")
    assert (data.images == images).all()
    assert [list(data.train), list(data.val), list(data.test)] == [
        list(range(24)),
        list(range(24, 32)),
        list(range(32, 40)),
    ]
    assert data.class_names == ("0", "1")


def test_a_loader_may_take_the_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", np.zeros((40, 8, 8, 3), dtype=np.uint8))
    text = SETUP + (
        "def read(folder):\n    return {'train': (np.load(folder / 'a.npy'), labels)}\n"
        "tune_swa.register_dataset('own', read)\n"
    )
    assert not load_set(tmp_path, text, tmp_path / "images").images.any()
    with pytest.raises(RequestError, match="takes no folder.*Leave that out"):
        load_set(tmp_path, RETURN.replace("{}", "{'train': (images, labels)}"), tmp_path / "images")


def test_a_copy_of_a_project_has_images_of_its_own(tmp_path: Path) -> None:
    text = SETUP + (
        "from pathlib import Path\n"
        "def read():\n    return {'train': (np.load(Path(__file__).with_name('a.npy')), labels)}\n"
        "tune_swa.register_dataset('own', read)\n"
    )
    for value in (0, 7):
        folder = tmp_path / str(value)
        folder.mkdir()
        np.save(folder / "a.npy", np.full((40, 8, 8, 3), value, dtype=np.uint8))
        assert (load_set(folder, text).images == value).all()


def test_images_are_decoded_once_while_the_code_is_the_same(tmp_path: Path) -> None:
    counted = SETUP + (
        "from pathlib import Path\n"
        "calls = Path(__file__).with_name('calls')\n"
        "def read():\n    calls.write_text(calls.read_text() + 'x' if calls.exists() else 'x')\n"
        "    return {'train': (images, labels)}\n"
        "tune_swa.register_dataset('own', read, version='1')\n"
    )
    fingerprints = [load_set(tmp_path, counted).fingerprint for _ in range(2)]
    assert fingerprints[0] == fingerprints[1]
    assert (tmp_path / "calls").read_text() == "x"
    load_set(tmp_path, counted.replace("version='1'", "version='2'"))
    assert (tmp_path / "calls").read_text() == "xx"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[images, labels]", r"own.py\): its loader has to return a dictionary with train, .*; got list"),
        ("{'training': (images, labels)}", r"got \['training'\]"),
        ("{'train': (images, labels), 'valid': None}", "valid is none of these"),
        ("{'train': 3}", "train: expected a map-style dataset, or a pair of images and labels; got int"),
        ("{'train': (images, labels[:-1])}", "train: 40 images and 39 labels"),
        ("{'train': (images / 255, labels)}", r"float64 \[40, 8, 8, 3\], expected uint8 \[N, H, W, 3\]"),
        ("{'train': (images.transpose(0, 3, 1, 2), labels)}", r"images are uint8 \[40, 3, 8, 8\]"),
        ("{'train': (images, labels / 2)}", r"have to be one whole number for each image; got float64"),
        ("{'train': (images, labels - 1)}", r"train\[0\]: label -1 is below 0"),
        ("{'train': (images, labels), 'class_names': ['a']}", r"train\[1\]: label 1, but there are 1 class"),
        ("{'train': [1, 2, 3]}", r"train\[0\]: expected \(image, label\).*; got int"),
        ("{'train': Items([0, 1, 99])}", r"train\[2\]: IndexError: .*own.py, line 20\)"),
        ("{'train': [(images[i] / 255, i % 2) for i in range(40)]}",
         r"40 of 40 images cannot be decoded:\n  own: train\[0\] \(float64 \[8, 8, 3\], expected a PIL .*"
         "leave ToTensor out"),
        ("1 / 0", r"data.dataset: own: ZeroDivisionError: division by zero \(.*own.py, line 23\)"),
        ("{'train': (images[:0], labels[:0])}", "train: has no images"),
        ("{'train': (images, labels * 0)}", "at least two classes are needed, and it has 1"),
        ("{'train': ([Image.new('RGB', (0, 5)), *images[1:]], labels)}", r"train\[0\] \(it has no pixels\)"),
        ("{'train': ([*images[:-1], images[0][:0]], labels)}", r"train\[39\] \(it has no pixels\)"),
        ("{'train': None, 'test': (images, labels)}", r"to return .*; got \['test', 'train'\]"),
        ("{'train': (images, labels * 10**12)}",
         "go up to 1000000000000, and none is 1. Number the 2 classes from 0 to 1"),
        ("{'train': (images, labels + 1)}", "labels go up to 2, and none is 0"),
        ("{'train': (images, labels), 'class_names': 'ab'}", "class_names has to be a list of.*got str"),
        ("{'train': (images, labels), 'class_names': {0: 'a', 1: 'b'}}", "a list of names; got dict"),
        ("{'train': (images, labels), 'class_names': {'a', 'b'}}", "a list of names; got set"),
        ("{'train': type('Bad', (Items,), {'__len__': lambda self: 1 / 0})([])}",
         r"own: train: ZeroDivisionError: division by zero \(.*own.py, line 23\)"),
        ("{'train': (torch.empty(40, 8, 8, 3, dtype=torch.uint8, device='meta'), labels)}",
         "data.dataset: own: train: .*meta"),
    ],
)  # fmt: skip
def test_mistakes_are_named_by_item(returned: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        load_set(tmp_path, RETURN.replace("{}", returned))


def test_labels_of_a_list_are_compared_with_those_of_the_items(tmp_path: Path) -> None:
    text = SETUP + (
        "class Listed(Items):\n    targets = list(labels[:9]) + [0] + list(labels[10:])\n"
        "tune_swa.register_dataset('own', lambda: {'train': Listed(range(40))})\n"
    )
    with pytest.raises(
        RequestError, match=r"train\[9\] \(its label is 1, and 0 in the dataset's list of labels"
    ):
        load_set(tmp_path, text)


def test_skipping_every_image_is_no_way_out(tmp_path: Path) -> None:
    returned = "{'train': type('Gone', (Items,), {'targets': labels})(range(100, 140))}"
    for _ in range(2):  # as they are decoded, and from the cache
        with pytest.raises(
            RequestError, match="own: none of the training images can be decoded, so data.unr"
        ):
            load_set(tmp_path, RETURN.replace("{}", returned), unreadable="skip")


def test_names_that_a_dataset_calls_classes_may_be_something_else(tmp_path: Path) -> None:
    returned = "{'train': type('Counted', (Items,), {'classes': 2})(range(40))}"
    assert load_set(tmp_path, RETURN.replace("{}", returned)).class_names == ("0", "1")
    returned = "{'train': Items(range(40)), 'class_names': np.array(['a', '\\udcff'])}"
    assert load_set(tmp_path, RETURN.replace("{}", returned)).class_names == ("a", r"\udcff")


def test_a_set_of_no_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_datasets", {})
    plugins.register_dataset("mine", dict)
    with pytest.raises(
        RequestError, match="mine was registered outside of a plugin.*name that with --plugin"
    ):
        prepare_dataset(DataSpec(dataset="mine"))


def test_an_unknown_set_may_be_a_plugins(tmp_path: Path) -> None:
    with loaded_plugin(tmp_path, DRAWN):
        with pytest.raises(RequestError, match=r"Did you mean drawn\?.*Known: digits, .*drawn"):
            estimate_dataset(DataSpec(dataset="drwan"))
        assert estimate_dataset(DataSpec(dataset="drawn")).train > 30
    with pytest.raises(RequestError, match="Registered by a plugin. Add --plugin MODULE"):
        estimate_dataset(DataSpec(dataset="drawn"))
