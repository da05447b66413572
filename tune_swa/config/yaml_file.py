"""Read a space file: YAML with `--set` overrides, validated to an experiment."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tune_swa.config import Experiment
from tune_swa.config.problem_lines import describe_problems
from tune_swa.config.shipped_spaces import locate_space, suggest_spaces
from tune_swa.config.yaml_document import Document, parse_document
from tune_swa.errors import RequestError
from tune_swa.files import expand_home

MAX_BYTES = 1 << 18
"""A file larger than this was meant to be something else, and would take long to parse."""


def load_experiment(
    path: str | Path, overrides: list[str] | None = None, options: dict[str, str] | None = None
) -> Experiment:
    """Read, override and validate a space file.

    Args:
        path: the YAML file, or the name of a shipped space.
        overrides: `KEY=VALUE` strings as of `--set`; dotted key, YAML value.
        options: further ones that came from options of their own: the option as written (which
            errors name) to its `KEY=VALUE`.

    Raises:
        RequestError: naming file, line, key, value and what is allowed, for every problem found.
    """
    file = locate_space(expand_home(path, "--space"))
    return parse_experiment(_read_text(file), str(file), overrides, options)


def parse_experiment(
    text: str,
    source: str = "<text>",
    overrides: list[str] | None = None,
    options: dict[str, str] | None = None,
) -> Experiment:
    """Load an experiment from a text, as `load_experiment` does; errors call it `source`."""
    return validate_document(parse_document(text, source), source, overrides, options)


def validate_document(
    document: Document,
    source: str,
    overrides: list[str] | None = None,
    options: dict[str, str] | None = None,
) -> Experiment:
    """Override and validate a parsed space, as `load_experiment` does; errors call it `source`."""
    if not isinstance(document.value, dict):
        raise RequestError(f"{source}:1: expected settings such as `name: ...` and `space: ...`")
    _drop_shared_values(document)
    for override in overrides or []:
        apply_override(document, override, f"--set {override}")
    for option, override in (options or {}).items():
        apply_override(document, override, option)
    _shorten_grace(document)
    try:
        return Experiment.model_validate(document.value)
    except ValidationError as error:
        raise RequestError("\n".join(describe_problems(error, document, source))) from None


def _drop_shared_values(document: Document) -> None:
    """Take out the outermost keys that only hold values for aliases: `x-...`, or any that is no setting.

    A key that looks like a setting's is a mistake, and stays to be reported.
    """
    known = list(Experiment.model_fields)
    for key in [key for key in document.value if key not in known]:
        misspelt = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if key.startswith("x-") or (key in document.shared and not misspelt):
            del document.value[key]


def _shorten_grace(document: Document) -> None:
    """Fit the grace period of a file into a run that an option makes shorter: neither has a trunk rung."""
    train, scheduler = document.value.get("train"), document.value.get("scheduler")
    option = document.places.get(("train", "epochs"), document.places.get(("train",), ""))
    if not (isinstance(train, dict) and isinstance(scheduler, dict) and option.startswith("--set")):
        return
    epochs, grace = train.get("epochs"), scheduler.get("grace_epochs")
    given = document.places.get(("scheduler", "grace_epochs"), "").startswith("--set")
    if isinstance(epochs, int) and isinstance(grace, int) and 2 <= epochs < grace and not given:
        scheduler["grace_epochs"] = epochs


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except FileNotFoundError:
        raise RequestError(f"{path}: no such space file. {suggest_spaces(path)}") from None
    except IsADirectoryError:
        raise RequestError(f"{path}: is a folder, expected a space file (YAML)") from None
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})"
        ) from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise RequestError(f"{path}: larger than {MAX_BYTES:,} bytes, so it is no space file. Check --space")
    return text


def apply_override(document: Document, override: str, source: str) -> None:
    """Apply one `KEY=VALUE`, and make the sections that are missing on the way.

    In `space`, a key with a dot in it (`train.weight_decay`) is one key. Errors call the override `source`.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RequestError(f"{source}: expected KEY=VALUE, such as --set train.epochs=30")
    parts = _split_key(key.strip())
    parsed = parse_document(text, source)
    target = document.value
    for depth, part in enumerate(parts[:-1]):
        if isinstance(target, list):
            target = target[_parse_index(part, target, source)]
        else:
            if target.get(part) is None:
                target[part] = {}
                document.places[tuple(parts[: depth + 1])] = source
            target = target[part]
        if not isinstance(target, dict | list):
            raise RequestError(f"{source}: {'.'.join(map(str, parts[: depth + 1]))} has no settings below it")
    last: str | int = _parse_index(parts[-1], target, source) if isinstance(target, list) else parts[-1]
    target[last] = parsed.value
    loc = tuple(int(p) if p.isdecimal() else p for p in parts)
    for stale in [k for k in document.places if k[: len(loc)] == loc]:
        del document.places[stale]
    document.places[loc] = source


def _split_key(key: str) -> list[str]:
    parts = key.split(".")
    if parts[0] == "space" and len(parts) > 2 and parts[1] in ("train", "averaging"):
        return ["space", ".".join(parts[1:3]), *parts[3:]]
    return parts


def _parse_index(part: str, values: list[Any], source: str) -> int:
    if not part.isdecimal() or int(part) >= len(values):
        raise RequestError(f"{source}: {part} is not an index of a list of {len(values)}")
    return int(part)
