"""Reading a space file: YAML with line numbers, `--set` overrides, and errors that name the place."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tune_swa.config import Experiment
from tune_swa.config.validation_errors import expectation, told
from tune_swa.errors import RequestError

Loc = tuple[str | int, ...]
MAX_BYTES = 1 << 18
"""A file larger than this was meant to be something else, and would take long to parse."""
MAX_NODES = 100_000
"""Aliases of aliases can blow a small file up; a space file never comes near this."""


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars by YAML 1.2's core schema, in which 5e-5 is a number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as in yaml


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
# after the float, so that what is both is tried first as a whole number
_Loader.yaml_implicit_resolvers = {
    first: [("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$")), *resolvers]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)


_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
)


@dataclass
class Document:
    """A YAML document as plain values, and where each of them stands."""

    value: Any
    places: dict[Loc, str]
    """Path of keys and indices to `file:line` (or the option that set it)."""


def load_experiment(
    path: str | Path, overrides: list[str] | None = None, options: dict[str, str] | None = None
) -> Experiment:
    """Read, override and validate a space file.

    Args:
        path: the YAML file.
        overrides: `KEY=VALUE` strings as of `--set`; dotted key, YAML value.
        options: further ones that came from options of their own: the option as written (which
            errors name) to its `KEY=VALUE`.

    Raises:
        RequestError: naming file, line, key, value and what is allowed, for every problem found.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except FileNotFoundError:
        raise RequestError(f"{path}: no such space file. {_shipped_hint()}") from None
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
    document = _parse_settings(text, str(path))
    for override in overrides or []:
        apply_override(document, override)
    for option, override in (options or {}).items():
        apply_override(document, override, option)
    return validate_document(document, str(path))


def parse_experiment(text: str, source: str = "<text>", overrides: list[str] | None = None) -> Experiment:
    """The same from a string; `source` stands for the file in errors."""
    document = _parse_settings(text, source)
    for override in overrides or []:
        apply_override(document, override)
    return validate_document(document, source)


def validate_document(document: Document, source: str) -> Experiment:
    """Turn a document into an experiment, or raise with all its problems, one a line."""
    try:
        return Experiment.model_validate(document.value)
    except ValidationError as error:
        raise RequestError("\n".join(_describe_all(_flatten(error), document, source))) from None


# ------------------------------------------------------------------------------- YAML to values


def _parse_settings(text: str, source: str) -> Document:
    document = parse_document(text, source)
    if not isinstance(document.value, dict):
        raise RequestError(f"{source}:1: expected settings such as `name: ...` and `space: ...`")
    return document


def parse_document(text: str, source: str) -> Document:
    """Parse one YAML document. Duplicate keys, tags of other types and recursion are errors."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            places: dict[Loc, str] = {}
            value = None if root is None else _Builder(loader, source, places).build(root, (), ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part) or "not YAML"
        hint = ". Indent with spaces" if "'\\t'" in what else ""
        raise RequestError(f"{source}{line}: not readable as YAML: {what}{hint}") from None
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise RequestError(f"{source}: not readable as YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RequestError(f"{source}: nested too deeply for a space file") from None
    return Document(value, places)


class _Builder:
    """Builds plain values from nodes; yaml's own constructor would lose the lines."""

    def __init__(self, loader: _Loader, source: str, places: dict[Loc, str]) -> None:
        self.loader, self.source, self.places, self.count = loader, source, places, 0

    def build(self, node: yaml.Node, loc: Loc, above: tuple[int, ...]) -> Any:
        self.count += 1
        where = f"{self.source}:{node.start_mark.line + 1}"
        self.places.setdefault(loc, where)
        if id(node) in above:
            raise RequestError(f"{where}: an alias repeats itself; write the values out")
        if self.count > MAX_NODES:
            raise RequestError(f"{where}: more than {MAX_NODES:,} values; write out what aliases multiply")
        above = (*above, id(node))
        if node.tag not in _PLAIN_TAGS:
            raise RequestError(f"{where}: the tag {node.tag} is not allowed; write a plain value")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*loc, i), above) for i, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, loc: Loc, above: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = f"{self.source}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise RequestError(f"{where}: a key must be a word")
            key = str(key_node.value)
            if key in result:
                raise RequestError(f"{where}: {'.'.join(map(str, (*loc, key)))} stands twice; keep one")
            self.places[(*loc, key)] = where
            result[key] = self.build(value_node, (*loc, key), above)
        return result

    def _scalar(self, node: yaml.ScalarNode, where: str) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text = str(node.value)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan").replace(".NaN", "nan"))
        except ValueError:
            raise RequestError(f"{where}: {_show(text)} is not a number") from None
        return text


# -------------------------------------------------------------------------------------- --set


def apply_override(document: Document, override: str, option: str | None = None) -> None:
    """Apply one `KEY=VALUE`; a missing section on the way is made.

    In `space`, a key with a dot in it (`train.weight_decay`) is one key. `option` is how the user
    wrote it, where that was not `--set`.
    """
    source = option or f"--set {override}"
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RequestError(f"{source}: expected KEY=VALUE, such as --set train.epochs=30")
    parts = _split_key(key.strip())
    parsed = parse_document(text, source)
    target = document.value
    for depth, part in enumerate(parts[:-1]):
        if isinstance(target, list):
            target = target[_index(part, target, source)]
        else:
            if target.get(part) is None:
                target[part] = {}
                document.places[tuple(parts[: depth + 1])] = source
            target = target[part]
        if not isinstance(target, dict | list):
            raise RequestError(f"{source}: {'.'.join(map(str, parts[: depth + 1]))} has no settings below it")
    last: str | int = _index(parts[-1], target, source) if isinstance(target, list) else parts[-1]
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


