"""Find the one network in a file of weights that fits, under whatever names training programs put it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tune_swa.text import name_first
from tune_swa.training.network_layout import COUNTER, NetworkLayout, Parts
from tune_swa.training.weights_file import Placeholder

Keys = tuple[Any, ...]
"""Keys of nested dictionaries and indices of lists, as they are."""
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What DataParallel and AveragedModel, torch.compile, and FSDP put into names, at any depth."""
USUAL_KEYS = ("state_dict", "model_state_dict", "model")
"""Where a file has its network, the first one first, if it has several that fit."""
USUAL_PREFIXES = WRAPPERS | {"model", "net"}
AVERAGED = re.compile(r"(^|_)(ema|swa|avg|averaged?|teacher|target|momentum|shadow)(_|$)|^encoder_k$", re.I)
"""Names of averages of the network that is trained."""


class NoNetworkError(Exception):
    """No network in a file fits."""


class SeveralNetworksError(Exception):
    """Several networks in a file fit, and none of them is the obvious one."""


@dataclass(frozen=True)
class FoundNetwork:
    """The network that was taken from a file."""

    place: str
    """Keys and prefix that its names had; empty: none."""
    state: dict[str, Tensor]
    """Its tensors by the network's own names; without a classifier where the file has none that fits."""
    left_out: tuple[str, ...]
    """What else has tensors."""
    others: tuple[str, ...]
    """Places of other networks that fit, with other numbers."""


@dataclass
class _Candidate:
    """Tensors under one prefix, of which one could be the first of the network."""

    keys: Parts
    """Of the dictionaries around it."""
    prefix: Parts
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By the network's own names, if they fit."""
    problems: list[tuple[str, list[str]]] = field(default_factory=list)
    """What is wrong, and with which names."""

    @property
    def place(self) -> str:
        return ".".join((*self.keys, *self.prefix))

    @property
    def parts(self) -> Parts:
        return (*self.keys, *self.prefix)


def find_network(loaded: Any, expected: NetworkLayout, key: str | None = None) -> FoundNetwork:
    """Find the network that fits in what a file holds.

    Of several, `key` is taken; without one the place that is usual, or the only one that is no average.

    Args:
        loaded: nested dictionaries and lists with tensors.
        expected: the network; its classifier may be of any width.
        key: the place of the network, as `FoundNetwork.place` names it.

    Raises:
        NoNetworkError: none fits.
        SeveralNetworksError: several do, and `key` does not choose one of them.
    """
    groups = dict(_list_groups(loaded))
    candidates = [c for keys, table in groups.items() for c in _list_candidates(keys, table, expected)]
    for candidate in candidates:
        _fit_candidate(candidate, groups[candidate.keys], expected)
    fitting = [c for c in candidates if not c.problems]
    if not fitting:
        raise NoNetworkError(_explain_misfit(groups, candidates, expected))
    chosen = _choose_network(fitting) if key is None else _select_network(fitting, key)
    others = [c for c in fitting if c is not chosen and not _are_equal(c.tensors, chosen.tensors)]
    return FoundNetwork(
        chosen.place,
        chosen.tensors,
        _list_left_out(chosen, groups, fitting),
        tuple(c.place for c in others),
    )


def find_models(loaded: Any) -> list[tuple[Keys, str]]:
    """List the keys and classes of the whole models in what a file holds."""
    return [
        (keys, value.source)
        for keys, value in _walk_containers(loaded)
        if isinstance(value, Placeholder)
        and isinstance(value.content, dict)
        and "_modules" in value.content
        and "_parameters" in value.content
    ]


def _walk_containers(loaded: Any) -> Iterator[tuple[Keys, Any]]:
    """Yield dictionaries and placeholders with their keys, the outer ones first; each of them once."""
    waiting: list[tuple[Keys, Any]] = [((), loaded)]
    seen: set[int] = set()
    for keys, value in waiting:  # which grows on the way
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Placeholder):
            yield keys, value
        elif isinstance(value, Mapping):
            yield keys, value
            waiting.extend(((*keys, k), v) for k, v in value.items() if _is_container(v))
        elif isinstance(value, list | tuple):
            waiting.extend(((*keys, i), v) for i, v in enumerate(value) if _is_container(v))


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _list_groups(loaded: Any) -> Iterator[tuple[Parts, dict[str, Tensor]]]:
    """Yield the tensors of each dictionary by their names, with the dictionary's keys."""
    for keys, value in _walk_containers(loaded):
        if isinstance(value, Mapping):
            table = {str(name): t for name, t in value.items() if isinstance(t, Tensor)}
            if table:
                yield tuple(map(str, keys)), table


def _list_candidates(
    keys: Parts, table: Mapping[str, Tensor], expected: NetworkLayout
) -> Iterator[_Candidate]:
    """Yield a candidate for each prefix under which a name could be that of the first tensor."""
    found = dict.fromkeys(
        prefix
        for first in expected.first_names
        for name in table
        if (prefix := _split_prefix(name, first)) is not None
    )
    yield from (_Candidate(keys, prefix) for prefix in found)


def _split_prefix(name: str, last: Parts) -> Parts | None:
    """What is before `last` in a name, wrappers between its parts left aside; None: it ends otherwise."""
    parts = name.split(".")
    for wanted in reversed(last):
        while parts and parts[-1] in WRAPPERS:
            parts.pop()
        if not parts or parts.pop() != wanted:
            return None
    return tuple(parts)


