"""What `best_model.json` holds, and reading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tune_swa.config.network_names import is_arch_name
from tune_swa.experiment.event_lines import decode_json
from tune_swa.experiment.events import DamagedError, Kind
from tune_swa.experiment.field_types import Share, convert_checked
from tune_swa.plugins import accepts_model, recall_models

_Level = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Spread = Annotated[float, Meta(gt=0, le=1e6)]


class ImageSize(msgspec.Struct):
    """What images the network is built for."""

    image_size: Annotated[int, Meta(ge=8, le=2048)]


class Preprocessing(ImageSize):
    """What has to be done to an image before the model sees it."""

    resize: Literal["squash", "crop"]
    exif_rotation: bool
    mean: Annotated[list[_Level], Meta(min_length=3, max_length=3)]
    std: Annotated[list[_Spread], Meta(min_length=3, max_length=3)]


class NetworkShape(msgspec.Struct, kw_only=True):
    """What it takes to build the network."""

    num_classes: Annotated[int, Meta(ge=1, le=1_000_000)]
    preprocessing: ImageSize | UnsetType = UNSET
    arch: str = "resnet18"


class RecordedNumerics(msgspec.Struct):
    """Of the run that trained it: those that an export computes with."""

    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    threads: Annotated[int, Meta(ge=1, le=4096)]
    channels_last: bool


class RecordedHardware(msgspec.Struct):
    """Where it was trained."""

    processor: str
    gpus: list[str]


class RecordedMetrics(TypedDict, total=False):
    """On a part of the images."""

    accuracy: Required[Share]


class ModelDescription(NetworkShape, kw_only=True):
    """What whoever uses `best_model.pt`, or the weights of a merge, has to know. Further keys are for people,
    and for newer versions."""

    class_names: list[str]
    preprocessing: Preprocessing
    trial: str
    kind: Kind
    configuration: str
    params: dict[str, bool | int | float | str | list[str] | None]
    validation: RecordedMetrics
    test: RecordedMetrics | None
    numerics: RecordedNumerics
    hardware: RecordedHardware
    versions: dict[str, str]
    merge: str | UnsetType = UNSET
    """What merged them, of weights that are a merge."""
    recipe: list[str] | UnsetType = UNSET
    """Names of the trials whose mean they are."""


def read_description(path: Path) -> dict[str, Any]:
    """Read `best_model.json`, with the keys that `ModelDescription` does not name.

    Raises:
        DamagedError: it is not what a search writes; says why.
        OSError: it cannot be read.
    """
    about = _read_checked(path, ModelDescription)
    if about["num_classes"] != len(about["class_names"]):
        raise DamagedError(f"{about['num_classes']} classes with {len(about['class_names'])} names")
    if "torch" not in about["versions"]:
        raise DamagedError("it names no version of torch")
    return about


def read_network(path: Path) -> dict[str, Any]:
    """Read which network `best_model.json` is of, and check nothing else; errors as in `read_description`."""
    return _read_checked(path, NetworkShape)


def _read_checked(path: Path, kind: type[NetworkShape]) -> dict[str, Any]:
    """Read a JSON file that a model describes.

    Raises:
        DamagedError: it is not what a search writes; says why.
        OSError: it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise DamagedError("it is no file")  # reading a pipe would wait for ever
        about = decode_json(path.read_bytes().decode())
        json.dumps(about, ensure_ascii=False).encode()  # lone surrogates, which no file can hold again
        convert_checked(about, kind)
    except msgspec.ValidationError as error:
        raise DamagedError(str(error)) from None
    except (ValueError, RecursionError):
        raise DamagedError("it is no text in JSON") from None
    arch = about.setdefault("arch", "resnet18")
    recall_models(about.get("plugins"))
    if not is_arch_name(arch) and not accepts_model(arch):
        raise DamagedError(f"there is no network {arch!r}")
    return dict(about)
