"""The images of an experiment, where they are at hand: to compare accuracies, and to show some."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from tune_swa.errors import RequestError

if TYPE_CHECKING:
    from tune_swa.config import Experiment
    from tune_swa.data.dataset import Dataset
    from tune_swa.experiment.state import ExperimentState
    from tune_swa.results.report.changed_images import Thumbnail
    from tune_swa.results.report.duplicates import Picture


def images_of(
    experiment: Experiment, data_dir: Path | None, state: ExperimentState
) -> tuple[Dataset | None, str]:
    """The images of a search, or why they are not at hand. Nothing is downloaded for this.

    Raises:
        RequestError: those in `data_dir` are others.
    """
    from tune_swa.data.dataset import prepare_dataset

    assert state.header is not None
    try:
        data = prepare_dataset(experiment.data, data_dir, download=False)
    except RequestError as error:
        if data_dir is not None:
            raise
        return None, str(error)
    if data.fingerprint == state.header.data["fingerprint"]:
        return data, ""
    why = "the images there are not those of the search (their fingerprint differs)"
    if data_dir is not None:
        raise RequestError(f"--data-dir {data_dir}: {why}. Name their folder")
    return None, f"{why}. Name their folder with --data-dir"


def thumbnails_of(experiment: Experiment, data_dir: Path | None, data: Dataset | None) -> Thumbnail | None:
    """Test images of `data` as small pictures; None where they are not at hand.

    Raises:
        RequestError: they have gone since.
    """
    if data is None:
        return None
    from tune_swa.data.dataset import find_file_names

    names = find_file_names(experiment.data, data_dir, data)

    def thumbnail(number: int) -> tuple[bytes, str] | None:
        if number >= len(data.test):
            return None
        row = int(data.test[number])
        return _small_png(data, row), names(row) if names else f"test image {number}"

    return thumbnail


def pictures_of(data: Dataset | None) -> Picture | None:
    """All images of `data` as small pictures, by row; None where they are not at hand."""
    if data is None:
        return None
    return lambda row: _small_png(data, row) if 0 <= row < len(data.labels) else None


def _small_png(data: Dataset, row: int) -> bytes:
    from PIL import Image

    image = Image.fromarray(data.images[row])
    image.thumbnail((96, 96))
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()
