"""Augmentations of training images: the settings of each, and the short text that they are recorded as.

A space file gives an augmentation by its name (`hflip`) or by its settings (`{name: mixup, alpha: 0.2}`).
Both become one text (`mixup(alpha=0.2)`), which names what differs from the defaults, so that a list of them
is compared, recorded, searched and shown as a list of names is.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from tune_swa.config.settings_model import Settings
from tune_swa.config.validation_errors import describe_problem
from tune_swa.config.values import format_value

PLUGIN_PREFIX = "plugin/"
"""Begins the name of an augmentation that is not ours."""


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("expected the lower bound first")
    return bounds


Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_check_order)]
Ratios = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_check_order)]
Strength = Annotated[float, Field(ge=0)]
Factors = Annotated[tuple[Strength, Strength], AfterValidator(_check_order)]
Turn = Annotated[float, Field(ge=-0.5, le=0.5)]
Turns = Annotated[tuple[Turn, Turn], AfterValidator(_check_order)]
Angle = Annotated[float, Field(ge=-360, le=360)]
Angles = Annotated[tuple[Angle, Angle], AfterValidator(_check_order)]
Byte = Annotated[int, Field(ge=0, le=255)]


class PlainAugmentation(Settings):
    """One without settings of its own."""

    name: Literal["hflip", "vflip", "crop"]
    """`hflip` mirrors left-right and `vflip` top-bottom, each with probability 1/2; `crop` shifts by up to
    `train.crop_padding` pixels."""


class RandomResizedCrop(Settings):
    """Cut out a part of random area and shape, and resize it to the image's size (Szegedy et al. 2015)."""

    name: Literal["random_resized_crop"]
    """Names the augmentation."""
    scale: Shares = (0.08, 1.0)
    """Least and greatest area of the part, of the image's. As torchvision's."""
    ratio: Ratios = (3 / 4, 4 / 3)
    """Least and greatest width of the part, of its height. As torchvision's."""


class Rotation(Settings):
    """Turn by a random angle about the centre; what comes from outside is black."""

    name: Literal["rotation"]
    """Names the augmentation."""
    degrees: Annotated[float, Field(ge=0, le=180)] | Angles
    """Greatest angle either way, or least and greatest angle, anticlockwise. There is no usual one."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """As torchvision's default, which is the faster one."""


class ColorJitter(Settings):
    """Change brightness, contrast, saturation and hue by random factors, in a random order. A number x means
    factors from 1 - x to 1 + x, of the hue a turn from -x to x; two numbers are the bounds themselves."""

    name: Literal["color_jitter"]
    """Names the augmentation."""
    brightness: Strength | Factors = 0.0
    """Of its factors. 0 leaves it as it is, which is torchvision's default, too."""
    contrast: Strength | Factors = 0.0
    """Of the distance from the mean grey level."""
    saturation: Strength | Factors = 0.0
    """Of the distance from grey."""
    hue: Annotated[float, Field(ge=0, le=0.5)] | Turns = 0.0
    """In turns of the colour circle."""

    @model_validator(mode="after")
    def _changes_something(self) -> ColorJitter:
        if not self.ranges:
            raise ValueError("changes nothing; give brightness, contrast, saturation or hue")
        return self

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Bounds of the factors of what changes."""
        found = {}
        for field, neutral in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.0)):
            value = getattr(self, field)
            if not isinstance(value, tuple):
                value = neutral - value, neutral + value
                if field != "hue":
                    value = max(value[0], 0.0), value[1]
            if value != (neutral, neutral):
                found[field] = value
        return found


class TrivialAugment(Settings):
    """One of fourteen changes with a random strength (TrivialAugmentWide, Mueller and Hutter 2021)."""

    name: Literal["trivial_augment"]
    """Names the augmentation."""
    num_magnitude_bins: Annotated[int, Field(ge=2, le=1000)] = 31
    """Number of strengths. As torchvision's, and the paper's."""


class RandomErasing(Settings):
    """Erase a random rectangle (Zhong et al. 2020)."""

    name: Literal["random_erasing"]
    """Names the augmentation."""
    p: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability. This and the others as torchvision's."""
    scale: Shares = (0.02, 0.33)
    """Least and greatest area of the rectangle, of the image's."""
    ratio: Ratios = (0.3, 3.3)
    """Least and greatest height of the rectangle, of its width."""
    value: Byte | tuple[Byte, Byte, Byte] = 0
    """Grey level, or red, green and blue, from 0 to 255, before images are normalised."""


class MixUp(Settings):
    """Blend with another image, and its label with the other's (Zhang et al. 2018)."""

    name: Literal["mixup"]
    """Names the augmentation."""
    alpha: PositiveFloat = 1.0
    """The image's part is drawn from Beta(alpha, alpha). torchvision's default; 0.2 is usual for ImageNet."""


class CutMix(Settings):
    """Paste a rectangle of another image, and mix the labels by area (Yun et al. 2019)."""

    name: Literal["cutmix"]
    """Names the augmentation."""
    alpha: PositiveFloat = 1.0
    """The part that stays is drawn from Beta(alpha, alpha), before the rectangle is cut off at the border.
    torchvision's default, and the paper's."""


class PluginAugmentation(Settings):
    """One that a plugin registers."""

    name: Annotated[str, Field(pattern=r"^plugin/[A-Za-z0-9_.-]{1,100}$")]
    """The name that it is registered as, after `plugin/`."""


Augmentation: TypeAlias = (
    Annotated[
        PlainAugmentation
        | RandomResizedCrop
        | Rotation
        | ColorJitter
        | TrivialAugment
        | RandomErasing
        | MixUp
        | CutMix,
        Field(discriminator="name"),
    ]
    | PluginAugmentation
)

