"""Describe what pydantic finds wrong in a space file, each problem in a line that names its place."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tune_swa.config import Experiment
from tune_swa.config.space_resolver import SECTIONS, explain_fixed
from tune_swa.config.validation_errors import describe_expected, describe_problem
from tune_swa.config.values import CORE_PARAMETERS
from tune_swa.config.yaml_document import Document, Loc, quote_value
from tune_swa.text import count_hidden, quote_name

MOST_LINES = 20
"""Mistakes that are described: whoever has more of them has another file in mind."""
_PAIRS = ("uniform", "log_uniform")
_CHANNELS = ("mean", "std")
_DOMAINS = {
    "choice": "ChoiceDomain",
    "int": "IntDomain",
    "uniform": "UniformDomain",
    "log_uniform": "LogUniformDomain",
    "constant": "ConstantDomain",
}


@dataclass(frozen=True)
class _Problem:
    """An item of pydantic's, and where it is in the file."""

    item: dict[str, Any]
    loc: Loc
    union: Loc | None
    """The value that was tried as one type after another, of which this is one; None: there was one."""


def describe_problems(error: ValidationError, document: Document, source: str) -> list[str]:
    """Return one line for each mistake, however many types a value was tried as.

    Of very many, the first ones and how many more there are.
    """
    tried: dict[Loc, list[_Problem]] = {}
    problems = [_locate_problem(item, document.value) for item in _flatten_errors(error)]
    for problem in problems:
        if problem.union is not None:
            tried.setdefault(problem.union, []).append(problem)
    lines: dict[str, None] = {}
    described: set[Loc] = set()
    for problem in problems:
        if len(lines) == MOST_LINES:
            break
        alternatives = [problem] if problem.union is None else tried[problem.union]
        # a problem inside of a list is more precise than that the value should have been no list
        deepest = max(len(p.loc) for p in alternatives)
        if len(problem.loc) == deepest:
            together = [p.item for p in alternatives if p.loc == problem.loc]
            place = _find_place(problem.loc, document, source)
            lines[quote_name(f"{place}: {_describe_problem(problem, together)}")] = None
            described.add(problem.loc)
    hidden = len({p.loc for p in problems} - described) if len(lines) == MOST_LINES else 0
    return [*lines, *([f"{source}: {count_hidden(hidden)} like these"] if hidden else [])]


def _flatten_errors(error: ValidationError) -> list[dict[str, Any]]:
    """List the problems of an error; those raised together inside a validator are unpacked."""
    items: list[dict[str, Any]] = []
    for item in error.errors(include_url=False):
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, ValidationError):
            items.extend(_flatten_errors(inner))
        # pydantic counts only the valid items of a list, and reports the others by themselves
        elif item["type"] != "too_short" or not item["input"]:
            items.append(dict(item))
    return items


def _find_place(loc: Loc, document: Document, source: str) -> str:
    """`file:line` of a value, or of the section that it is missing from."""
    for length in range(len(loc), -1, -1):
        if loc[:length] in document.places:
            return document.places[loc[:length]]
    return source


def _describe_problem(problem: _Problem, together: list[dict[str, Any]]) -> str:
    item, loc = problem.item, problem.loc
    key = ".".join(map(str, loc))
    if item["type"] == "missing" and not isinstance(loc[-1], int):
        return f"{key} is missing"
    if item["type"] in ("extra_forbidden", "unknown_parameter"):
        return f"{key}: {_describe_unknown_key(item, loc)}"
    misplaced = _explain_misplaced(loc, item.get("input"))
    if misplaced is not None:
        return f"{key}: {misplaced}"
    if item["type"] == "missing" or (item["type"] == "too_long" and loc[-1] in ("int", *_PAIRS, *_CHANNELS)):
        key, message = ".".join(map(str, loc[:3])), "expected two bounds, the lower one first"
        if not {*loc[-2:]}.isdisjoint(_CHANNELS):
            message = "expected three numbers, of red, green and blue"
    else:
        message = _join_expected(together) or describe_problem(item)
    value = item.get("input")
    if loc and value is not None and not isinstance(value, dict | Experiment):
        message = f"{quote_value(value)}: {message}"
    return f"{key}: {message}" if key else message


def _explain_misplaced(loc: Loc, value: Any) -> str | None:
    """Say where a domain belongs that is in the setting's section, or below the section's name in `space`."""
    if len(loc) != 2 or not isinstance(value, dict) or not value:
        return None
    if loc[0] != "space" and not _DOMAINS.keys().isdisjoint(value):
        name = f"{loc[0]}.{loc[1]}"
    elif loc[0] == "space" and (loc[1] in SECTIONS or explain_fixed(f"{loc[1]}.{next(iter(value))}")):
        key = next(iter(value))
        name = key if key in CORE_PARAMETERS else f"{loc[1]}.{key}"
    else:
        return None
    reason = explain_fixed(name)
    if reason is not None:
        return f"cannot be searched: {reason}"
    return f"what is searched is listed in space by its whole name, {name}"


def _describe_unknown_key(item: dict[str, Any], loc: Loc) -> str:
    allowed = item.get("ctx", {}).get("allowed") or _list_siblings(tuple(item["loc"]))
    kind = "parameter" if item["type"] == "unknown_parameter" else "key"
    close = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"unknown {kind}.{hint} Allowed: {', '.join(allowed)}"


def _join_expected(together: list[dict[str, Any]]) -> str | None:
    """Describe what was expected of a value that has none of several types."""
    infinite = [item for item in together if item["type"] == "finite_number"]
    words = list(dict.fromkeys(filter(None, map(describe_expected, infinite or together))))
    if len(words) > 2:
        return "expected one value (a number, text, true or false), or a list of texts"
    return f"expected {' or '.join(words)}" if words else None


def _locate_problem(item: dict[str, Any], value: Any) -> _Problem:
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


@functools.cache
def _read_schema() -> dict[str, Any]:
    """Return the JSON schema of space files, which takes milliseconds to build."""
    return Experiment.model_json_schema(by_alias=True)


def _list_siblings(tagged: Loc) -> list[str]:
    """List the names that are allowed where an unknown key is."""
    schema = _read_schema()
    definitions = schema["$defs"]
    if len(tagged) >= 2 and tagged[0] == "space":
        name = _DOMAINS.get(str(tagged[2])) if len(tagged) > 2 else None
        return list(definitions[name]["properties"]) if name else []
    current = schema
    for part in tagged[:-1]:
        current = _enter_schema(current, part)
        reference = current.get("$ref") or next(
            (a["$ref"] for a in current.get("anyOf", []) if "$ref" in a), None
        )
        if reference:
            current = definitions[reference.rsplit("/", 1)[-1]]
    return list(current.get("properties", {}))


def _enter_schema(schema: dict[str, Any], part: str | int) -> dict[str, Any]:
    """The schema of a key, of a list's item, or of the kind that `method` names; of any other name of a
    union's member, the same schema."""
    for candidate in (schema, *schema.get("anyOf", [])):
        kinds = candidate.get("discriminator", {}).get("mapping", {})
        children: dict[str | int, dict[str, Any]] = candidate.get("properties", {})
        if isinstance(part, int) and "items" in candidate:
            children = {**children, part: candidate["items"]}
        elif part in kinds:
            children = {**children, part: {"$ref": kinds[part]}}
        if part in children:
            return children[part]
    return schema
