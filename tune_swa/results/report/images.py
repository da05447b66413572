"""Find the images of an experiment, to compare accuracies with and to show some in the report."""

from __future__ import annotations

import io
from pathlib import Path

from tune_swa.config import Experiment
from tune_swa.data.dataset import Dataset, find_file_names, prepare_dataset
from tune_swa.errors import RequestError
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.report.changed_images import Thumbnail
from tune_swa.results.report.duplicates import Picture
from tune_swa.results.report.page import write_report

THUMBNAIL_PIXELS = 96


def find_images(
    experiment: Experiment, data_dir: Path | None, state: ExperimentState
) -> tuple[Dataset | None, str]:
    """The images of a search, or why they are not available. Nothing is downloaded for this.

    Raises:
        RequestError: those in `data_dir` are not the search's.
    """
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


def write_illustrated_report(
    state: ExperimentState, folder: Path, experiment: Experiment, data_dir: Path | None
) -> Path:
    """Write the report of a running search, with pictures where its images are available."""
    try:
        data, _ = find_images(experiment, data_dir, state)
        thumbnails = make_thumbnails(experiment, data_dir, data)
    except RequestError:  # they have changed since the search began
        data, thumbnails = None, None
    return write_report(state, folder, thumbnails, picture=make_pictures(data))


def make_thumbnails(experiment: Experiment, data_dir: Path | None, data: Dataset | None) -> Thumbnail | None:
    """Test images of `data` as small pictures; None where they are not available.

    Raises:
        RequestError: their files have gone since they were decoded.
    """
    if data is None:
        return None
    names = find_file_names(experiment.data, data_dir, data)

    def draw_thumbnail(number: int) -> tuple[bytes, str] | None:
        if number >= len(data.test):
            return None
        row = int(data.test[number])
        return _encode_png(data, row), names(row) if names else f"test image {number}"

    return draw_thumbnail


def make_pictures(data: Dataset | None) -> Picture | None:
    """All images of `data` as small pictures, by row; None where they are not available."""
    if data is None:
        return None
    return lambda row: _encode_png(data, row) if 0 <= row < len(data.labels) else None


def _encode_png(data: Dataset, row: int) -> bytes:
    from PIL import Image

    image = Image.fromarray(data.images[row])
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()