def _index(part: str, values: list[Any], source: str) -> int:
    if not part.isdecimal() or int(part) >= len(values):
        raise RequestError(f"{source}: {part} is not an index of a list of {len(values)}")
    return int(part)


# ------------------------------------------------------------------------------------- errors


def _flatten(error: ValidationError) -> list[dict[str, Any]]:
    """Problems of an error; those raised together inside a validator are unpacked."""
    items: list[dict[str, Any]] = []
    for item in error.errors(include_url=False):
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, ValidationError):
            items.extend(_flatten(inner))
        # pydantic counts what is right in a list, and what is wrong is told already
        elif item["type"] != "too_short" or not item["input"]:
            items.append(dict(item))
    return items


@dataclass(frozen=True)
class _Problem:
    """An item of pydantic's, and where it is in the file."""

    item: dict[str, Any]
    loc: Loc
    union: Loc | None
    """The value that was tried as one type after another, of which this is one; None: there was one."""


def _describe_all(items: list[dict[str, Any]], document: Document, source: str) -> list[str]:
    """One line for each mistake, however many types a value was tried as."""
    tried: dict[Loc, list[_Problem]] = {}
    problems = [_locate(item, document.value) for item in items]
    for problem in problems:
        if problem.union is not None:
            tried.setdefault(problem.union, []).append(problem)
    lines: list[str] = []
    for problem in problems:
        alternatives = [problem] if problem.union is None else tried[problem.union]
        # what is wrong inside of a list says more than that it should have been no list
        deepest = max(len(p.loc) for p in alternatives)
        if len(problem.loc) == deepest:
            together = [p.item for p in alternatives if p.loc == problem.loc]
            lines.append(_describe(problem, together, document, source))
    return list(dict.fromkeys(lines))


def _describe(problem: _Problem, together: list[dict[str, Any]], document: Document, source: str) -> str:
    item, loc = problem.item, problem.loc
    place = next(
        (document.places[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in document.places), source
    )
    key = ".".join(map(str, loc))
    if item["type"] == "missing" and not isinstance(loc[-1], int):
        return f"{place}: {key} is missing"
    if item["type"] in ("extra_forbidden", "unknown_parameter"):
        allowed = item.get("ctx", {}).get("allowed") or _siblings(loc, tuple(item["loc"]))
        kind = "parameter" if item["type"] == "unknown_parameter" else "key"
        close = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"{place}: {key}: unknown {kind}.{hint} Allowed: {', '.join(allowed)}"
    if item["type"] == "missing" or (item["type"] == "too_long" and loc[-1] in ("int", *_PAIRS)):
        key, message = ".".join(map(str, loc[:3])), "expected two bounds, the lower one first"
    else:
        message = _expected(together) or told(item)
    value = item.get("input")
    quoted = "" if value is None or not loc or isinstance(value, dict | Experiment) else f" {_show(value)}:"
    return f"{place}: {key}:{quoted} {message}" if key else f"{place}: {message}"


def _expected(together: list[dict[str, Any]]) -> str | None:
    """What would have been right, where a value is none of several types."""
    infinite = [item for item in together if item["type"] == "finite_number"]
    words = list(dict.fromkeys(e for e in map(expectation, infinite or together) if e is not None))
    if len(words) > 2:
        return "expected one value (a number, text, true or false), or a list of texts"
    return f"expected {' or '.join(words)}" if words else None


_PAIRS = ("uniform", "log_uniform")
_DOMAINS = {
    "choice": "ChoiceDomain",
    "int": "IntDomain",
    "uniform": "UniformDomain",
    "log_uniform": "LogUniformDomain",
    "constant": "ConstantDomain",
}


def _locate(item: dict[str, Any], value: Any) -> _Problem:
    """Take the names that pydantic gives to the members of unions out of a problem's path."""
    tagged: Loc = tuple(item["loc"])
    own = item["type"] == "space"  # found by us, after the unions
    if not own and tagged[:1] == ("space",) and len(tagged) > 2:
        tagged = tagged[:2] + tagged[3:]  # the kind of the domain
    real: list[str | int] = []
    union: Loc | None = None
    current = value
    for position, part in enumerate(tagged):
        last = position == len(tagged) - 1
        inside = (isinstance(current, dict) and part in current) or (
            isinstance(current, list) and isinstance(part, int) and part < len(current)
        )
        if inside:
            real.append(part)
            current = current[part]
        elif last and item["type"] in ("missing", "extra_forbidden"):
            real.append(part)
        elif union is None and not own:
            union = tuple(real)
    return _Problem(item, tuple(real), union)


def _siblings(loc: Loc, tagged: Loc) -> list[str]:
    """Names that would have been allowed where an unknown key stands."""
    schema = Experiment.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    if len(tagged) >= 2 and tagged[0] == "space":
        name = _DOMAINS.get(str(tagged[2])) if len(tagged) > 2 else None
        return list(definitions[name]["properties"]) if name else []
    current = schema
    for part in loc[:-1]:
        current = current.get("properties", {}).get(part, {})
        reference = current.get("$ref") or next(
            (a["$ref"] for a in current.get("anyOf", []) if "$ref" in a), None
        )
        if reference:
            current = definitions[reference.rsplit("/", 1)[-1]]
    return list(current.get("properties", {}))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _shipped_hint() -> str:
    shipped = sorted(Path("search_spaces").glob("*.yaml"))
    if shipped:
        return "There are " + ", ".join(str(p) for p in shipped)
    return "The project's own are in its folder search_spaces/"
