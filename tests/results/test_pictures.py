"""`tune-swa report`: the images that changed sides are those of the search, by the names of their files."""

from __future__ import annotations

import base64
import io
import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.journals import Writer, confirmed, experiment, usual
from tune_swa.cli import main
from tune_swa.config import DataSpec
from tune_swa.data.dataset import prepare_dataset

LABELS = ("a", "b")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path / "cache"))


def draw_photos(root: Path, shade: int) -> Path:
    """Two classes; each image is of a colour of its own."""
    for part, count in (("train", 10), ("test", 30)):
        for c, label in enumerate(LABELS):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), (100 * c, 8 * i, shade)).save(folder / f"{part}{i:02d}.png")
    return root


def searched(folder: Path, photos: Path) -> Writer:
    """A confirmed experiment on these images."""
    data = DataSpec(dataset="folder", image_size=16, path=str(photos))
    spec = experiment(data=data.model_dump(mode="json"))
    folder.mkdir()
    writer = confirmed(folder, images=60, writer=usual(folder, spec=spec))
    first, rest = writer.path.read_text().split("\n", 1)
    created = json.loads(first)
    created["data"] |= {
        "fingerprint": prepare_dataset(data).fingerprint,
        "class_names": list(LABELS),
        "test": 60,
    }
    writer.path.write_text(json.dumps(created) + "\n" + rest)
    return writer


def test_the_pictures_are_the_files_that_they_are_named_after(
    tmp_path: Path, cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = draw_photos(tmp_path / "photos", 10)
    searched(tmp_path / "made-up", photos)
    assert main(["report", str(tmp_path / "made-up")]) == 0
    assert capsys.readouterr().err == ""
    page = (tmp_path / "made-up" / "report.html").read_text()
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)"[^>]*>.*?(test/\w/\w+\.png)', page, re.S)
    assert len(shown) > 5
    for picture, name in shown:
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
        assert (found == np.asarray(Image.open(photos / name))).all(), name


def test_other_images_are_not_shown_as_if_they_were_those(
    tmp_path: Path, cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = draw_photos(tmp_path / "photos", 10)
    folder = tmp_path / "made-up"
    searched(folder, photos)
    other = draw_photos(tmp_path / "other", 200)
    assert main(["report", str(folder), "--data-dir", str(other)]) == 2
    err = capsys.readouterr().err
    assert f"--data-dir {other}: the images there are not those of the search" in err
    assert main(["report", str(folder), "--data-dir", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert not (folder / "report.html").exists()
    photos.rename(tmp_path / "moved")
    assert main(["report", str(folder)]) == 0
    assert "note: images are named but not shown: " in capsys.readouterr().err
    page = (folder / "report.html").read_text()
    assert '<img src="data:' not in page
    assert "test image " in page


def test_nothing_is_downloaded_for_a_page(
    tmp_path: Path, cache: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *given, **_: asked.append(given))
    spec = experiment(data={"dataset": "mnist", "image_size": 28})
    confirmed(tmp_path, writer=usual(tmp_path, spec=spec))
    assert main(["report", str(tmp_path)]) == 0
    assert "and is not downloaded for this" in capsys.readouterr().err
    assert asked == []
