"""Alterations of a real journal: fields at any depth get values that none of them should have."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

EXTREMES = (
    "1e12", "1e300", "-1e300", "1e308", "9" * 400, "-1", "0", "2", "0.5", "1e-320", "null", "true", "[]",
    "{}", '""', '"x"',
    r'"a\nerror: b"', r'"\ud800"', r'"\u001b[31m\u0000"', "[[]]", "[1, 2]", '{"a": {}}', "1e999",
)  # fmt: skip
"""As JSON writes them."""
_MARK = "\ue000"


@dataclass(frozen=True)
class Alteration:
    """One changed line of a journal."""

    line: int
    """Counts from 0."""
    where: str
    """Kind of the event, the path of the field, and what it became."""
    text: str
    """The line as it is now."""

    def apply_to(self, lines: list[str]) -> str:
        return "\n".join([*lines[: self.line], self.text, *lines[self.line + 1 :]]) + "\n"


def list_alterations(lines: list[str]) -> Iterator[Alteration]:
    """Every field of the first and the last event of each kind: with each extreme, dropped, and renamed."""
    events = [json.loads(line) for line in lines]
    kinds = [event["event"] for event in events]
    for kind in dict.fromkeys(kinds):
        for line in {kinds.index(kind), len(kinds) - 1 - kinds[::-1].index(kind)}:
            yield Alteration(line, f"{kind} without its fields", json.dumps({"event": kind, "time": 1.0}))
            for path in _list_paths(events[line]):
                name = f"{kind} {'.'.join(map(str, path))}"
                for extreme in EXTREMES:
                    marked = json.dumps(_change(events[line], path, _MARK))
                    text = marked.replace(json.dumps(_MARK), extreme)
                    yield Alteration(line, f"{name}: {extreme[:20]}", text)
                if isinstance(path[-1], str):
                    yield Alteration(line, f"{name} dropped", json.dumps(_change(events[line], path, None)))
                    renamed = _change(events[line], path, None, new_name="a\nerror: \x1b[31mb")
                    yield Alteration(line, f"{name} renamed", json.dumps(renamed))


def draw_alterations(lines: list[str], count: int, seed: int) -> list[Alteration]:
    """So many of them, some of each kind of event."""
    by_kind: dict[str, list[Alteration]] = {}
    for alteration in list_alterations(lines):
        by_kind.setdefault(alteration.where.split()[0], []).append(alteration)
    drawn = random.Random(seed)
    each = -(-count // len(by_kind))
    return [one for found in by_kind.values() for one in drawn.sample(found, min(each, len(found)))]


def _list_paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Of every field, the first item of lists alone."""
    inside = dict(enumerate(value[:1])) if isinstance(value, list) else value
    for key, inner in inside.items() if isinstance(inside, dict) else ():
        yield (*path, key)
        yield from _list_paths(inner, (*path, key))


def _change(event: Any, path: tuple[str | int, ...], value: Any, new_name: str | None = None) -> Any:
    """A copy in which a field has another value; None: it is dropped, or has a new name."""
    changed = json.loads(json.dumps(event))
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    if value is not None:
        inside[path[-1]] = value
        return changed
    old = inside.pop(path[-1])
    if new_name is not None:
        inside[new_name] = old
    return changed
