"""Read a space as a Python program gives it: a file or a mapping, with settings by their dotted names."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tune_swa.config import Experiment
from tune_swa.config.yaml_document import Document, parse_document, quote_value
from tune_swa.config.yaml_file import load_experiment, validate_document
from tune_swa.errors import RequestError
from tune_swa.plugins import announce_plugins
from tune_swa.text import quote_name

MAPPING = "space"
"""What errors call a space that is no file."""


def load_space(
    space: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    arguments: Collection[str] = (),
    options: dict[str, str] | None = None,
    plugin: Sequence[str] = (),
) -> Experiment:
    """Read, override and validate a space, with the messages of the command line.

    Args:
        space: a space file, or its content as a mapping.
        overrides: values by dotted name (`{"train.epochs": 10}`), as `--set` gives them.
        settings: the same, from keyword arguments; they go before `overrides`.
        arguments: names of the caller's own arguments, for whoever misspells one of them.
        options: overrides that came from arguments of their own: the option as errors name it to its
            `KEY=VALUE`.
        plugin: what will be loaded later, and may know networks of any name.

    Raises:
        RequestError: naming place, key, value and what is allowed, for every problem found.
    """
    if not isinstance(overrides, Mapping | None):
        raise RequestError(
            f"overrides={quote_value(overrides)}: expected a mapping of dotted names to values"
        )
    for key in settings or {}:
        _check_keyword(key, arguments)
    announce_plugins(plugin)
    try:
        return _validate_space(space, {**(overrides or {}), **(settings or {})}, options)
    finally:
        announce_plugins(())


def _validate_space(
    space: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Mapping[str, Any],
    options: dict[str, str] | None,
) -> Experiment:
    given = [f"{key}={_write_value(value, str(key))}" for key, value in overrides.items()]
    if isinstance(space, Mapping):
        document = Document(parse_document(_write_value(space, MAPPING), MAPPING).value, {})
        return validate_document(document, MAPPING, given, options)
    if not isinstance(space, str | os.PathLike):
        raise RequestError(f"space={quote_value(space)}: expected the path of a space file, or a mapping")
    return load_experiment(Path(space), given, options)


def list_texts(value: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None) -> list[str]:
    """Return what an argument lists, which may be one text or path alone, or None for nothing.

    Raises:
        RequestError: it is something else.
    """
    try:
        return [os.fspath(one) for one in ([value] if isinstance(value, str | os.PathLike) else value or ())]
    except TypeError:
        raise RequestError(f"{quote_value(value)}: expected a text or a path, or a list of these") from None


def _check_keyword(key: str, arguments: Collection[str]) -> None:
    """Refuse a keyword that is neither an argument nor a section: it is a misspelt one of these."""
    sections = list(Experiment.model_fields)
    if "." in key or key in sections:
        return
    known = [*arguments, *sections]
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise RequestError(
        f"{quote_name(key)}: unknown argument.{hint} Arguments: {', '.join(arguments)}. Settings have dotted "
        "names: **{'train.epochs': 10}"
    )


def _write_value(value: Any, name: str) -> str:
    """Write a value as JSON, which is YAML.

    Raises:
        RequestError: JSON has no such value.
    """
    try:
        return json.dumps(value, default=_simplify_value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise RequestError(
            f"{quote_name(name)}={quote_value(value)}: expected numbers, texts, true or false, and lists and "
            "mappings of these"
        ) from None


def _simplify_value(value: Any) -> Any:
    """Turn what looks like a plain value (a path, a mapping, a number of numpy's) into one."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError
