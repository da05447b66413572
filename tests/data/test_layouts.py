"""Folders of parts and classes under the names, and at the depths, that archives have."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.drawn_images import CLASSES, draw, draw_tree, folder_spec
from helpers.empty_images import touch_images
from tune_swa.data.dataset import estimate_dataset, prepare_dataset
from tune_swa.data.part_folders import Layout, LayoutSetting, find_layout
from tune_swa.data.source_lookup import find_source
from tune_swa.data.sources import Part
from tune_swa.errors import RequestError


def relative_parts(root: Path, setting: LayoutSetting = "auto") -> dict[str, str]:
    return {
        part.name.lower(): str(found.path.relative_to(root))
        for part, found in find_layout(root, setting).parts.items()
    }


def refuse(root: Path, setting: LayoutSetting = "auto") -> str:
    with pytest.raises(RequestError) as caught:
        find_layout(root, setting)
    return str(caught.value)


def follow(message: str) -> Layout:
    """Follow the way out that a refusal offers last."""
    advised = re.search(r".*--data-dir (.+) --set data\.layout=(\w+)$", message)
    assert advised is not None, message
    (folder,) = shlex.split(advised[1])
    return find_layout(Path(folder), "classes" if advised[2] == "classes" else "parts")


# --------------------------------------------------------------------------------- parts that are known


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("training_set", None, "test_set"),
        ("training_set/training_set", None, "test_set/test_set"),
        ("train", "dev", "test"),
        ("train", "eval", "holdout"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "VAL", "TEST"),
        ("train", "valid", "hold-out"),
        ("train_images", None, "test_images"),
        ("TrainImages", "ValImages", "TestImages"),
        ("train-set", "validation set", "test.data"),
        ("trainset", "valset", "testset"),
        ("train2017", "val2017", "test2017"),
        ("asl_alphabet_train/asl_alphabet_train", None, "asl_alphabet_test/asl_alphabet_test"),
        ("train/images", "val/images", "test/images"),
        ("trainval", None, "test"),
        ("train1", "val", "test"),
        ("train_val", None, "test"),
    ],
)
@pytest.mark.parametrize("above", ["", "archive/", "archive/data/"])
def test_parts_of_many_names_are_found(
    train: str, val: str | None, test: str, above: str, tmp_path: Path
) -> None:
    expected = {"train": train, "val": val, "test": test}
    folders = {part: above + folder for part, folder in expected.items() if folder is not None}
    touch_images(tmp_path, *(f"{folder}/{{cat,dog}}" for folder in folders.values()))
    assert relative_parts(tmp_path) == folders
    note = find_layout(tmp_path).notes[0]
    assert all(folder in note for folder in folders.values())


def test_an_archive_of_training_and_test_sets_is_searched_as_such(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"training_set/training_set": 10, "test_set/test_set": 4})
    data = prepare_dataset(folder_spec(), tmp_path)
    assert data.class_names == CLASSES
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, 12)
    assert data.folder_notes == (
        "training images: training_set/training_set; test images: test_set/test_set",
    )


@pytest.mark.parametrize("classes", ["archive", "dataset/dataset", "a/b/c", "images", "train"])
def test_classes_below_folders_that_add_nothing(classes: str, tmp_path: Path) -> None:
    touch_images(tmp_path, f"{classes}/{{cat,dog}}")
    layout = find_layout(tmp_path)
    assert relative_parts(tmp_path) == {"train": classes}
    assert layout.parts[Part.TRAIN].classes == ("cat", "dog")


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    touch_images(tmp_path, "data/{train,val,dev,test,extra}/{cat,dog}", "data/seg_pred", "old/{cat,dog}")
    (tmp_path / "data" / "train" / "stray.jpg").touch()
    layout = find_layout(tmp_path)
    assert layout.notes == (
        "training images: data/train; validation images: data/val; test images: data/test",
        "not used: old, data/dev, data/extra, data/seg_pred",
        f"{tmp_path}/data/train: 1 images in no folder of a class are not used",
    )


def test_a_second_copy_inside_is_not_used(tmp_path: Path) -> None:
    touch_images(tmp_path, "x/{train,test}/{NORMAL,PNEUMONIA}", "x/x/{train,test}/{NORMAL,PNEUMONIA}")
    assert relative_parts(tmp_path) == {"train": "x/train", "test": "x/test"}
    assert "not used: x/x" in find_layout(tmp_path).notes
    touch_images(tmp_path / "y", "{rose,tulip,daisy}", "flowers/{rose,tulip,daisy}")
    layout = find_layout(tmp_path / "y")
    assert layout.parts[Part.TRAIN].classes == ("daisy", "rose", "tulip")
    assert layout.notes == ("not used: flowers",)


@pytest.mark.parametrize("inside", ["", "test", "unknown", "images", "0"])
@pytest.mark.parametrize(("part", "name"), [("test", "test"), ("validation", "val")])
def test_a_part_without_labels_is_not_used_and_named(
    part: str, name: str, inside: str, tmp_path: Path
) -> None:
    draw_tree(tmp_path, {"train": 20})
    for i in range(10):
        draw(tmp_path / name / inside / f"{i}.jpg")
    data = prepare_dataset(folder_spec(), tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (36, 9, 15)
    (note,) = (note for note in data.folder_notes if "without labels" in note)
    assert f"/{name}" in note
    assert "holds 10 images" in note
    assert f"{part} images are held out" in note
    assert estimate_dataset(folder_spec(), tmp_path).folder_notes == data.folder_notes


def test_a_part_of_the_usual_name_that_is_empty_hides_no_other(tmp_path: Path) -> None:
    touch_images(tmp_path, "{training,dev,holdout}/{cat,dog}", "test")
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    assert relative_parts(tmp_path) == {"train": "training", "val": "dev", "test": "holdout"}
    assert "not used: test" in find_layout(tmp_path).notes


def test_an_empty_part_is_not_used(tmp_path: Path) -> None:
    touch_images(tmp_path, "train/{cat,dog}")
    (tmp_path / "val").mkdir()
    assert relative_parts(tmp_path) == {"train": "train"}
    assert any("val holds no images" in note for note in find_layout(tmp_path).notes)


# ----------------------------------------------------------------- what looks like classes and is not


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        ("{images,masks}/{cat,dog}", "images, masks hold the same folders each, cat, dog"),
        ("{fold1,fold2,fold3}/{cat,dog}", "fold1, fold2, fold3 hold the same folders"),
        ("{color,grayscale,segmented}/{apple,pear,fig}", "color, grayscale, segmented hold the same"),
        ("{cat,dog}/{train,test}", "cat, dog hold the same folders each, test, train"),
        ("pets/{images,masks}/{cat,dog}", "images, masks hold the same folders"),
        ("{part_1,part_2}", "part_1, part_2 look like kinds of files or parts"),
        ("{images,labels}", "images, labels look like kinds"),
        ("{JPEGImages,SegmentationClass}", "JPEGImages, SegmentationClass look like kinds"),
        ("{x_train,x_test}", "x_test, x_train look like kinds of files or parts"),
        ("{cats,dogs}_{train,test}", "cats_test, cats_train, dogs_test, dogs_train look like"),
        ("{train,unlabeled}", "train, unlabeled look like kinds"),
        ("{train_1,train_2}", "train_1: holds images, but no folders of classes"),
        ("{train,test}", "train: holds images, but no folders of classes"),
        ("{images_001,images_002}/images", "images_001, images_002 look like kinds"),
        ("{labeled/cat,labeled/dog,unlabeled}", "labeled, unlabeled look like kinds"),
        ("{data/cat,data/dog,masks}", "data, masks look like kinds"),
        ("{control,test}", "holds test, but no training images"),
        ("{valid,invalid}", "holds valid, but no training images"),
        ("{cat,dog,test}", "holds test, but no training images"),
    ],
)
def test_folders_that_look_like_parts_are_refused_with_a_way_out(
    folders: str, named: str, tmp_path: Path
) -> None:
    touch_images(tmp_path, folders)
    message = refuse(tmp_path)
    assert named in message
    base = tmp_path / "pets" if folders.startswith("pets") else tmp_path
    classes = follow(message).parts[Part.TRAIN].classes
    assert classes == tuple(sorted(path.name for path in base.iterdir()))


def test_the_folder_that_a_refusal_suggests_can_be_given(tmp_path: Path) -> None:
    touch_images(tmp_path, "my pets/{images,masks}/{cat,dog}")
    suggested = re.search(r"such as --data-dir (.+?);", refuse(tmp_path))
    assert suggested is not None
    (folder,) = shlex.split(suggested[1])
    assert find_layout(Path(folder)).parts[Part.TRAIN].classes == ("cat", "dog")


def test_parts_inside_classes_are_to_be_turned_round(tmp_path: Path) -> None:
    touch_images(tmp_path, "{cat,dog}/{train,test}")
    assert "so that there is test/cat and so on" in refuse(tmp_path)


def test_folds_become_parts_by_links_as_advised(tmp_path: Path) -> None:
    touch_images(tmp_path, "{fold1,fold2}/{cat,dog}")
    assert "link them below" in refuse(tmp_path)
    for fold, part in (("fold1", "train"), ("fold2", "test")):
        (tmp_path / part).symlink_to(tmp_path / fold)
    assert relative_parts(tmp_path) == {"train": "train", "test": "test"}


@pytest.mark.parametrize(
    "folders",
    [
        "train",
        "{train,test}",
        "{train/train,test1/test1}",
        "{train,valid,test}/images",
        "images/{train,val}",
        "a/{train,test}/test",
    ],
)
def test_training_images_without_classes(folders: str, tmp_path: Path) -> None:
    touch_images(tmp_path, folders)
    assert re.search(r"train: holds images, but no folders of classes.*folder of its own", refuse(tmp_path))


def test_one_of_several_sets_has_to_be_given(tmp_path: Path) -> None:
    touch_images(tmp_path / "x", "{a,b}_{train,test}/{cat,dog}")
    assert "a_train, b_train hold training images each; give one of them" in refuse(tmp_path / "x")
    touch_images(tmp_path / "y", "{train1,train2,test}/{cat,dog}")
    assert "train1, train2 hold training images each; give one of them" in refuse(tmp_path / "y")


def test_a_test_set_alone_is_refused_and_can_be_given_itself(tmp_path: Path) -> None:
    touch_images(tmp_path, "test_set/{cat,dog}")
    message = refuse(tmp_path)
    assert "holds test_set, but no training images" in message
    assert message.endswith(f"--data-dir {tmp_path}/test_set")
    assert find_layout(tmp_path / "test_set").parts[Part.TRAIN].classes == ("cat", "dog")


# ------------------------------------------------------------------------ classes with unusual names


@pytest.mark.parametrize(
    "classes",
    [
        "{bus,car,train}",
        "{beaker,flask,test_tube}",
        "{bullet_train,steam_train}",
        "{images,other}",
        "{mask,no_mask}",
        "{set,ring}",
        "{1,2,3}",
        "{class1,class2}",
        "{cat,dog}/{indoor}",
    ],
)
def test_classes_whose_names_resemble_parts(classes: str, tmp_path: Path) -> None:
    touch_images(tmp_path, classes)
    assert relative_parts(tmp_path) == {"train": "."}
    expected = sorted(path.name for path in tmp_path.iterdir())
    assert find_layout(tmp_path).parts[Part.TRAIN].classes == tuple(expected)


def test_a_numbered_test_set_goes_with_the_training_set(tmp_path: Path) -> None:
    touch_images(tmp_path, "{train,test1}/{cat,dog}")
    assert relative_parts(tmp_path) == {"train": "train", "test": "test1"}
    touch_images(tmp_path, "test2/{cat,dog}")
    assert relative_parts(tmp_path) == {"train": "train"}
    assert "not used: test1, test2" in find_layout(tmp_path).notes


def test_any_name_of_a_class_inside_known_parts(tmp_path: Path) -> None:
    touch_images(tmp_path, "{train,test}/{test,images,sea}")
    assert find_layout(tmp_path).parts[Part.TEST].classes == ("images", "sea", "test")
    touch_images(tmp_path, "x/{train,test}/{images,labels}")
    message = refuse(tmp_path / "x")
    assert message.endswith("--set data.layout=parts")
    assert find_layout(tmp_path / "x", "parts").parts[Part.TEST].classes == ("images", "labels")


def test_the_setting_is_that_of_the_space_file(tmp_path: Path) -> None:
    draw_tree(tmp_path, {".": 10}, classes=("control", "test"))
    with pytest.raises(RequestError, match="holds test, but no training images"):
        prepare_dataset(folder_spec(), tmp_path)
    data = prepare_dataset(folder_spec(layout="classes"), tmp_path)
    assert data.class_names == ("control", "test")
    with pytest.raises(RequestError, match="data.layout is parts, but there is no folder of training images"):
        prepare_dataset(folder_spec(layout="parts"), tmp_path / "control")


def test_classes_of_subfolders_alone_are_read_to_the_bottom(tmp_path: Path) -> None:
    touch_images(tmp_path, "cat/{persian,siamese}/{a,b}", "dog/{pug,beagle}", "bird/x/y/z")
    listing = find_source(folder_spec(), tmp_path).list_images()
    assert listing.class_names == ("bird", "cat", "dog")
    assert list(listing.labels).count(1) == 12


# ------------------------------------------------------------------------------- system folders, links


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", ".ipynb_checkpoints",
        "#recycle", "@Recycle", ".thumbnails", "RECYCLER", "__MACOSX 2",
    ],
)  # fmt: skip
def test_system_folders_are_no_classes_and_no_images(name: str, tmp_path: Path) -> None:
    touch_images(tmp_path / "a", "{cat,dog}", name, f"cat/{name}/0.jpg", f"{name}/cat")
    touch_images(tmp_path / "b", "{train,test}/{cat,dog}", name, f"train/{name}", f"{name}/train/{{cat,dog}}")
    for folder, count in (("a", 6), ("b", 12)):
        source = find_source(folder_spec(), tmp_path / folder)
        listing = source.list_images()
        assert listing.class_names == ("cat", "dog")
        assert len(listing) == count
        assert not any(name in note for note in source.folder_notes)


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    touch_images(tmp_path, "elsewhere/sea", "photos/forest")
    photos = tmp_path / "photos"
    (photos / "sea").symlink_to(tmp_path / "elsewhere" / "sea")
    gone = {"gone": tmp_path / "gone", "itself": photos / "itself"}
    links = {"loop": photos, "up": tmp_path, "forest/up": photos, **gone}
    for link, target in links.items():
        (photos / link).symlink_to(target)
    source = find_source(folder_spec(), photos)
    listing = source.list_images()
    assert listing.class_names == ("forest", "sea")
    assert list(listing.labels) == [0, 0, 0, 1, 1, 1]
    assert source.folder_notes == (
        f"{photos}: links to nowhere are passed over: gone, itself",
        f"{photos}: links to a folder that they are in are passed over: loop, up",
    )


def test_a_link_to_nowhere_in_the_place_of_the_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(tmp_path / "gone")
    with pytest.raises(RequestError, match=r"no images were found.*links to nowhere are passed over: train"):
        prepare_dataset(folder_spec(), tmp_path)


@pytest.fixture
def unprivileged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In `tmp_path`, as a user whom permissions hold back."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_read_matters_only_where_it_is_used(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    touch_images(tmp_path, "a/{train,test}/{cat,dog}", "a/private", "b/{train,test}/{cat,dog}", "c/{cat,dog}")
    closed = [tmp_path / name for name in ("a/private", "b/test", "c/dog")]
    for folder in closed:
        folder.chmod(0)
    request.getfixturevalue("unprivileged")
    source = find_source(folder_spec(), Path("a"))
    assert len(source.list_images()) == 12
    assert "a: folders that cannot be read are passed over: private" in source.folder_notes
    for root, name in (("b", "b/test"), ("c", "c/dog")):
        with pytest.raises(RequestError, match=rf"^{name}: cannot be read \(Permission denied\)"):
            find_source(folder_spec(), Path(root)).list_images()


def test_an_image_that_is_a_link_to_itself_is_named(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    (tmp_path / "train" / "sea" / "9.jpg").symlink_to("9.jpg")
    with pytest.raises(RequestError, match=r"1 of 22 images cannot be decoded(?s:.*)9\.jpg"):
        prepare_dataset(folder_spec(), tmp_path)
    assert len(prepare_dataset(folder_spec(unreadable="skip"), tmp_path).train) == 12
