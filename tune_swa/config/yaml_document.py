"""Parse YAML into plain values, and keep the line that each of them is on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from tune_swa.errors import RequestError

Loc = tuple[str | int, ...]
"""Path of keys and indices to a value."""
MERGE = "<<"
"""The key of YAML 1.1 that takes in the settings of other mappings."""
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
    """A YAML document as plain values, with their places."""

    value: Any
    places: dict[Loc, str]
    """`file:line` of each value, or the option that set it."""
    shared: frozenset[str] = frozenset()
    """Keys of the outermost mapping with values that aliases repeat elsewhere."""


def parse_document(text: str, source: str) -> Document:
    """Parse one YAML document. Duplicate keys, tags of other types and recursion are errors."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            builder = _Builder(loader, source, {})
            value = None if root is None else builder.build_value(root, (), ())
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
    return Document(value, builder.places, builder.find_shared())


class _Builder:
    """Builds plain values from nodes. yaml's own constructor would lose the lines."""

    def __init__(self, loader: _Loader, source: str, places: dict[Loc, str]) -> None:
        self.loader, self.source, self.places, self.count = loader, source, places, 0
        self.users: dict[int, set[str]] = {}
        """Outermost keys below which each node is used."""

    def find_shared(self) -> frozenset[str]:
        return frozenset(key for users in self.users.values() if len(users) > 1 for key in users)

    def build_value(self, node: yaml.Node, loc: Loc, above: tuple[int, ...]) -> Any:
        where = f"{self.source}:{node.start_mark.line + 1}"
        self.places.setdefault(loc, where)
        if loc:
            self.users.setdefault(id(node), set()).add(str(loc[0]))
        above = self._enter_node(node, above)
        if node.tag not in _PLAIN_TAGS:
            raise RequestError(f"{where}: the tag {node.tag} is not allowed; write a plain value")
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, loc, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.build_value(child, (*loc, i), above) for i, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._build_scalar(node, where)

    def _enter_node(self, node: yaml.Node, above: tuple[int, ...]) -> tuple[int, ...]:
        """Count a node, and add it to those above."""
        where = f"{self.source}:{node.start_mark.line + 1}"
        self.count += 1
        if id(node) in above:
            raise RequestError(f"{where}: an alias repeats itself; write the values out")
        if self.count > MAX_NODES:
            raise RequestError(f"{where}: more than {MAX_NODES:,} values; write out what aliases multiply")
        return (*above, id(node))

    def _build_mapping(self, node: yaml.MappingNode, loc: Loc, above: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, (line, value_node) in self._collect_items(node, loc, above).items():
            self.places[(*loc, key)] = f"{self.source}:{line}"
            result[key] = self.build_value(value_node, (*loc, key), above)
        return result

    def _collect_items(
        self, node: yaml.MappingNode, loc: Loc, above: tuple[int, ...]
    ) -> dict[str, tuple[int, yaml.Node]]:
        """Lines and values of a mapping by key: what it merges (`<<: *name`) first, unless it has the key."""
        merged: dict[str, tuple[int, yaml.Node]] = {}
        own: dict[str, tuple[int, yaml.Node]] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            where = f"{self.source}:{line}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise RequestError(f"{where}: a key must be a word")
            key = str(key_node.value)
            if key == MERGE and key_node.style is None:
                several = isinstance(value_node, yaml.SequenceNode)
                for other in value_node.value if several else [value_node]:
                    if not isinstance(other, yaml.MappingNode):
                        raise RequestError(
                            f"{where}: << takes settings, such as <<: *name, or a list of them"
                        )
                    found = self._collect_items(other, loc, self._enter_node(other, above))
                    merged = {**found, **merged}
                continue
            if key in own:
                raise RequestError(f"{where}: {'.'.join(map(str, (*loc, key)))} is listed twice; keep one")
            own[key] = (line, value_node)
        return {**merged, **own}

    def _build_scalar(self, node: yaml.ScalarNode, where: str) -> Any:
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
            raise RequestError(f"{where}: {quote_value(text)} is not a number") from None
        return text


def quote_value(value: Any) -> str:
    """Return a value as Python writes it, shortened to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
