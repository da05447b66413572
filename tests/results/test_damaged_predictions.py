"""Files of predictions that no run has written: one sentence that names the file, whatever is in it."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.format import write_array_header_1_0

from helpers.journals import confirmed
from tune_swa.cli import main
from tune_swa.results.predictions import find_damage

IMAGES, CLASSES = 40, 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    confirmed(tmp_path, images=IMAGES)
    return tmp_path / "predictions" / "swa-0-seed9.npz"


def change(name: str, alter: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, name: alter(arrays[name])})

    return spoil


def set_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.concatenate([[value], array[1:]]).astype(array.dtype)


def lie_about_size(path: Path) -> None:
    """A header that asks for 800 GB."""
    header = io.BytesIO()
    write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**11,)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, header.getvalue() + b"x" if name == "shipped.nll.npy" else content)


def drop(name: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with np.load(path) as file:
            np.savez(path, **{key: value for key, value in file.items() if key != name})

    return spoil


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


SPOILED: dict[str, Callable[[Path], object]] = {
    "two dimensions": change("shipped.nll", lambda array: array[:, None]),
    "too few images": change("shipped.predicted", lambda array: array[1:]),
    "no images": change("label", lambda array: array[:0]),
    "a nan": change("shipped.confidence", set_first(np.nan)),
    "an infinity": change("shipped.nll", set_first(np.inf)),
    "a probability of 7": change("shipped.probability", set_first(7)),
    "a label of -3": change("label", set_first(-3)),
    "a label of no class": change("label", set_first(CLASSES)),
    "a class that there is not": change("shipped.predicted", set_first(10**6)),
    "labels that are no whole numbers": change("label", lambda array: array.astype(float)),
    "complex numbers": change("shipped.nll", lambda array: array.astype(complex)),
    "texts": change("shipped.nll", lambda array: array.astype(str)),
    "no labels": drop("label"),
    "no predictions": drop("shipped.predicted"),
    "no scores": drop("shipped.brier"),
    "one score at the temperature too few": drop("shipped.brier_calibrated"),
    "a score of 7 at the temperature": change("shipped.confidence_calibrated", set_first(7)),
    "a header of 800 GB": lie_about_size,
    "a pipe": make_pipe,
    "a folder": make_folder,
    "a bit": flip_a_bit,
    "no zip": write(b"PK\3\4 and so on"),
    "an empty file": write(b""),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_one_sentence_names_the_file(kind: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_damage(path, IMAGES, CLASSES) is None
    SPOILED[kind](path)
    assert find_damage(path, IMAGES, CLASSES)
    for command in ("report", "compare"):
        assert main([command, str(path.parent.parent)]) == 2
        [error] = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
        reasons = ["the predictions on the test images cannot be read ("]
        if kind == "a pipe":  # which a report refuses before it opens anything
            reasons.append("is a pipe, a socket or a device, which a search does not write. Remove it")
        assert error.startswith(tuple(f"error: {path}: {reason}" for reason in reasons))


def test_the_files_of_earlier_versions_are_in_order() -> None:
    journals = Path(__file__).parent.parent / "experiment" / "journals"
    files = [*(journals / "digits_2026_11").rglob("*.npz"), *(journals / "looks").rglob("*.npz")]
    images = {"digits_2026_11": 450, "looks": 180}
    assert len(files) > 20
    assert {find_damage(file, images[file.parent.parent.name], 10) for file in files} == {None}