BuiltinName: TypeAlias = Literal[
    "hflip",
    "vflip",
    "crop",
    "random_resized_crop",
    "rotation",
    "color_jitter",
    "trivial_augment",
    "random_erasing",
    "mixup",
    "cutmix",
]
AUGMENTATIONS: dict[str, type[Settings]] = {
    **dict.fromkeys(("hflip", "vflip", "crop"), PlainAugmentation),
    "random_resized_crop": RandomResizedCrop,
    "rotation": Rotation,
    "color_jitter": ColorJitter,
    "trivial_augment": TrivialAugment,
    "random_erasing": RandomErasing,
    "mixup": MixUp,
    "cutmix": CutMix,
}
"""Settings of each, by its name."""
_EXAMPLES = {
    "rotation": "{name: rotation, degrees: 15}",
    "color_jitter": "{name: color_jitter, brightness: 0.4, contrast: 0.4, saturation: 0.4}",
}
"""Of those that do nothing, or nothing usual, without settings."""
_TEXT = re.compile(r"([^()]+)(?:\((.*)\))?")


@functools.lru_cache(maxsize=1024)
def parse_augmentation(text: str) -> Augmentation:
    """Return the settings that a short text stands for.

    Raises:
        ValueError: there is no such augmentation, or it has no such settings.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a name, or a name with settings such as mixup(alpha=0.2)")
    settings: dict[str, Any] = {}
    for item in filter(None, (match[2] or "").split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"expected settings such as mixup(alpha=0.2), got {item!r}")
        settings[key.strip()] = value.split(":") if ":" in value else value.strip()
    return _validate_augmentation({**settings, "name": match[1].strip()})


def format_augmentation(augmentation: Augmentation) -> str:
    """Return the short text of settings: the name, and what differs from the defaults."""
    changed = [
        f"{field}={_format_setting(getattr(augmentation, field))}"
        for field, info in type(augmentation).model_fields.items()
        if field != "name" and getattr(augmentation, field) != info.default
    ]
    return augmentation.name + (f"({','.join(changed)})" if changed else "")


def name_augmentation(text: str) -> str:
    """Return the name in a short text."""
    return text.partition("(")[0]


def normalize_augmentation(value: Any) -> str:
    """Return the short text of an augmentation that a space file gives by a name, settings or such a text.

    Raises:
        ValueError: there is no such augmentation, or it has no such settings.
    """
    if isinstance(value, str):
        return format_augmentation(parse_augmentation(value))
    if isinstance(value, Mapping):
        return format_augmentation(_validate_augmentation(dict(value)))
    raise ValueError("expected the name of an augmentation, or settings such as {name: mixup, alpha: 0.2}")


def check_augmentations(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a list that has an augmentation twice.

    Raises:
        ValueError: with what to do.
    """
    names = [name_augmentation(text) for text in texts]
    if len(set(names)) != len(names):
        raise ValueError("an operation is listed twice")
    return texts


AugmentationText = Annotated[
    str,
    BeforeValidator(
        normalize_augmentation,
        json_schema_input_type=BuiltinName
        | Annotated[str, Field(pattern=r"^([a-z_]+\(.*\)|plugin/[A-Za-z0-9_.-]+)$")]
        | Augmentation,
    ),
]
"""An augmentation in the training section."""


def _write_settings(value: Any) -> Any:
    return normalize_augmentation(value) if isinstance(value, Mapping) else value


ListedText = Annotated[str, BeforeValidator(_write_settings, json_schema_input_type=str | Augmentation)]
"""An item of a list in the search space, which is a list of augmentations if it has settings in it."""


def _validate_augmentation(settings: dict[str, Any]) -> Augmentation:
    name = settings.get("name")
    if not isinstance(name, str):
        raise ValueError("settings need a name, such as {name: mixup, alpha: 0.2}")
    kind = PluginAugmentation if name.startswith(PLUGIN_PREFIX) else AUGMENTATIONS.get(name)
    if kind is None:
        close = difflib.get_close_matches(name.lower(), AUGMENTATIONS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        allowed = f"{', '.join(AUGMENTATIONS)}, or {PLUGIN_PREFIX}NAME of one that a plugin registers"
        raise ValueError(f"unknown augmentation.{hint} Allowed: {allowed}")
    try:
        validated: Augmentation = kind.model_validate(settings)  # type: ignore[assignment]
    except ValidationError as error:
        raise ValueError(_describe_settings(name, kind, error)) from None
    return validated


def _describe_settings(name: str, kind: type[Settings], error: ValidationError) -> str:
    """Say what is wrong with the settings of one augmentation."""
    problems = error.errors(include_url=False)
    first = problems[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    example = f", such as {_EXAMPLES[name]}" if name in _EXAMPLES else ""
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"{name} needs {field}{example}"
    if first["type"] == "extra_forbidden":
        allowed = [known for known in kind.model_fields if known != "name"]
        close = difflib.get_close_matches(field, allowed, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"{name} has no setting {field}.{hint} Allowed: {', '.join(allowed) or 'none'}"
    # of a value that has none of several types, the deepest problem is the closest to what was meant
    together = [problem for problem in problems if problem["loc"][:1] == first["loc"][:1]]
    meant = max(together, key=lambda problem: (problem["type"] == "value_error", len(problem["loc"])))
    if meant["type"] in ("missing", "too_long"):
        return f"{name}.{field}: expected {'three' if field == 'value' else 'two'} numbers"
    message = describe_problem(meant)
    if not field:
        return f"{name} {message}{example}"
    return f"{name}.{field}: {message}, got {meant['input']!r}"


def _format_setting(value: Any) -> str:
    return ":".join(map(format_value, value)) if isinstance(value, tuple) else format_value(value)