def _fit_candidate(candidate: _Candidate, table: Mapping[str, Tensor], expected: NetworkLayout) -> None:
    """Take the tensors below the prefix, and note what keeps them from being the network."""
    below = _list_below(candidate.prefix, table, expected)
    shapes = expected.list_shapes(below)
    known = [name for name in shapes if name in below]
    candidate.tensors = {name: below[name] for name in known}
    found = (
        # old files come without counters, which torch then takes for 0
        ("lacks", [n for n in shapes if n not in below and not n.endswith(COUNTER)]),
        ("has unknown", [n for n in below if n not in shapes and expected.is_in_body(n)]),
        ("has other shapes for", [n for n in known if below[n].shape != shapes[n]]),
        ("has other types for", [n for n in known if not _is_usable(below[n], expected.state[n])]),
    )
    candidate.problems = [(what, names) for what, names in found if names]


def _list_below(prefix: Parts, table: Mapping[str, Tensor], expected: NetworkLayout) -> dict[str, Tensor]:
    """Tensors below a prefix by the network's own names."""
    found: dict[str, tuple[int, Tensor]] = {}
    for name, tensor in table.items():
        parts = name.split(".")
        if tuple(parts[: len(prefix)]) != prefix:
            continue
        rest = [part for part in parts[len(prefix) :] if part not in WRAPPERS]
        wrapped = len(parts) - len(prefix) - len(rest)
        short = expected.modernise_name(".".join(rest))
        if short not in found or wrapped < found[short][0]:
            found[short] = (wrapped, tensor)
    if expected.first_tensor in found:
        return {name: tensor for name, (_, tensor) in found.items()}
    renamed = {}
    for name, (_, tensor) in found.items():
        first, dot, rest_of_name = name.partition(".")
        renamed[expected.children.get(first, first) + dot + rest_of_name] = tensor
    return renamed


def _is_usable(tensor: Tensor, expected: Tensor) -> bool:
    """Whether a tensor holds the kind of numbers that are expected, and holds them as they are."""
    plain = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_complex()
    return plain and (tensor.is_floating_point() or not expected.is_floating_point())


def _select_network(fitting: Sequence[_Candidate], key: str) -> _Candidate:
    for candidate in fitting:
        if candidate.place == key:
            return candidate
    raise SeveralNetworksError(f"has no network that fits at {key}, but at {_join_places(fitting)}")


def _join_places(candidates: Iterable[_Candidate]) -> str:
    return ", ".join(c.place or '""' for c in candidates)


def _choose_network(fitting: Sequence[_Candidate]) -> _Candidate:
    """The one of several networks that a file is about.

    Raises:
        SeveralNetworksError: it cannot be told.
    """
    usual = [c for c in fitting if set(c.keys) <= set(USUAL_KEYS) and set(c.prefix) <= USUAL_PREFIXES]
    trained = [c for c in fitting if not any(AVERAGED.search(part) for part in c.parts)]
    for group in (usual, trained, fitting):
        first = min(group, key=_rank_keys, default=None)
        if first is None:
            continue
        rivals = [c for c in group if c.keys == first.keys or group is not usual]
        if all(_are_equal(c.tensors, first.tensors) for c in rivals):
            return first
    raise SeveralNetworksError(f"holds {len(fitting)} networks that fit, at {_join_places(fitting)}")


def _rank_keys(candidate: _Candidate) -> tuple[int, ...]:
    return tuple(USUAL_KEYS.index(k) if k in USUAL_KEYS else len(USUAL_KEYS) for k in candidate.keys)


def _are_equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether two networks start a training alike, whatever precision they are stored in."""
    return left.keys() == right.keys() and all(
        tensor is right[name] or torch.equal(tensor.double(), right[name].double())
        for name, tensor in left.items()
    )


def _list_left_out(
    chosen: _Candidate, groups: Mapping[Parts, Mapping[str, Tensor]], fitting: Sequence[_Candidate]
) -> tuple[str, ...]:
    """Name what else has tensors, by the first part that is not the network's."""
    taken = {id(t) for c in fitting for t in c.tensors.values()}
    found: dict[str, None] = {}
    for keys, table in groups.items():
        for name, tensor in table.items():
            parts = (*keys, *name.split("."))
            if id(tensor) in taken or parts[-1] == "n_averaged":
                continue
            common = 0
            while common < min(len(parts), len(chosen.parts)) and parts[common] == chosen.parts[common]:
                common += 1
            found[".".join(parts[: common + 1])] = None
    return tuple(found)


def _explain_misfit(
    groups: Mapping[Parts, Mapping[str, Tensor]],
    candidates: Sequence[_Candidate],
    expected: NetworkLayout,
) -> str:
    """What keeps the closest candidate from fitting, or that there is none."""
    if not groups:
        return "holds no state_dict (names with tensors)"
    closest = max(candidates, key=lambda c: len(c.tensors), default=None)
    if closest is None or len(closest.tensors) < len(expected.state) / 10:  # another kind of network
        largest = max(groups, key=lambda keys: len(groups[keys]))
        closest = _Candidate(largest, ())
        _fit_candidate(closest, groups[largest], expected)
    what, names = closest.problems[0]
    at = f" at {closest.place}" if closest.place else ""
    return f"is not of {expected.title}{at}: it {what} {name_first(names, 3)}"
