"""Find the source of images that the settings name."""

from __future__ import annotations

import difflib
from pathlib import Path

from tune_swa.config import DataSpec
from tune_swa.data.digits import Digits
from tune_swa.data.folders import ImageFolders
from tune_swa.data.plugin_sets import PluginSet
from tune_swa.data.sources import Source
from tune_swa.data.torchvision_sets import SETS, TorchvisionSet
from tune_swa.errors import RequestError
from tune_swa.files import expand_home
from tune_swa.plugins import find_dataset, list_datasets


def find_source(spec: DataSpec, data_dir: Path | None = None, *, download: bool = True) -> Source:
    """The source that `data.dataset` names.

    Args:
        spec: the data settings.
        data_dir: folder of the images or the download; goes before `data.path`.
        download: whether it may fetch what is not here.

    Raises:
        RequestError: there is no such source.
    """
    folder = None
    if data_dir is not None:
        folder = expand_home(data_dir, "--data-dir")
    elif spec.path is not None:
        folder = expand_home(spec.path, "data.path:")
    if spec.dataset == "digits":
        if folder is not None:
            raise RequestError(
                f"data.dataset: digits come with scikit-learn and are not read from {folder}. Leave the "
                "folder out, or set data.dataset to folder for your own images there"
            )
        return Digits()
    if spec.dataset == "folder":
        return ImageFolders(
            folder,
            suffixes=spec.suffixes,
            exif_rotation=spec.exif_rotation,
            grey_bits=spec.grey_bits,
            layout=spec.layout,
        )
    if spec.dataset in SETS:
        return TorchvisionSet(spec.dataset, folder, download=download)
    registered = find_dataset(spec.dataset)
    if registered is not None:
        return PluginSet(registered, folder)
    known = [*list_known_sets(), *list_datasets()]
    close = difflib.get_close_matches(spec.dataset, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise RequestError(
        f"data.dataset: no set is called {spec.dataset!r}.{hint} Known: {', '.join(known)}. Registered by a "
        "plugin? Add --plugin MODULE"
    )


def list_known_sets() -> tuple[str, ...]:
    """Names of the sets that need no plugin."""
    return ("digits", "folder", *SETS)
